"""Where the user is: frame, selected objects, range, playing. No widget keeps its own copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QObject, Signal


class Workspace(QObject):
    """Typed, observable state shared by the controllers; reset with every video."""

    frame_changed = Signal(int)
    selection_changed = Signal()
    range_changed = Signal()
    clip_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.timestamps_s: npt.NDArray[np.float64] = np.zeros(0)
        self.fps = 0.0
        self._frame = 0
        self._selection: tuple[int, ...] = ()
        self._active: int | None = None
        self._in: int | None = None
        self._out: int | None = None

    @property
    def frame_count(self) -> int:
        """Frames of the clip; 0 without one."""
        return len(self.timestamps_s)

    @property
    def has_clip(self) -> bool:
        """True while a video is open."""
        return self.frame_count > 0

    def set_clip(self, timestamps_s: npt.NDArray[np.float64], fps: float) -> None:
        """A new clip, or none: everything starts over."""
        self.timestamps_s = timestamps_s
        self.fps = fps
        self._frame = 0
        self._selection, self._active = (), None
        self._in = self._out = None
        self.clip_changed.emit()
        self.selection_changed.emit()
        self.range_changed.emit()
        self.frame_changed.emit(0)

    @property
    def frame(self) -> int:
        """The current frame."""
        return self._frame

    def go_to(self, frame: int) -> None:
        """Make a frame the current one; clipped to the clip."""
        frame = max(0, min(frame, self.frame_count - 1))
        if self.has_clip and frame != self._frame:
            self._frame = frame
            self.frame_changed.emit(frame)

    def seconds(self, frame: int) -> float:
        """When a frame is shown."""
        return float(self.timestamps_s[frame]) if 0 <= frame < self.frame_count else 0.0

    @property
    def selection(self) -> tuple[int, ...]:
        """Selected objects."""
        return self._selection

    @property
    def active(self) -> int | None:
        """The object that clicks go to; one of the selection."""
        return self._active

    def select(self, object_ids: Sequence[int], active: int | None = None) -> None:
        """Select objects; ``active`` defaults to the last of them."""
        chosen = tuple(dict.fromkeys(object_ids))
        if active is None or active not in chosen:
            active = chosen[-1] if chosen else None
        if (chosen, active) != (self._selection, self._active):
            self._selection, self._active = chosen, active
            self.selection_changed.emit()

    @property
    def marks(self) -> tuple[int | None, int | None]:
        """In and out markers as set."""
        return self._in, self._out

    @property
    def span(self) -> tuple[int, int]:
        """First and last frame of the range, the whole clip without markers."""
        low = 0 if self._in is None else self._in
        high = self.frame_count - 1 if self._out is None else self._out
        return low, high

    def set_range(self, low: int | None, high: int | None) -> None:
        """Set the markers; the wrong way round, the older one gives way."""
        if low is not None and high is not None and low > high:
            if low != self._in:
                high = None
            else:
                low = None
        if (low, high) != (self._in, self._out):
            self._in, self._out = low, high
            self.range_changed.emit()
