"""Small models for the quantization tests."""

from __future__ import annotations

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from qcore.models.embedded import EmbeddedArch, build_embedded
from qcore.quant.calibration_data import CalibrationClip

SMALL = EmbeddedArch(
    input_size=64, d_model=32, mem_dim=32, memory_layers=1, ffn_dim=64, num_maskmem=3, fuser_layers=1
)


def small_model(seed: int = 0) -> SAM2Base:
    """A compact model with random weights that do something: biases and norms are random too."""
    torch.manual_seed(seed)
    model = build_embedded(SMALL)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
            if "trunk" in name and parameter.ndim == 4:
                fan_in = parameter[0].numel()
                nn.init.normal_(parameter, std=(2 / fan_in) ** 0.5)
    return model.eval().requires_grad_(False)


def moving_clips(count: int = 2, frames: int = 4) -> list[CalibrationClip]:
    """Noise that moves to the right, with a box."""
    generator = np.random.default_rng(0)
    found = []
    for c in range(count):
        base = generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        moved = tuple(np.ascontiguousarray(np.roll(base, 2 * i, axis=1)) for i in range(frames))
        found.append(CalibrationClip(f"clip{c}", moved, (10.0, 10.0, 40.0, 36.0)))
    return found
