"""The outline of a binary mask, exact along the edges of its pixels; computed once per mask. No Qt.

OpenCV traces the centres of border pixels, which lies half a pixel inside the mask. Tracing instead on a
lattice of half pixels, where a pixel covers the 3 x 3 points of its corners, edge middles and centre, puts
every traced point on the true edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from qcore.masks import MaskArray

PointsNx2 = npt.NDArray[np.float64]


class MaskOutline:
    """Closed rings in video pixels, (N, 2) float64 (x, y) each; holes are rings too (odd-even filling)."""

    def __init__(
        self, chains: Sequence[npt.NDArray[np.int32]] = (), box_xyxy: tuple[int, int, int, int] = (0, 0, 0, 0)
    ) -> None:
        self._chains = chains
        """On the lattice, whose margin of one point puts corner (0, 0) of the box at (1, 1)."""
        self.box_xyxy = box_xyxy
        """Half-open tight box; all zero for an empty mask."""

    @cached_property
    def exact(self) -> tuple[PointsNx2, ...]:
        """Along the pixel edges: for looking at single pixels."""
        return tuple((_corners(points) - 1) / 2.0 + self.box_xyxy[:2] for points in self._chains)

    @cached_property
    def smooth(self) -> tuple[PointsNx2, ...]:
        """Through the middles of the pixel edges (marching squares): for every zoom that hides single
        pixels."""
        if not self._chains:
            return ()
        lengths = [len(points) for points in self._chains]
        ring = np.repeat(np.arange(len(lengths)), lengths)
        points = np.concatenate(self._chains)
        is_middle = ((points[:, 0] + points[:, 1]) & 1) == 1
        points, ring = points[is_middle], ring[is_middle]
        kept = _turning(points, ring)
        placed = (points[kept] - 1) / 2.0 + self.box_xyxy[:2]
        ends = np.cumsum(np.bincount(ring[kept], minlength=len(lengths)))[:-1]
        return tuple(np.split(placed, ends))


def outline(mask_hw: MaskArray) -> MaskOutline:
    """Trace a uint8 (H, W) mask; non-zero is inside."""
    x0, y0, width, height = cv2.boundingRect(mask_hw)
    if width == 0:
        return MaskOutline()
    x1, y1 = x0 + width, y0 + height
    lattice = _lattice(mask_hw[y0:y1, x0:x1] != 0)
    chains, _ = cv2.findContours(lattice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return MaskOutline([chain.reshape(-1, 2).astype(np.int32) for chain in chains], (x0, y0, x1, y1))


def _lattice(inside_hw: npt.NDArray[np.bool_]) -> MaskArray:
    """The closed region on half-pixel points, with a margin of one: (2H + 3, 2W + 3) uint8."""
    height, width = inside_hw.shape
    inside = inside_hw.view(np.uint8)
    # first along the rows, where a pixel covers three points, then the same down the columns
    across = np.zeros((height, 2 * width + 3), np.uint8)
    across[:, 2 : 2 + 2 * width : 2] = inside
    across[:, 1 : 1 + 2 * width : 2] = inside
    across[:, 3 : 3 + 2 * width : 2] |= inside
    lattice = np.zeros((2 * height + 3, 2 * width + 3), np.uint8)
    lattice[2 : 2 + 2 * height : 2] = across
    lattice[1 : 1 + 2 * height : 2] = across
    lattice[3 : 3 + 2 * height : 2] |= across
    return lattice


def _corners(points: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The ring's corners on the pixel grid, from a chain of lattice points at most one diagonal step apart.

    A diagonal step cuts an inner corner of the mask; that corner is put back in.
    """
    following = np.roll(points, -1, axis=0)
    step = following - points
    diagonal = (step[:, 0] != 0) & (step[:, 1] != 0)
    candidate = np.stack([points[:, 0], following[:, 1]], axis=1)
    other = np.stack([following[:, 0], points[:, 1]], axis=1)
    # Pixel corners have odd coordinates on the lattice with its margin; only one candidate is such a corner.
    candidate_is_corner = ((candidate & 1) == 1).all(axis=1)
    inserted = np.where(candidate_is_corner[:, None], candidate, other)
    both = np.stack([points, inserted], axis=1).reshape(-1, 2)
    keep = np.stack([np.ones(len(points), np.bool_), diagonal], axis=1).reshape(-1)
    return _without_straight(both[keep])


def _without_straight(ring: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The ring without the points inside its straight stretches."""
    kept: npt.NDArray[np.int32] = ring[_turning(ring, np.zeros(len(ring), np.int64))]
    return kept


def _turning(points: npt.NDArray[np.int32], ring: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which points of some rings, one after the other, are not inside a straight stretch.

    Args:
        points: (N, 2), ring by ring.
        ring: (N,) the number of each point's ring, ascending.
    """
    step = np.roll(points, -1, axis=0) - points
    starts = np.flatnonzero(np.concatenate([[True], ring[1:] != ring[:-1]])) if len(ring) else ring
    ends = np.append(starts[1:], len(ring)) - 1
    step[ends] = points[starts] - points[ends]
    before = np.roll(step, 1, axis=0)
    before[starts] = step[ends]
    turns = before[:, 0] * step[:, 1] != before[:, 1] * step[:, 0]
    # An edge one pixel wide is walked to its end and back: the end is a turn by half a circle.
    reverses = (before * step).sum(axis=1) < 0
    turning: npt.NDArray[np.bool_] = turns | reverses
    return turning
