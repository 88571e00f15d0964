"""The outline of a binary mask, exact along the edges of its pixels; computed once per mask. No Qt.

OpenCV traces the centres of border pixels, which lies half a pixel inside the mask. Tracing instead on a
lattice of half pixels, where a pixel covers the 3 x 3 points of its corners, edge middles and centre, puts
every traced point on the true edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qcore.masks import MaskArray

PointsNx2 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MaskOutline:
    """Closed rings in video pixels, (N, 2) float64 (x, y) each; holes are rings too (odd-even filling)."""

    exact: tuple[PointsNx2, ...]
    """Along the pixel edges: for looking at single pixels."""
    smooth: tuple[PointsNx2, ...]
    """Through the middles of the pixel edges (marching squares): for every zoom that hides single pixels."""
    box_xyxy: tuple[int, int, int, int]
    """Half-open tight box; all zero for an empty mask."""


EMPTY = MaskOutline((), (), (0, 0, 0, 0))


def outline(mask_hw: MaskArray) -> MaskOutline:
    """Trace a uint8 (H, W) mask; non-zero is inside."""
    columns = np.flatnonzero(mask_hw.any(axis=0))
    if columns.size == 0:
        return EMPTY
    rows = np.flatnonzero(mask_hw.any(axis=1))
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    lattice = _lattice(mask_hw[y0:y1, x0:x1] != 0)
    chains, _ = cv2.findContours(lattice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    exact: list[PointsNx2] = []
    smooth: list[PointsNx2] = []
    for chain in chains:
        points = chain.reshape(-1, 2).astype(np.int32)
        # The lattice has a margin of one point on each side: corner (0, 0) of the crop lies at (1, 1).
        middles = points[((points[:, 0] + points[:, 1]) & 1) == 1]
        smooth.append((_without_straight(middles) - 1) / 2.0 + (x0, y0))
        exact.append((_corners(points) - 1) / 2.0 + (x0, y0))
    return MaskOutline(tuple(exact), tuple(smooth), (x0, y0, x1, y1))


def _lattice(inside_hw: npt.NDArray[np.bool_]) -> MaskArray:
    """The closed region on half-pixel points, with a margin of one: (2H + 3, 2W + 3) uint8."""
    height, width = inside_hw.shape
    inside = inside_hw.view(np.uint8)
    lattice = np.zeros((2 * height + 3, 2 * width + 3), np.uint8)
    for dy in range(3):
        for dx in range(3):
            part = lattice[1 + dy : 1 + dy + 2 * height : 2, 1 + dx : 1 + dx + 2 * width : 2]
            part |= inside
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
    before = ring - np.roll(ring, 1, axis=0)
    after = np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    # An edge one pixel wide is walked to its end and back: the end is a turn by half a circle.
    reverses = (before * after).sum(axis=1) < 0
    kept: npt.NDArray[np.int32] = ring[turns | reverses]
    return kept
