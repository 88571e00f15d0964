"""What the pointer is doing between press and release: small records, no Qt, no drawing."""

from __future__ import annotations

from dataclasses import dataclass

from app.ui.canvas.brush import StrokeBuilder
from app.ui.canvas.hit_test import Box, Handle, PointHit, dragged_box, ordered_box

DRAG_FROM = 5.0
"""A press that moves less (logical pixels) is a click."""


@dataclass(slots=True)
class ClickGesture:
    """A button went down; a click so far."""

    widget_xy: tuple[float, float]
    video_xy: tuple[float, float]
    label: int
    may_become_box: bool
    picks: bool = False
    """Selects the object under it instead of adding a point."""
    on_point: PointHit | None = None
    """The click's disc under it, which it takes away."""

    def has_moved(self, x: float, y: float) -> bool:
        """True when the pointer at (x, y), in widget pixels, is too far for a click."""
        return (x - self.widget_xy[0]) ** 2 + (y - self.widget_xy[1]) ** 2 >= DRAG_FROM**2


@dataclass(slots=True)
class BoxGesture:
    """A new box, from its anchor to the pointer (video pixels)."""

    anchor_xy: tuple[float, float]
    end_xy: tuple[float, float]

    @property
    def box_xyxy(self) -> Box:
        """The box as it is now."""
        return ordered_box(*self.anchor_xy, *self.end_xy)


@dataclass(slots=True)
class HandleGesture:
    """A known box whose handle is dragged."""

    object_id: int
    handle: Handle
    original: Box
    box_xyxy: Box

    def move(self, x: float, y: float) -> None:
        """Pull the handle to a video position."""
        self.box_xyxy = dragged_box(self.original, self.handle, x, y)


@dataclass(slots=True)
class StrokeGesture:
    """Brush or eraser at work."""

    builder: StrokeBuilder
    radius: float


@dataclass(slots=True)
class PanGesture:
    """The picture follows the pointer."""

    last_xy: tuple[float, float]
    start_xy: tuple[float, float]
    with_space: bool = False
    picks: bool = False
    """A press without a movement selects the object under it."""
    moved: bool = False


Gesture = ClickGesture | BoxGesture | HandleGesture | StrokeGesture | PanGesture
