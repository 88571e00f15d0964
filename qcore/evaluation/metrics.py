"""J and F as the DAVIS benchmark defines them, for one pair of binary masks.

J is the intersection over union. F compares outlines: the share of the predicted outline that lies near
the true one (precision), the share of the true outline that lies near the predicted one (recall), and the
harmonic mean of both. "Near" is within 0.8 % of the image diagonal, rounded up to whole pixels.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

BinaryMask = npt.NDArray[Any]

BOUNDARY_TOLERANCE = 0.008
"""How far outlines may lie apart and still match, as a share of the image diagonal."""


def region_similarity(predicted: BinaryMask, true: BinaryMask) -> float:
    """J: intersection over union in 0..1 of two (H, W) masks (non-zero = set); 1.0 when both are empty."""
    _check_shapes(predicted, true)
    p, t = predicted != 0, true != 0
    union = np.count_nonzero(p | t)
    return 1.0 if union == 0 else float(np.count_nonzero(p & t) / union)


def boundary_f(predicted: BinaryMask, true: BinaryMask, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """F: agreement of the outlines in 0..1 of two (H, W) masks; 1.0 when neither has an outline.

    ``tolerance`` is a share of the diagonal when below 1, else pixels.
    """
    _check_shapes(predicted, true)
    outline_p, outline_t = outline(predicted), outline(true)
    count_p, count_t = np.count_nonzero(outline_p), np.count_nonzero(outline_t)
    if count_p == 0 and count_t == 0:
        return 1.0
    if count_p == 0 or count_t == 0:
        return 0.0
    reach = tolerance_pixels(true.shape, tolerance)
    window = _window(outline_p | outline_t, reach)
    outline_p, outline_t = outline_p[window], outline_t[window]
    precision = np.count_nonzero(outline_p & _dilated(outline_t, reach)) / count_p
    recall = np.count_nonzero(outline_t & _dilated(outline_p, reach)) / count_t
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def outline(mask: BinaryMask) -> npt.NDArray[np.bool_]:
    """Outline of a (H, W) mask, one pixel wide, bool (H, W).

    A pixel belongs to it when it differs from its neighbour to the east, south or south-east. In the last row
    only the eastern one counts, in the last column only the southern one; beyond the image there is none.
    """
    inside = mask != 0
    edges = np.zeros(inside.shape, np.bool_)
    edges[:, :-1] |= inside[:, :-1] ^ inside[:, 1:]
    edges[:-1, :] |= inside[:-1, :] ^ inside[1:, :]
    edges[:-1, :-1] |= inside[:-1, :-1] ^ inside[1:, 1:]
    return edges


def tolerance_pixels(shape: tuple[int, ...], tolerance: float = BOUNDARY_TOLERANCE) -> int:
    """The tolerance in whole pixels for an image of (height, width): 8 for 480x854, 18 for 1080x1920."""
    if tolerance >= 1:
        return int(tolerance)
    return math.ceil(tolerance * math.hypot(shape[0], shape[1]))


def _dilated(edges: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    return cv2.dilate(edges.astype(np.uint8), _disk(reach)) != 0


@functools.lru_cache(maxsize=8)
def _disk(radius: int) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def _window(edges: npt.NDArray[np.bool_], reach: int) -> tuple[slice, slice]:
    """The part of the image where dilated outlines can meet: dilating less of it is faster."""
    rows, columns = np.flatnonzero(edges.any(axis=1)), np.flatnonzero(edges.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - reach), int(rows[-1]) + reach + 1),
        slice(max(0, int(columns[0]) - reach), int(columns[-1]) + reach + 1),
    )


def _check_shapes(predicted: BinaryMask, true: BinaryMask) -> None:
    if predicted.ndim != 2 or predicted.shape != true.shape:
        raise ValueError(f"masks of shapes {predicted.shape} and {true.shape} cannot be compared")
