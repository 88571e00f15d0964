"""A brush stroke growing under the mouse: pure numpy, no Qt.

A pixel belongs to the stroke when its centre lies within the radius of the stroke's path. The path is
smoothed through the mouse positions, so a fast movement leaves a curve and not a chain of straight pieces.
"""

from __future__ import annotations

import math

import numpy as np

from app.ui.canvas.view_model import BrushStroke
from qcore.masks import MaskArray

MIN_RADIUS = 0.5
MAX_RADIUS = 512.0


class StrokeBuilder:
    """Collects one stroke on a frame of (height, width) pixels."""

    def __init__(self, size_hw: tuple[int, int], erase: bool) -> None:
        self.erase = erase
        self._mask_hw: MaskArray = np.zeros(size_hw, np.uint8)
        self._box: tuple[int, int, int, int] | None = None
        self._positions: list[tuple[float, float]] = []
        self._path: list[tuple[float, float]] = []

    @property
    def path_xy(self) -> list[tuple[float, float]]:
        """The smoothed path so far, in video pixels, for live feedback."""
        return self._path

    def add(self, x: float, y: float, radius: float) -> None:
        """Continue the stroke to a mouse position in video pixels."""
        self._positions.append((x, y))
        if len(self._positions) == 1:
            self._extend((x, y), radius)
            return
        # Quadratic curve from the middle of the last piece to the middle of this one: it has no corner at the
        # mouse position, which is its control point. `finish` draws the half piece that is still missing.
        previous = self._positions[-2]
        middle = ((previous[0] + x) / 2, (previous[1] + y) / 2)
        start = self._path[-1]
        length = math.dist(start, previous) + math.dist(previous, middle)
        steps = max(1, min(24, math.ceil(length / max(radius / 2, 1.5))))
        for step in range(1, steps + 1):
            t = step / steps
            a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
            self._extend(
                (
                    a * start[0] + b * previous[0] + c * middle[0],
                    a * start[1] + b * previous[1] + c * middle[1],
                ),
                radius,
            )

    def finish(self, radius: float) -> BrushStroke | None:
        """End the stroke at the last position; None when it missed the frame."""
        if len(self._positions) > 1:
            self._extend(self._positions[-1], radius)
        if self._box is None:
            return None
        x0, y0, x1, y1 = self._box
        patch_hw = self._mask_hw[y0:y1, x0:x1].copy()
        if not patch_hw.any():
            return None
        return BrushStroke((x0, y0, x1, y1), patch_hw, self.erase)

    def _extend(self, point: tuple[float, float], radius: float) -> None:
        start = self._path[-1] if self._path else point
        self._path.append(point)
        box = stamp_capsule(self._mask_hw, start, point, radius)
        if box is None:
            return
        if self._box is None:
            self._box = box
        else:
            a, b = self._box, box
            self._box = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def stamp_capsule(
    mask_hw: MaskArray, start: tuple[float, float], end: tuple[float, float], radius: float
) -> tuple[int, int, int, int] | None:
    """Set every pixel whose centre is within ``radius`` of the segment.

    Args:
        mask_hw: uint8 (H, W), changed in place.
        start: (x, y) in video pixels.
        end: (x, y) in video pixels.
        radius: in video pixels.

    Returns:
        The half-open box (x0, y0, x1, y1) that was looked at, or None when it lies outside the frame.
    """
    height, width = mask_hw.shape
    x0 = max(math.floor(min(start[0], end[0]) - radius), 0)
    y0 = max(math.floor(min(start[1], end[1]) - radius), 0)
    x1 = min(math.ceil(max(start[0], end[0]) + radius) + 1, width)
    y1 = min(math.ceil(max(start[1], end[1]) + radius) + 1, height)
    if x0 >= x1 or y0 >= y1:
        return None
    x_1w = np.arange(x0, x1, dtype=np.float64)[None, :] + 0.5 - start[0]
    y_h1 = np.arange(y0, y1, dtype=np.float64)[:, None] + 0.5 - start[1]
    dx, dy = end[0] - start[0], end[1] - start[1]
    squared = dx * dx + dy * dy
    if squared > 0:
        t_hw = np.clip((x_1w * dx + y_h1 * dy) / squared, 0.0, 1.0)
        distance_hw = (x_1w - t_hw * dx) ** 2 + (y_h1 - t_hw * dy) ** 2
    else:
        distance_hw = x_1w**2 + y_h1**2
    mask_hw[y0:y1, x0:x1] |= distance_hw <= radius * radius
    return x0, y0, x1, y1


def apply_stroke(mask_hw: MaskArray | None, size_hw: tuple[int, int], stroke: BrushStroke) -> MaskArray:
    """A new uint8 mask: the old one (None = empty) with the stroke added or taken away."""
    result = np.zeros(size_hw, np.uint8) if mask_hw is None else mask_hw.copy()
    x0, y0, x1, y1 = stroke.patch_xyxy
    part = result[y0:y1, x0:x1]
    part[stroke.patch_hw != 0] = 0 if stroke.erase else 1
    return result


def resized(radius: float, steps: float) -> float:
    """The radius after so many notches up (or down, negative): about 12 % each, at least half a pixel."""
    changed = radius * 1.12**steps
    if abs(changed - radius) < 0.5 * abs(steps):
        changed = radius + 0.5 * steps
    return float(min(max(changed, MIN_RADIUS), MAX_RADIUS))
