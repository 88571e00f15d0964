"""What goes into and comes out of tracking: prompts and mask results. Free of torch: the UI imports it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from qcore.masks import Rle


class Direction(StrEnum):
    """Which way a propagation goes from its first frame."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything the user said about one object on one frame; a new prompt replaces the old one.

    Coordinates are pixels of the original frame, origin top left, x right, y down; pixel centres lie at .5.
    """

    frame_index: int
    object_id: int
    points_xy: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    """1 = part of the object, 0 = not part of it; one per point."""
    box_xyxy: tuple[float, float, float, float] | None = None
    mask: Rle | None = None
    """A mask given by hand or import, at the video's size; excludes points and box."""

    def __post_init__(self) -> None:
        if len(self.points_xy) != len(self.labels):
            raise ValueError("A prompt needs one label for every point.")
        if self.mask is not None and (self.points_xy or self.box_xyxy is not None):
            raise ValueError("A prompt is either a mask, or points and a box.")

    @property
    def is_empty(self) -> bool:
        """True when it says nothing."""
        return not self.points_xy and self.box_xyxy is None and self.mask is None


@dataclass(frozen=True, slots=True)
class MaskResult:
    """One object's mask on one frame, at the video's size."""

    frame_index: int
    object_id: int
    rle: Rle
    score: float
    """The model's own estimate of the mask's IoU, 0..1; 1.0 for masks given by hand."""
    presence: float
    """Probability that the object is in view, 0..1 (sigmoid of SAM 2's object score)."""


Recall = Callable[[int, int], Rle | None]
"""(frame index, object id) -> the mask that the project holds there, or None."""
