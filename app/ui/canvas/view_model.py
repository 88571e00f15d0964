"""What the canvas is told and what it reports: plain data, no project, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qcore.masks import MaskArray


class Tool(StrEnum):
    """The armed tool; it stays armed across frames and objects."""

    POINT = "point"
    BOX = "box"
    BRUSH = "brush"
    ERASER = "eraser"
    PAN = "pan"


@dataclass(frozen=True, slots=True, eq=False)
class MaskLayer:
    """One object's mask on the shown frame."""

    object_id: int
    mask_hw: MaskArray
    """uint8 (H, W), 0 or 1, at the video's size."""
    color: str
    selected: bool = False
    protected: bool = False
    """Drawn hatched: no propagation overwrites it."""


@dataclass(frozen=True, slots=True)
class PromptMark:
    """One object's clicks and box on the shown frame, in video pixels."""

    object_id: int
    color: str
    points_xy: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box_xyxy: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BrushStroke:
    """One finished stroke of the brush or eraser."""

    patch_xyxy: tuple[int, int, int, int]
    """Touched part of the video frame; x1 and y1 exclusive."""
    patch_hw: MaskArray
    """uint8, 1 where the brush went, of the patch's size."""
    erase: bool
