"""How much of every screen pixel an outline's inside and its line cover, from OpenCV. No Qt.

Qt strokes an outline of two thousand points in 7 to 9 ms and OpenCV, at four times the resolution, in 1 ms:
that is most of what a click's way from the model to the screen used to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from app.ui.canvas.contours import PointsNx2

Coverage = npt.NDArray[np.uint8]
"""(H, W) of a `Patch`: 0 = untouched, 255 = covered."""

FINE = 4
"""Fine pixels across a screen pixel."""
FEWER_FROM = 3_000_000
"""Screen pixels from which half as many must do: a mask that fills a 4K screen."""
_FRACTION_BITS = 4


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangle of screen pixels."""

    left: int
    top: int
    width: int
    height: int


class Raster:
    """Draws rings, given in screen pixels, into the part of the screen that they touch.

    Args:
        rings: closed, (N, 2) (x, y) each; odd-even filling.
        screen_wh: of the canvas; what lies outside is left out.
        reach: half the width of the widest line, in screen pixels.
    """

    def __init__(self, rings: Sequence[PointsNx2], screen_wh: tuple[int, int], reach: float) -> None:
        self.patch = _patch(rings, screen_wh, reach)
        self._fine = FINE if self.patch.width * self.patch.height < FEWER_FROM else FINE // 2
        self._rings = [self._placed(ring) for ring in rings] if self.is_visible else []

    @property
    def is_visible(self) -> bool:
        """Whether anything lies on the screen."""
        return self.patch.width > 0 and self.patch.height > 0

    def fill(self) -> Coverage:
        """Of the inside."""
        plane = self._plane()
        cv2.fillPoly(plane, self._rings, 255, cv2.LINE_8, _FRACTION_BITS)
        return self._coarse(plane)

    def line(self, width: float) -> Coverage:
        """Of the outline, so many screen pixels wide."""
        return self._lines(self._rings, width, closed=True)

    def dashes(self, width: float, on: float, off: float) -> Coverage:
        """Of the outline, dashed; all lengths in screen pixels."""
        scale = self._fine << _FRACTION_BITS
        pieces = [piece for ring in self._rings for piece in _dashes(ring, on * scale, off * scale)]
        return self._lines(pieces, width, closed=False)

    def _lines(self, lines: Sequence[npt.NDArray[np.int32]], width: float, closed: bool) -> Coverage:
        plane = self._plane()
        thickness = max(1, round(width * self._fine))
        cv2.polylines(plane, lines, closed, 255, thickness, cv2.LINE_8, _FRACTION_BITS)
        return self._coarse(plane)

    def _placed(self, ring: PointsNx2) -> npt.NDArray[np.int32]:
        """In fine pixels of the patch, with binary fractions; OpenCV counts from a pixel's centre."""
        moved = (ring - (self.patch.left, self.patch.top)) * self._fine - 0.5
        return np.round(moved * (1 << _FRACTION_BITS)).astype(np.int32)

    def _plane(self) -> Coverage:
        return np.zeros((self.patch.height * self._fine, self.patch.width * self._fine), np.uint8)

    def _coarse(self, plane: Coverage) -> Coverage:
        # halving twice is five times as fast as one step to a quarter
        while plane.shape[0] > self.patch.height:
            half = (plane.shape[1] // 2, plane.shape[0] // 2)
            plane = np.asarray(cv2.resize(plane, half, interpolation=cv2.INTER_AREA), np.uint8)
        return plane


def _patch(rings: Sequence[PointsNx2], screen_wh: tuple[int, int], reach: float) -> Patch:
    if not rings:
        return Patch(0, 0, 0, 0)
    points = np.concatenate(rings)
    margin = reach + 1
    left, top = np.maximum(np.floor(points.min(axis=0) - margin), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(points.max(axis=0) + margin), screen_wh).astype(int).tolist()
    return Patch(left, top, max(right - left, 0), max(bottom - top, 0))


def _dashes(ring: npt.NDArray[np.int32], on: float, off: float) -> list[npt.NDArray[np.int32]]:
    """The parts of a closed ring that a pattern of lengths leaves."""
    closed = np.concatenate([ring, ring[:1]]).astype(np.float64)
    steps = np.hypot(*np.diff(closed, axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    count = int(way[-1] // (on + off)) + 1
    begins = np.arange(count) * (on + off)
    cuts = np.minimum(np.stack([begins, begins + on], axis=1), way[-1])
    places = np.stack([np.interp(cuts, way, closed[:, axis]) for axis in (0, 1)], axis=-1)
    first, last = np.searchsorted(way, cuts[:, 0], "right"), np.searchsorted(way, cuts[:, 1], "left")
    return [
        np.round(np.concatenate([places[k, :1], closed[a:b], places[k, 1:]])).astype(np.int32)
        for k, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True))
    ]


def blend(layers: Sequence[tuple[Coverage, tuple[int, int, int], float]]) -> npt.NDArray[np.uint8]:
    """Paint one over the other: (H, W, 4) BGRA with premultiplied colours.

    Args:
        layers: from the bottom up, each with its (red, green, blue) and opacity.
    """
    colors = list(dict.fromkeys(color for _, color, _ in layers))
    shape = layers[0][0].shape
    shares = {color: np.zeros(shape, np.float32) for color in colors}
    for coverage, color, opacity in layers:
        own = coverage * np.float32(opacity / 255)
        rest = 1 - own
        for share in shares.values():
            share *= rest
        shares[color] += own
    planes = []
    for channel in (2, 1, 0):
        value = sum(share * np.float32(color[channel]) for color, share in shares.items() if color[channel])
        planes.append(cv2.convertScaleAbs(np.broadcast_to(np.asarray(value, np.float32), shape)))
    planes.append(cv2.convertScaleAbs(np.asarray(sum(shares.values()), np.float32), alpha=255.0))
    return np.asarray(cv2.merge(planes), np.uint8)
