"""Exports that appear complete or not at all, and the frames they may carry along."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from app.formats.base import ExportOptions, FormatError
from app.project.project import Project
from app.project.video_link import VideoMatch, compare_video, find_video
from qcore.video import FrameSource, VideoError, open_source

MARKER = "qminisam2-export.json"
"""Lies in every exported folder: where it came from, and the sign that a later export may replace it."""
_JPEG_QUALITY = 95


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A sibling to write to; takes the place of ``path`` when the block ends well, and is removed otherwise.

    Raises:
        FormatError: the place cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        if path.is_dir():
            raise FormatError(f"“{path.name}” is a folder.")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        _remove(temporary)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A sibling folder to fill; becomes ``path`` when the block ends well, and is removed otherwise.

    Raises:
        FormatError: the place cannot be written, or holds something other than an earlier export.
    """
    temporary, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    try:
        if path.exists() and not path.is_dir():
            raise FormatError(f"“{path.name}” is a file.")
        if path.is_dir() and any(path.iterdir()) and not (path / MARKER).is_file():
            raise FormatError(f"The folder “{path.name}” holds other files, so choose a new or empty one.")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        temporary.mkdir()
        yield temporary
        if path.is_dir():
            _remove(old)
            path.replace(old)
        temporary.replace(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.replace(path)
        raise _cannot_write(path, error) from error
    finally:
        _remove(temporary)
        if path.exists():
            _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:  # its folder is gone or read-only, and then it was never written
            return


def _cannot_write(path: Path, error: OSError) -> FormatError:
    reason = (error.strerror or "unknown reason").lower()
    return FormatError(f"“{path.name}” cannot be written: {reason}.")


def write_json(path: Path, value: Any) -> None:
    """Write JSON as ASCII, so that every reader takes it."""
    path.write_text(json.dumps(value, allow_nan=False), encoding="ascii")


def write_png(
    path: Path, image_hw: npt.NDArray[np.uint8], palette: bytes | None = None, binary: bool = False
) -> None:
    """Write an 8-bit PNG: of palette indices, of 0 and 1 as one bit (``binary``), or of grey values."""
    image = Image.fromarray(image_hw)
    if palette is not None:
        image.putpalette(palette)
    if binary:
        image = Image.fromarray(image_hw != 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")


def write_jpeg(path: Path, frame_hwc: npt.NDArray[np.uint8]) -> None:
    """Write an RGB frame as JPEG.

    Raises:
        OSError: it could not be written.
    """
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(frame_hwc, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not done:
        raise OSError(0, "the frame could not be encoded")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


@contextmanager
def frames_of(project: Project, options: ExportOptions) -> Iterator[FrameSource]:
    """The project's frames, for an export that needs them.

    Raises:
        FormatError: the video is gone, changed or unreadable.
    """
    own: FrameSource | None = None
    source = options.source
    try:
        if source is None:
            place = find_video(project)
            if place is None:
                raise FormatError(
                    f"The video “{Path(project.video.path).name}” is missing and has to be located."
                )
            source = own = open_source(place)
        if compare_video(project, source) is VideoMatch.UNFIT or len(source) < project.video.frame_count:
            raise FormatError(f"“{source.path.name}” is not the video of this project.")
        yield source
    except VideoError as error:
        raise FormatError(str(error)) from error
    finally:
        if own is not None:
            own.close()


def folder_name(text: str) -> str:
    """A name that every file system takes, from a video's name."""
    cleaned = re.sub(r"[^\w.\- ]+", "_", text).strip(" .")
    return cleaned[:100] or "video"
