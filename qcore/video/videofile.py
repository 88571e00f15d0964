"""A video file as a clip: frames found through `packets.PacketIndex`, decoded from the keyframe before."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from qcore.video.packets import PacketIndex, PacketReader, build_index
from qcore.video.source import (
    DEFAULT_CACHE_BYTES,
    ByteBoundedCache,
    Frame,
    FrameSource,
    VideoError,
    check_size,
    frozen,
)

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".flv", ".wmv"}
    | {".3gp", ".ogv", ".gif", ".mxf"}
)
"""Usual suffixes, for file dialogs; what counts on opening is the content."""

_SAMPLED_BYTES = 1 << 16
_WORTH_WALKING = 8
"""Reading on to a keyframe this many packets ahead is cheaper than seeking to it."""


class VideoFileSource(FrameSource):
    """Frames of a video file, upright, as a sequential decode of the whole file yields them.

    Of the pictures decoded on the way to the requested one, as many as a quarter of the cache holds are kept
    as the decoder made them, so that stepping backwards does not decode the same pictures again and again.
    A picture that the file is too damaged to yield is replaced by the one shown before it, so that frame
    numbers keep their meaning.
    """

    def __init__(
        self,
        path: Path,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        _twin: VideoFileSource | None = None,
    ):
        """Open and index the file, and decode its first frame.

        Raises:
            VideoError: not a video, no pictures, an unsupported codec, or an impossible frame size.
        """
        self._reader = PacketReader(path)
        self._cache: ByteBoundedCache[Any] = ByteBoundedCache(cache_bytes)
        self._reformatter = VideoReformatter()
        self._last_frame = -1
        self._run_start = 0
        self._substitutes: dict[int, int] = {}
        self._useless: set[int] = set()
        try:
            if _twin is not None:
                self._index: PacketIndex = _twin._index
                self._reader.index = self._index
                self._turn: tuple[int, bool] = _twin._turn
                self._coded_size: tuple[int, int] = _twin._coded_size
                self._fingerprint: str | None = _twin._fingerprint
                self._bytes: int = _twin._bytes
                super().__init__(path, _twin.size, _twin.timestamps, _twin.fps)
                return
            self._index = build_index(self._reader)
            self._reader.index = self._index
            self._bytes = path.stat().st_size
            self._fingerprint = None
            first = self._picture(0, len(self._index.frame_tags))
            check_size(path.name, first.height, first.width)
            self._coded_size = (first.height, first.width)
            self._turn = _turn_of(first)
            size = self._coded_size[::-1] if self._turn[0] % 2 else self._coded_size
            super().__init__(path, size, self._index.timestamps, self._index.fps)
        except BaseException:
            self._reader.close()
            raise

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file's size, its first and last 64 KiB, the number of frames and their times."""
        if self._fingerprint is None:
            digest = hashlib.sha256(f"video-file-1 {self._bytes} {len(self)}".encode())
            digest.update(np.round(self._index.timestamps * 1e6).astype("<i8").tobytes())
            try:
                with self._path.open("rb") as stream:
                    digest.update(stream.read(_SAMPLED_BYTES))
                    stream.seek(max(0, self._bytes - _SAMPLED_BYTES))
                    digest.update(stream.read(_SAMPLED_BYTES))
            except OSError as error:
                raise VideoError(f"{self._path.name!r} cannot be read any more.") from error
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return self._bytes

    def reopen(self, cache_bytes: int | None = None) -> VideoFileSource:
        """A second decoder of the same file with its own cache."""
        limit = self._cache.limit_bytes if cache_bytes is None else cache_bytes
        return VideoFileSource(self._path, limit, self)

    def close(self) -> None:
        """Close the file and drop the cached frames."""
        super().close()
        self._cache.clear()
        self._reader.close()

    def _read(self, index: int) -> Frame:
        held = self._cache.get(index)
        if isinstance(held, np.ndarray):
            return held
        picture = held if held is not None else self._picture(index, len(self))
        frame = frozen(self._upright_rgb(picture))
        self._cache.put(index, frame, frame.nbytes)
        return frame

    def _upright_rgb(self, picture: Any) -> npt.NDArray[np.uint8]:
        height, width = self._coded_size
        try:
            converted = self._reformatter.reformat(
                picture, width=width, height=height, format="rgb24", threads=1
            )
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"A frame of {self.path.name!r} cannot be converted to RGB.") from error
        quarter_turns, mirrored = self._turn
        rgb: npt.NDArray[np.uint8] = np.rot90(converted.to_ndarray(), quarter_turns)
        return rgb[:, ::-1] if mirrored else rgb

    def _picture(self, frame: int, count: int) -> Any:
        """Decode frame ``frame`` of ``count``, reading on where that is shorter than seeking."""
        if frame in self._substitutes:
            return self._picture_or_cached(self._substitutes[frame], count)
        start = self._index.start_tags(frame, self._useless)[0]
        if self._can_walk_to(frame, start):
            picture, _ = self._walk(frame)
            if picture is not None:
                return picture
        picture, before = self._seek_and_walk(frame)
        if picture is not None:
            return picture
        if before < 0:
            raise VideoError(f"Frame {frame} of {self._reader.path.name!r} is damaged and cannot be decoded.")
        log.warning("%s: frame %d is damaged; showing frame %d instead", self._reader.path, frame, before)
        self._substitutes[frame] = before
        return self._picture_or_cached(before, count)

    def _seek_and_walk(self, frame: int) -> tuple[Any, int]:
        """Decode from the keyframe before, then from earlier ones, at last from the start of the file."""
        tried: set[int] = set()
        before = -1
        while True:
            starts = self._index.start_tags(frame, self._useless)
            start = next((tag for tag in starts if tag not in tried), None)
            if start is None:
                return None, before
            tried.add(start)
            self._reader.start(start)
            self._run_start = start
            self._last_frame = -1
            picture, before = self._walk(frame, start)
            if picture is not None:
                return picture, before

    def _picture_or_cached(self, frame: int, count: int) -> Any:
        held = self._cache.get(frame)
        return held if held is not None and not isinstance(held, np.ndarray) else self._picture(frame, count)

    def _can_walk_to(self, frame: int, start: int) -> bool:
        return 0 <= self._last_frame < frame and start <= self._reader.fed + _WORTH_WALKING

    def _walk(self, frame: int, start: int | None = None) -> tuple[Any, int]:
        """Decode until ``frame`` is out or passed: (picture or None, last frame seen before it or -1).

        ``start`` is the tag where decoding has just begun. Pictures shown before its own refer to some that
        were not decoded: they are ignored. Where its own picture does not come out first, it was no place to
        start (streams that refresh gradually mark such): nothing that follows is exact.
        """
        before = -1
        found: Any = None
        first_rank = -1 if start is None else int(self._index.rank[start])
        must_come_first = start if start and self._index.frame_of_tag[start] >= 0 else None
        while found is None:
            pictures = self._reader.advance()
            if pictures is None:
                self._last_frame = -1
                return None, before
            passed = False
            for tag, picture in pictures:
                known = 0 <= tag < len(self._index.frame_of_tag)
                position = int(self._index.frame_of_tag[tag]) if known else -1
                if position < 0 or self._index.rank[tag] < first_rank:
                    continue
                if must_come_first is not None and tag != must_come_first:
                    self._useless.add(must_come_first)
                    return None, -1
                must_come_first = None
                self._last_frame = max(self._last_frame, position)
                if picture.is_corrupt and self._run_start:
                    continue  # what is patched into a torn picture depends on what was decoded before it
                if position == frame:
                    found = picture
                elif position < frame:
                    before = max(before, position)
                else:
                    passed = True
                self._keep(position, picture, frame)
            if passed and found is None:
                return None, before
        return found, before

    def _keep(self, position: int, picture: Any, wanted: int) -> None:
        if position in self._cache or position == wanted:
            return
        size_bytes = sum(plane.buffer_size for plane in picture.planes)
        if abs(wanted - position) * size_bytes <= self._cache.limit_bytes // 4:
            self._cache.put(position, picture, size_bytes)


def _turn_of(picture: Any) -> tuple[int, bool]:
    """Quarter turns counter-clockwise, then whether to mirror left-right, that make the picture upright."""
    matrix = None
    for data in picture.side_data:
        if data.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(data), "<i4")[:9]
    if matrix is None or len(matrix) < 9:
        return 0, False
    a, b, c, d = (int(np.sign(v)) if abs(int(v)) > 1 << 14 else 0 for v in matrix[[0, 1, 3, 4]])
    return _TURNS.get((a, b, c, d), (0, False))


_TURNS = {
    # x' = a x + c y, y' = b x + d y (y down) -> turns counter-clockwise, then mirror
    (1, 0, 0, 1): (0, False),
    (0, 1, -1, 0): (3, False),
    (-1, 0, 0, -1): (2, False),
    (0, -1, 1, 0): (1, False),
    (-1, 0, 0, 1): (0, True),
    (1, 0, 0, -1): (2, True),
    (0, 1, 1, 0): (3, True),
    (0, -1, -1, 0): (1, True),
}
