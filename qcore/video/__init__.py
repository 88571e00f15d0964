"""Frames by number: video files and folders of images behind one interface. Knows no models, no masks."""

from __future__ import annotations

from pathlib import Path

from qcore.video.folder import IMAGE_SUFFIXES, FolderSource
from qcore.video.source import DEFAULT_CACHE_BYTES, FrameSource, VideoError
from qcore.video.videofile import VIDEO_SUFFIXES, VideoFileSource

__all__ = [
    "DEFAULT_CACHE_BYTES",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "FrameSource",
    "VideoError",
    "open_source",
]


def open_source(path: str | Path, cache_bytes: int = DEFAULT_CACHE_BYTES) -> FrameSource:
    """Open a video file, a folder of images, or one image.

    Args:
        path: a video (mp4, mov, mkv, webm, avi, ts, ...; judged by content, not by name), a folder of
            jpg/png/webp/bmp/tif images of one size taken in natural order of their names, or one such image.
        cache_bytes: upper bound for decoded frames kept in memory; the frame in use is always kept.

    Raises:
        VideoError: it cannot be read; the message is one sentence for the user.
    """
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            return FolderSource(place, cache_bytes)
        if not place.exists():
            raise VideoError(f"There is no file or folder {str(place)!r}.")
        if not place.is_file():
            raise VideoError(f"{str(place)!r} is neither a file nor a folder.")
        if place.stat().st_size == 0:
            raise VideoError(f"{place.name!r} is empty (0 bytes).")
        if place.suffix.lower() in IMAGE_SUFFIXES:
            return FolderSource(place, cache_bytes)
        return VideoFileSource(place, cache_bytes)
    except (OSError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{place.name!r} cannot be read: {_reason(error)}.") from error


def _reason(error: OSError | ValueError) -> str:
    text = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")
