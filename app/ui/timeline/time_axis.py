"""Frames along the x axis: pure arithmetic for zoom, scroll and the ruler's ticks, no Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MAX_PX_PER_FRAME = 40.0
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Which frames a stretch of pixels shows; a frame is a cell from its left edge to the next one's."""

    frame_count: int
    width: float
    """Of the stretch, in logical pixels."""
    px_per_frame: float = 1.0
    first: float = 0.0
    """Frame (with fraction) at the left edge."""

    @property
    def fit_px_per_frame(self) -> float:
        """The zoom that shows the whole clip."""
        return min(self.width / max(self.frame_count, 1), MAX_PX_PER_FRAME)

    @property
    def visible_frames(self) -> float:
        """How many frames the stretch has room for."""
        return self.width / self.px_per_frame

    def x_of(self, frame: float) -> float:
        """Left edge of a frame's cell, from the stretch's left end."""
        return (frame - self.first) * self.px_per_frame

    def center_of(self, frame: float) -> float:
        """Middle of a frame's cell."""
        return self.x_of(frame + 0.5)

    def frame_at(self, x: float) -> int:
        """The frame at a position, kept inside the clip."""
        frame = math.floor(self.first + x / self.px_per_frame)
        return min(max(frame, 0), max(self.frame_count - 1, 0))

    def visible_range(self) -> tuple[int, int]:
        """Half-open range of frames at least partly in view."""
        start = max(math.floor(self.first), 0)
        stop = min(math.ceil(self.first + self.visible_frames), self.frame_count)
        return start, max(stop, start)

    def fitted(self) -> TimeAxis:
        """The whole clip in view."""
        return replace(self, px_per_frame=self.fit_px_per_frame, first=0.0)

    def zoomed(self, factor: float, at_x: float) -> TimeAxis:
        """Scaled, with the frame under ``at_x`` staying there where the ends of the clip allow it."""
        px = min(max(self.px_per_frame * factor, self.fit_px_per_frame), MAX_PX_PER_FRAME)
        first = self.first + at_x / self.px_per_frame - at_x / px
        return replace(self, px_per_frame=px, first=first).bounded()

    def scrolled(self, frames: float) -> TimeAxis:
        """Moved right along the clip."""
        return replace(self, first=self.first + frames).bounded()

    def showing(self, frame: int) -> TimeAxis:
        """Scrolled by a page, and only if needed, so that a frame is in view."""
        if self.first <= frame and frame + 1 <= self.first + self.visible_frames:
            return self
        margin = min(self.visible_frames * 0.1, max(self.visible_frames - 1, 0.0))
        if frame < self.first and frame > self.first - self.visible_frames * 0.5:
            first = frame + 1 + margin - self.visible_frames  # going backward: leave room in front
        else:
            first = frame - margin
        return replace(self, first=min(first, frame)).bounded()

    def resized(self, width: float) -> TimeAxis:
        """For another width: a clip that was wholly in view stays so."""
        was_fitted = self.px_per_frame <= self.fit_px_per_frame * (1 + 1e-6)
        axis = replace(self, width=max(width, 1.0))
        if was_fitted or axis.px_per_frame < axis.fit_px_per_frame:
            return axis.fitted()
        return axis.bounded()

    def bounded(self) -> TimeAxis:
        """Scrolled back so that no more than the clip is shown."""
        last = max(self.frame_count - self.visible_frames, 0.0)
        return replace(self, first=min(max(self.first, 0.0), last))


@dataclass(frozen=True, slots=True)
class Tick:
    """One line of the ruler."""

    frame: int
    is_major: bool


def ticks(axis: TimeAxis, min_spacing: float = 64.0) -> list[Tick]:
    """Ruler lines in view: major ones (labelled) at least ``min_spacing`` pixels apart."""
    major = next((step for step in _STEPS if step * axis.px_per_frame >= min_spacing), _STEPS[-1])
    divisor = 5 if str(major)[0] in "15" else 4
    minor = major // divisor if major % divisor == 0 else 1
    if minor * axis.px_per_frame < 5:
        minor = major
    start, stop = axis.visible_range()
    first = start - start % minor
    return [Tick(frame, frame % major == 0) for frame in range(first, stop, minor)]


def format_time(frame: int, fps: float) -> str:
    """Time of a frame as ``mm:ss.cc`` (or ``h:mm:ss.cc``)."""
    seconds = frame / fps if fps > 0 else 0.0
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{rest // 100:02d}.{rest % 100:02d}"
    return f"{hours}:{text}" if hours else text


def frames_near(frames: list[int], axis: TimeAxis, x: float, reach: float) -> int | None:
    """The frame of a list whose cell's middle is nearest to x, within reach; None when there is none."""
    best = min(frames, key=lambda frame: abs(axis.center_of(frame) - x), default=None)
    if best is None or abs(axis.center_of(best) - x) > reach:
        return None
    return best
