"""What every frame source offers, and the bounded cache that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from qcore.masks import MAX_SIDE

Frame = npt.NDArray[np.uint8]

DEFAULT_CACHE_BYTES = 256 << 20
MAX_PIXELS = 1 << 26
"""Largest frame accepted, in pixels (67 million; 8K video has 33 million)."""
MAX_FRAMES = 1 << 22
"""Longest clip accepted, in frames (38 hours at 30 fps): bounds the index of a hostile file."""

Value = TypeVar("Value")


class VideoError(ValueError):
    """A video or image folder cannot be used; the message is one sentence for the user."""


class FrameSource(ABC):
    """The frames of one clip by number, in presentation order.

    ``source[i]`` is a read-only uint8 array (height, width, 3), RGB, upright. Frame ``i`` is the same picture
    however it is reached. Negative indices count from the end, as in a list.

    One thread at a time may use a source; another thread takes its own from `reopen`.
    """

    def __init__(self, path: Path, size: tuple[int, int], timestamps: npt.NDArray[np.float64], fps: float):
        self._path = path
        self._size = size
        self._timestamps = timestamps
        self._timestamps.flags.writeable = False
        self._fps = fps
        self._closed = False

    @property
    def path(self) -> Path:
        """The file or folder that was opened."""
        return self._path

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every frame in pixels, after rotation to upright."""
        return self._size

    @property
    def height(self) -> int:
        """Height of every frame in pixels."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Width of every frame in pixels."""
        return self._size[1]

    @property
    def fps(self) -> float:
        """Frames a second, > 0; the average where the rate varies."""
        return self._fps

    @property
    def timestamps(self) -> npt.NDArray[np.float64]:
        """When each frame is shown, float64 (n,), seconds from the first frame, not decreasing."""
        return self._timestamps

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal identity of the content, independent of where it lies; computed without decoding."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Bytes of the file, or of all images of the folder."""

    def frame_name(self, index: int) -> str:
        """A file name without suffix for frame ``index``: the image's own, or five digits for video."""
        return f"{self._checked(index):05d}"

    @abstractmethod
    def reopen(self, cache_bytes: int | None = None) -> FrameSource:
        """A second, independent reader of the same clip for another thread; shares the index."""

    @abstractmethod
    def _read(self, index: int) -> Frame:
        """Frame ``index`` (0 <= index < len), from the cache or decoded."""

    def close(self) -> None:
        """Let go of the file and the cached frames; closing twice is harmless."""
        self._closed = True

    def __len__(self) -> int:
        return len(self._timestamps)

    def __getitem__(self, index: int) -> Frame:
        if self._closed:
            raise VideoError(f"{self._path.name!r} is closed.")
        return self._read(self._checked(index))

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self)):
            yield self[index]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, index: int) -> int:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"frame {index} of a clip with {len(self)} frames")
        return position


class ByteBoundedCache(Generic[Value]):
    """Least recently used values, dropped when their bytes exceed the bound; the newest always stays."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = max(0, int(limit_bytes))
        self.used_bytes = 0
        self._entries: OrderedDict[int, tuple[Value, int]] = OrderedDict()

    def get(self, key: int) -> Value | None:
        """The value, now the most recently used; None when it is not held."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: int, value: Value, size_bytes: int) -> None:
        """Hold a value, replacing the one under the same key."""
        old = self._entries.pop(key, None)
        if old is not None:
            self.used_bytes -= old[1]
        self._entries[key] = (value, size_bytes)
        self.used_bytes += size_bytes
        while self.used_bytes > self.limit_bytes and len(self._entries) > 1:
            _, (_, dropped_bytes) = self._entries.popitem(last=False)
            self.used_bytes -= dropped_bytes

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: int) -> bool:
        return key in self._entries


def check_size(name: str, height: int, width: int) -> None:
    """Refuse frame sizes that no real clip has.

    Raises:
        VideoError: a side is not positive, or the frame is too large to work with.
    """
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE) or height * width > MAX_PIXELS:
        raise VideoError(f"{name!r} has frames of {width} x {height} pixels, which cannot be handled.")


def check_count(name: str, count: int) -> None:
    """Refuse clips with more frames than an index may hold.

    Raises:
        VideoError: there are too many.
    """
    if count > MAX_FRAMES:
        raise VideoError(f"{name!r} has more than {MAX_FRAMES} frames, which cannot be handled.")


def frozen(frame: npt.NDArray[np.uint8]) -> Frame:
    """The frame as a contiguous array that nobody can write to: the cache hands out the same one again."""
    whole = np.ascontiguousarray(frame)
    whole.flags.writeable = False
    return whole
