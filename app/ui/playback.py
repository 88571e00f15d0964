"""Plays the clip at its own speed: the clock decides the frame, late frames are skipped."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QObject, Qt, QTimer, Signal

TICK_MS = 8


def frame_at(timestamps_s: npt.NDArray[np.float64], seconds: float) -> int:
    """The frame shown at a time of the clip, for timestamps in ascending order."""
    return int(np.clip(np.searchsorted(timestamps_s, seconds, side="right") - 1, 0, len(timestamps_s) - 1))


class Playback(QObject):
    """Moves the current frame while playing; the next frame is only asked for when the last one was shown."""

    frame_due = Signal(int)
    playing_changed = Signal(bool)

    def __init__(self, parent: QObject | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(parent)
        self._clock = clock
        self._times_s: npt.NDArray[np.float64] = np.zeros(0)
        self._low = self._high = 0
        self._loop = True
        self._speed = 1.0
        self._frame = 0
        self._began = self._began_at_s = 0.0
        self._waiting = False
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self.tick)

    def set_clip(self, timestamps_s: npt.NDArray[np.float64]) -> None:
        """A new clip; stops."""
        self.stop()
        self._times_s = timestamps_s
        self.set_range(0, max(0, len(timestamps_s) - 1))

    def set_range(self, low: int, high: int) -> None:
        """Frames to play, both included."""
        self._low, self._high = low, high

    def set_loop(self, loop: bool) -> None:
        """Start again at the end."""
        self._loop = loop

    @property
    def speed(self) -> float:
        """1 is the clip's own."""
        return self._speed

    def set_speed(self, speed: float) -> None:
        """Change the speed, also while playing."""
        self._speed = speed
        if self.is_playing:
            self._restart(self._frame)

    @property
    def is_playing(self) -> bool:
        """True between `start` and `stop`."""
        return self._timer.isActive()

    def start(self, frame: int) -> None:
        """Play from a frame; from the start of the range when the frame is its end or outside."""
        if len(self._times_s) < 2 or self._low >= self._high:
            return
        if not self._low <= frame < self._high:
            frame = self._low
        self._waiting = False
        self._restart(frame)
        self._timer.start()
        self.playing_changed.emit(True)

    def stop(self) -> None:
        """Hold at the present frame."""
        if self.is_playing:
            self._timer.stop()
            self.playing_changed.emit(False)

    def frame_shown(self) -> None:
        """The frame last asked for is on the screen: the next may come."""
        self._waiting = False

    def tick(self) -> None:
        """Ask for the frame that is due now."""
        if self._waiting:
            return
        elapsed = (self._clock() - self._began) * self._speed
        frame = frame_at(self._times_s, self._began_at_s + elapsed)
        end_s = self._times_s[self._high] + 1.0 / max(1.0, self._rate())
        if self._began_at_s + elapsed >= end_s:
            if not self._loop:
                self._go(self._high)
                self.stop()
                return
            self._restart(self._low)
            self._frame, frame = -1, self._low
        self._go(min(frame, self._high))

    def _go(self, frame: int) -> None:
        if frame != self._frame:
            self._frame = frame
            self._waiting = True
            self.frame_due.emit(frame)

    def _restart(self, frame: int) -> None:
        self._frame = frame
        self._began = self._clock()
        self._began_at_s = float(self._times_s[frame])

    def _rate(self) -> float:
        span = float(self._times_s[-1] - self._times_s[0])
        return (len(self._times_s) - 1) / span if span > 0 else 25.0
