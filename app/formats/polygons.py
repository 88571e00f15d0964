"""Outlines of masks as polygons, and what that costs. Pure arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from qcore import masks
from qcore.masks import MaskArray, Rle

Polygon = npt.NDArray[np.float64]
"""(corners, 2): x and y in pixels, on the lattice between pixels: pixel (3, 5) spans x 3..4 and y 5..6."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A mask's parts as polygons."""

    polygons: list[Polygon]
    holes: int
    """Holes that polygons cannot show."""


def trace(mask_hw: MaskArray, tolerance_px: float = 0.0) -> Outline:
    """The outlines of a mask's parts, along the edges of its pixels.

    Args:
        mask_hw: non-zero inside.
        tolerance_px: how far a polygon may stray from the outline; 0 follows every pixel.
    """
    rows, columns = np.flatnonzero(mask_hw.any(axis=1)), np.flatnonzero(mask_hw.any(axis=0))
    if not rows.size:
        return Outline([], 0)
    top, left = int(rows[0]), int(columns[0])
    part = mask_hw[top : rows[-1] + 1, left : columns[-1] + 1] != 0
    # At twice the size every pixel has a left and a right column of its own. Contours run through the centres
    # of those, and rounding them outwards gives the lattice between the pixels, exactly.
    doubled = np.pad(part.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, hierarchy = cv2.findContours(
        doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(2 * left - 1, 2 * top - 1)
    )
    polygons = []
    holes = 0
    for contour, links in zip(contours, hierarchy.reshape(-1, 4), strict=True):
        if links[3] >= 0:
            holes += 1
            continue
        corners = _corners((contour[:, 0, :].astype(np.int64) + 1) // 2)
        polygons.append(_simplified(corners, tolerance_px).astype(np.float64))
    return Outline(polygons, holes)


def _corners(path: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Without points that repeat or lie on a straight line."""
    path = path[np.any(path != np.roll(path, 1, axis=0), axis=1)]
    before, after = path - np.roll(path, 1, axis=0), np.roll(path, -1, axis=0) - path
    turns: npt.NDArray[np.bool_] = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return path[turns]


def _simplified(corners: npt.NDArray[np.int64], tolerance_px: float) -> npt.NDArray[np.int64]:
    if tolerance_px <= 0:
        return corners
    simple = cv2.approxPolyDP(corners.astype(np.int32).reshape(-1, 1, 2), tolerance_px, True)[:, 0, :]
    return simple.astype(np.int64) if len(simple) >= 3 else corners


def rasterize(polygons: Sequence[Polygon], size_hw: tuple[int, int]) -> Rle:
    """The union of polygons as COCO's own tools fill them."""
    if not polygons:
        return masks.empty(size_hw)
    height, width = size_hw
    parts = coco_mask.frPyObjects([p.reshape(-1).tolist() for p in polygons], height, width)
    merged = coco_mask.merge(parts)
    return Rle((height, width), bytes(merged["counts"]))
