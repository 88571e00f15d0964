"""The one prompt an object gets in a benchmark, made from its true mask."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from qcore.evaluation.errors import EvaluationError
from qcore.masks import encode
from qcore.tracking.types import Prompt


class PromptKind(StrEnum):
    """What the object is shown to the model with."""

    BOX = "box"
    """The tight box of the true mask: first and last pixel in each direction."""
    CLICK = "click"
    """One click on the most interior pixel of the true mask."""
    MASK = "mask"
    """The true mask itself."""


def make_prompt(kind: PromptKind, true: npt.NDArray[Any], frame_index: int, object_id: int) -> Prompt:
    """The prompt of one kind from a (H, W) mask.

    Raises:
        EvaluationError: the mask is empty.
    """
    inside = true != 0
    if not inside.any():
        raise EvaluationError(
            f"Object {object_id} has no pixel in frame {frame_index} to make a prompt from."
        )
    if kind is PromptKind.MASK:
        return Prompt(frame_index, object_id, mask=encode(inside))
    if kind is PromptKind.BOX:
        return Prompt(frame_index, object_id, box_xyxy=tight_box(inside))
    return Prompt(frame_index, object_id, points_xy=(most_interior_pixel(inside),), labels=(1,))


def tight_box(mask: npt.NDArray[Any]) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of the outermost set pixels of a non-empty (H, W) mask, as SAM 2's own code has it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def most_interior_pixel(mask: npt.NDArray[Any]) -> tuple[float, float]:
    """(x, y) of the set pixel farthest from any other; the image's border counts as outside."""
    padded = np.pad((mask != 0).astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = divmod(int(distance.argmax()), mask.shape[1])
    return float(x), float(y)
