"""Where the timeline's parts lie and which one is at a position: pure geometry with frozen results."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from PySide6.QtCore import QRectF

from app.ui.timeline.ruler_painter import RANGE_HANDLE_WIDTH
from app.ui.timeline.time_axis import TimeAxis

HEADER_WIDTH = 152.0
RULER_HEIGHT = 28.0
STRIP_HEIGHT = 7.0
LANE_HEIGHT = 28.0
CONFIDENCE_HEIGHT = 48.0


class Part(StrEnum):
    """What lies at a position."""

    NOTHING = "nothing"
    RULER = "ruler"
    RANGE_IN = "range-in"
    RANGE_OUT = "range-out"
    STRIP = "strip"
    LANE = "lane"
    LANE_NAME = "lane-name"
    BELOW_LANES = "below-lanes"
    CONFIDENCE = "confidence"


@dataclass(frozen=True, slots=True)
class Place:
    """A part, and which lane where it is one."""

    part: Part
    lane: int = -1


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of a timeline of some size, in logical pixels."""

    width: float
    height: float
    lane_count: int
    has_confidence: bool
    scroll_y: float = 0.0

    @staticmethod
    def height_for(lanes: int) -> float:
        """Height that shows so many lanes and the confidence curve."""
        return RULER_HEIGHT + STRIP_HEIGHT + lanes * LANE_HEIGHT + CONFIDENCE_HEIGHT

    @property
    def left(self) -> float:
        """Where time begins."""
        return HEADER_WIDTH

    @property
    def lane_height(self) -> float:
        """Of one object's row."""
        return LANE_HEIGHT

    @property
    def time_width(self) -> float:
        """Width of everything that has frames along x."""
        return max(self.width - HEADER_WIDTH, 1.0)

    @property
    def ruler(self) -> QRectF:
        """Frame numbers and range marks."""
        return QRectF(self.left, 0, self.time_width, RULER_HEIGHT)

    @property
    def strip(self) -> QRectF:
        """Encoded frames."""
        return QRectF(self.left, RULER_HEIGHT, self.time_width, STRIP_HEIGHT)

    @property
    def confidence(self) -> QRectF:
        """The selected object's curve, at the lower edge; without height where there is no room for it."""
        top = RULER_HEIGHT + STRIP_HEIGHT
        has_room = self.has_confidence and self.height >= top + LANE_HEIGHT + CONFIDENCE_HEIGHT
        height = CONFIDENCE_HEIGHT if has_room else 0.0
        return QRectF(self.left, self.height - height, self.time_width, height)

    @property
    def lanes(self) -> QRectF:
        """The part of the lanes that is in view."""
        top = RULER_HEIGHT + STRIP_HEIGHT
        return QRectF(self.left, top, self.time_width, max(self.confidence.top() - top, 0.0))

    @property
    def lanes_with_header(self) -> QRectF:
        """As `lanes`, with the names."""
        lanes = self.lanes
        return QRectF(0, lanes.top(), self.width, lanes.height())

    @property
    def lanes_height(self) -> float:
        """Of all lanes, in view or not."""
        return self.lane_count * LANE_HEIGHT

    def lane_row(self, index: int) -> QRectF:
        """One object's row over the whole width; may lie outside `lanes`."""
        return QRectF(0, self.lanes.top() + index * LANE_HEIGHT - self.scroll_y, self.width, LANE_HEIGHT)

    def place(self, x: float, y: float, axis: TimeAxis, marks: tuple[int | None, int | None]) -> Place:
        """What lies at a position; ``marks`` are the in and out frame."""
        if not (0 <= x < self.width and 0 <= y < self.height):
            return Place(Part.NOTHING)
        if y < RULER_HEIGHT:
            return Place(self._on_ruler(x, axis, marks)) if x >= self.left else Place(Part.NOTHING)
        if y < RULER_HEIGHT + STRIP_HEIGHT:
            return Place(Part.STRIP) if x >= self.left else Place(Part.NOTHING)
        if y >= self.confidence.top():
            return Place(Part.CONFIDENCE) if x >= self.left else Place(Part.NOTHING)
        lane = int((y - self.lanes.top() + self.scroll_y) // LANE_HEIGHT)
        if lane >= self.lane_count:
            return Place(Part.BELOW_LANES) if x >= self.left else Place(Part.NOTHING)
        return Place(Part.LANE if x >= self.left else Part.LANE_NAME, lane)

    def _on_ruler(self, x: float, axis: TimeAxis, marks: tuple[int | None, int | None]) -> Part:
        first, last = marks
        at = x - self.left
        reach = RANGE_HANDLE_WIDTH + 2
        if first is not None and -3 <= at - axis.x_of(first) <= reach:
            return Part.RANGE_IN
        if last is not None and -reach <= at - axis.x_of(last + 1) <= 3:
            return Part.RANGE_OUT
        return Part.RULER
