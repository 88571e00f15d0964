"""Pillow's bicubic resize, which upstream prepares frames with, as banded matrix products: half the time.

Pillow sums in integers of 22 fractional bits and rounds between its two passes; so does this, with sums in
float32. A sum that lies on a half may fall to the other side, by one: 1 in 5,000 values of a photograph. Rows
come first, as in all versions of Pillow for pictures that are wider than high; its newer ones may begin a
portrait with the columns, which moves roundings by one too.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SUPPORT = 2.0
_FRACTION = float(1 << 22)
_BAND = 16
"""Outputs that one product makes: more read more zeros, fewer are more calls."""


def _cubic(x: float) -> float:
    """Keys' kernel with a = -0.5, as Pillow has it."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0 if x < 2.0 else 0.0


def _weights(size: int, new_size: int) -> npt.NDArray[np.float32]:
    """(new size, size) weights of the inputs in each output."""
    scale = size / new_size
    stretch = max(1.0, scale)
    weights = np.zeros((new_size, size), np.float32)
    for index in range(new_size):
        centre = (index + 0.5) * scale
        low = max(0, int(centre - _SUPPORT * stretch + 0.5))
        high = min(size, int(centre + _SUPPORT * stretch + 0.5))
        row = [_cubic((x - centre + 0.5) / stretch) for x in range(low, high)]
        total = sum(row)
        for x, weight in zip(range(low, high), row, strict=True):
            fixed = weight / total * _FRACTION
            weights[index, x] = math.copysign(math.floor(abs(fixed) + 0.5), fixed) / _FRACTION
    return weights


@functools.lru_cache(maxsize=8)
def _bands(size: int, new_size: int, channels: int) -> list[tuple[slice, slice, Tensor]]:
    """Slices of the outputs and of the inputs they need, and the weights between them.

    With several channels side by side, outputs and inputs count values, not pixels.
    """
    weights = _weights(size, new_size)
    bands = []
    for start in range(0, new_size, _BAND):
        rows = weights[start : start + _BAND]
        used = np.flatnonzero(rows.any(axis=0))
        first, stop = int(used[0]), int(used[-1]) + 1
        block = np.kron(rows[:, first:stop], np.eye(channels, dtype=np.float32))
        outputs = slice(start * channels, (start + len(rows)) * channels)
        bands.append((outputs, slice(first * channels, stop * channels), torch.from_numpy(block)))
    return bands


def resize_square(rgb_hw3: npt.NDArray[np.uint8], side: int) -> Tensor:
    """Resize a uint8 RGB picture (H, W, 3) to a square; float32 (S, S, 3) with whole values 0..255."""
    height, width = rgb_hw3.shape[:2]
    rows = torch.from_numpy(rgb_hw3.astype(np.float32)).view(height, width * 3)
    if width != side:
        wide = rows.new_empty(height, side * 3)
        for outputs, inputs, weights in _bands(width, side, 3):
            torch.mm(rows[:, inputs], weights.t(), out=wide[:, outputs])
        rows = _rounded(wide)
    if height != side:
        high = rows.new_empty(side, side * 3)
        for outputs, inputs, weights in _bands(height, side, 1):
            torch.mm(weights, rows[inputs], out=high[outputs])
        rows = _rounded(high)
    return rows.view(side, side, 3)


def _rounded(sums: Tensor) -> Tensor:
    return sums.add_(0.5).floor_().clamp_(0.0, 255.0)
