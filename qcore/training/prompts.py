"""Prompts as a user would give them, made from the truth: boxes, clicks, and clicks that correct."""

from __future__ import annotations

from typing import TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BOX_LABELS = (2, 3)
"""SAM 2's labels of a box's top-left and bottom-right corner."""
IGNORED = -1
"""SAM 2's label of a point that says nothing."""

Bool = NDArray[np.bool_]


class PointPrompt(TypedDict):
    """Points as `SAM2Base` takes them."""

    point_coords: Tensor
    """float32 (N, P, 2): x, y in pixels of the model's input."""
    point_labels: Tensor
    """int32 (N, P)."""


def box_prompt(masks_nhw: Bool, rng: np.random.Generator) -> PointPrompt:
    """Boxes around masks, most of them drawn a little off (up to 8 % of a side at each edge)."""
    count, height, width = masks_nhw.shape
    corners = np.zeros((count, 2, 2), np.float32)
    for n in range(count):
        x, y, box_width, box_height = cv2.boundingRect(masks_nhw[n].view(np.uint8))
        if not box_width:
            continue
        box = np.array([x, y, x + box_width, y + box_height], np.float64)
        sides = np.array([box[2] - box[0], box[3] - box[1]])
        if rng.random() > 0.3:
            box += rng.normal(0, 0.04, 4).clip(-0.08, 0.08) * np.tile(sides, 2)
        corners[n] = np.clip(box, 0, [width, height, width, height]).reshape(2, 2)
    labels = torch.tensor([BOX_LABELS], dtype=torch.int32).repeat(count, 1)
    return {"point_coords": torch.from_numpy(corners), "point_labels": labels}


def click_prompt(missing_nhw: Bool, extra_nhw: Bool, rng: np.random.Generator) -> PointPrompt:
    """One click an object where the larger error is: label 1 on what is missing, 0 on what is too much.

    Half of the clicks go to the error's most interior point, half anywhere in it. Where nothing is wrong the
    point is ignored.
    """
    count = len(missing_nhw)
    points = np.zeros((count, 1, 2), np.float32)
    labels = np.full((count, 1), IGNORED, np.int32)
    for n in range(count):
        missing, extra = missing_nhw[n], extra_nhw[n]
        label = int(missing.sum() >= extra.sum())
        error = missing if label else extra
        if not error.any():
            continue
        if rng.random() < 0.5:
            y, x = interior_point(error)
        else:
            ys, xs = np.nonzero(error)
            k = int(rng.integers(len(xs)))
            y, x = int(ys[k]), int(xs[k])
        points[n, 0] = (x + 0.5, y + 0.5)
        labels[n, 0] = label
    return {"point_coords": torch.from_numpy(points), "point_labels": torch.from_numpy(labels)}


def interior_point(mask_hw: Bool) -> tuple[int, int]:
    """Row and column of the pixel farthest from the mask's edge."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask_hw).view(np.uint8))
    padded = np.pad(mask_hw[y : y + height, x : x + width], 1).view(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return y + int(row), x + int(column)


def join(first: PointPrompt, second: PointPrompt) -> PointPrompt:
    """Both prompts' points together."""
    return {
        "point_coords": torch.cat([first["point_coords"], second["point_coords"]], 1),
        "point_labels": torch.cat([first["point_labels"], second["point_labels"]], 1),
    }


def to_device(prompt: PointPrompt, device: torch.device) -> PointPrompt:
    """The same prompt on another device."""
    return {
        "point_coords": prompt["point_coords"].to(device),
        "point_labels": prompt["point_labels"].to(device),
    }
