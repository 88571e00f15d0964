"""What lies under the pointer: pure functions over marks and masks with frozen results, no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.ui.canvas.view_model import MaskLayer, PromptMark
from app.ui.canvas.view_transform import ViewTransform

Box = tuple[float, float, float, float]


class Handle(StrEnum):
    """A part of a box that can be dragged, by compass direction."""

    NW = "nw"
    N = "n"
    NE = "ne"
    E = "e"
    SE = "se"
    S = "s"
    SW = "sw"
    W = "w"


@dataclass(frozen=True, slots=True)
class PointHit:
    """A click's disc."""

    object_id: int
    index: int
    """Position in the mark's points."""


@dataclass(frozen=True, slots=True)
class BoxHit:
    """A handle or edge of a box."""

    object_id: int
    handle: Handle


Hit = PointHit | BoxHit

POINT_REACH = 9.0
HANDLE_REACH = 7.0
EDGE_REACH = 4.0


def find_mark(
    marks: Sequence[PromptMark],
    transform: ViewTransform,
    widget_x: float,
    widget_y: float,
    active_object: int | None = None,
) -> Hit | None:
    """The mark under a widget position; discs lie over boxes, later marks over earlier ones.

    Only the active object's marks react; with ``active_object`` None all do.
    """
    candidates = [m for m in marks if active_object is None or m.object_id == active_object]
    for mark in reversed(candidates):
        for index in range(len(mark.points_xy) - 1, -1, -1):
            x, y = transform.to_widget(*mark.points_xy[index])
            if (x - widget_x) ** 2 + (y - widget_y) ** 2 <= POINT_REACH**2:
                return PointHit(mark.object_id, index)
    for mark in reversed(candidates):
        if mark.box_xyxy is not None:
            handle = find_handle(mark.box_xyxy, transform, widget_x, widget_y)
            if handle is not None:
                return BoxHit(mark.object_id, handle)
    return None


def find_handle(box: Box, transform: ViewTransform, widget_x: float, widget_y: float) -> Handle | None:
    """The part of a box (video pixels) under a widget position: corners first, then edges."""
    x0, y0 = transform.to_widget(box[0], box[1])
    x1, y1 = transform.to_widget(box[2], box[3])
    corners = {Handle.NW: (x0, y0), Handle.NE: (x1, y0), Handle.SE: (x1, y1), Handle.SW: (x0, y1)}
    for handle, (x, y) in corners.items():
        if max(abs(x - widget_x), abs(y - widget_y)) <= HANDLE_REACH:
            return handle
    if y0 <= widget_y <= y1:
        if abs(widget_x - x0) <= EDGE_REACH:
            return Handle.W
        if abs(widget_x - x1) <= EDGE_REACH:
            return Handle.E
    if x0 <= widget_x <= x1:
        if abs(widget_y - y0) <= EDGE_REACH:
            return Handle.N
        if abs(widget_y - y1) <= EDGE_REACH:
            return Handle.S
    return None


def dragged_box(box: Box, handle: Handle, x: float, y: float) -> Box:
    """The box with one handle moved to (x, y) in video pixels; corners may cross, the result is ordered."""
    x0, y0, x1, y1 = box
    if "w" in handle:
        x0 = x
    if "e" in handle:
        x1 = x
    if "n" in handle:
        y0 = y
    if "s" in handle:
        y1 = y
    return ordered_box(x0, y0, x1, y1)


def ordered_box(x0: float, y0: float, x1: float, y1: float) -> Box:
    """The box of two opposite corners, in any order."""
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def clipped_box(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box inside a frame of (width, height); None when less than a pixel is left."""
    x0, y0 = max(box[0], 0.0), max(box[1], 0.0)
    x1, y1 = min(box[2], float(size[0])), min(box[3], float(size[1]))
    if x1 - x0 < 1.0 or y1 - y0 < 1.0:
        return None
    return x0, y0, x1, y1


def inside_frame(x: float, y: float, size: tuple[int, int]) -> bool:
    """True when a video position lies on a pixel of a frame of (width, height)."""
    return 0 <= x < size[0] and 0 <= y < size[1]


def object_at(layers: Sequence[MaskLayer], x: float, y: float) -> int | None:
    """The object whose mask covers a video position; the selected one first, then the topmost (last)."""
    covering = []
    for layer in layers:
        height, width = layer.mask_hw.shape
        if inside_frame(x, y, (width, height)) and layer.mask_hw[int(y), int(x)]:
            covering.append(layer)
    if not covering:
        return None
    for layer in covering:
        if layer.selected:
            return layer.object_id
    return covering[-1].object_id
