"""Small models for the quantization tests."""

from __future__ import annotations

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from qcore.models.embedded import EmbeddedArch, build_embedded

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
