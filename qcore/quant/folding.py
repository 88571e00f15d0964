"""Exact rewrites of the full-precision model that make it easier to quantize; its function does not change.

*Centred values* (ours): the rows of softmax(.) sum to 1, so P V = P (V - c) + c for any constant c. With c
the mean of V per channel, folded as ``v.bias -= c`` and ``out.bias += W_out c``, probability mass lost to
rounding no longer shifts the output and V's range tightens. *Bimodal integration* (PTQ4SAM): channels of K
whose values pile up on the negative side are mirrored, with the same sign on Q, so that two-peaked keys
become one-peaked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sam2.modeling.sam.transformer import Attention, RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.quant.calibration_data import CalibrationClip
from qcore.quant.config import QuantConfig
from qcore.quant.rollout import roll_out
from qcore.quant.targets import SCOPE, matches

_GRID = 128


def prepare_weights(model: SAM2Base, clips: Sequence[CalibrationClip], config: QuantConfig) -> SAM2Base:
    """A copy of the model with the rewrites that ``config`` asks for."""
    teacher: SAM2Base = copy.deepcopy(model)
    teacher.requires_grad_(False)
    if not (config.centre_values or config.bimodal_integration):
        return teacher
    attentions = {
        name: module
        for name, module in teacher.named_modules()
        if isinstance(module, Attention) and matches(name, SCOPE)
    }
    keys, values = _watch_projections(teacher, attentions, clips[:2])
    for name, attention in attentions.items():
        if config.centre_values:
            centre_values(attention, values[name].mean(dim=0))
        if config.bimodal_integration and is_bimodal(keys[name].flatten()):
            mirror_keys(attention, keys[name].mean(dim=0))
    return teacher


def _watch_projections(
    model: SAM2Base, attentions: dict[str, Attention], clips: Sequence[CalibrationClip]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sampled outputs (n, C) of every k_proj and v_proj."""
    keys: dict[str, list[Tensor]] = {name: [] for name in attentions}
    values: dict[str, list[Tensor]] = {name: [] for name in attentions}

    def remember(into: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, out: Tensor) -> None:
            rows = out.detach().reshape(-1, out.shape[-1])
            into.append(rows[:: max(1, len(rows) // 64)].clone())

        return hook

    handles = []
    for name, attention in attentions.items():
        handles.append(attention.k_proj.register_forward_hook(remember(keys[name])))
        handles.append(attention.v_proj.register_forward_hook(remember(values[name])))
    try:
        roll_out(model, clips)
    finally:
        for handle in handles:
            handle.remove()
    return (
        {name: torch.cat(chunks) for name, chunks in keys.items()},
        {name: torch.cat(chunks) for name, chunks in values.items()},
    )


@torch.no_grad()
def centre_values(attention: Attention, mean_c: Tensor) -> None:
    """Move ``mean_c`` (C,) of V through the softmax into the output bias; exact."""
    attention.v_proj.bias.sub_(mean_c)
    attention.out_proj.bias.add_(attention.out_proj.weight @ mean_c)


def is_bimodal(sample: Tensor) -> bool:
    """Whether the density of ``sample`` has exactly two peaks: Gaussian kernel estimate on 128 points,
    peaks at least 1 % of the density's sum high and a quarter of the grid apart.
    """
    values = sample.float().flatten()
    values = values[:: max(1, len(values) // 4096)]
    spread = float(values.std())
    if spread == 0.0:
        return False
    grid = torch.linspace(float(values.min()), float(values.max()), _GRID)
    bandwidth = spread * len(values) ** -0.2  # Scott's rule
    density = torch.exp(-0.5 * ((grid[:, None] - values[None].cpu()) / bandwidth) ** 2).sum(1)
    threshold = 0.01 * float(density.sum())
    peaks: list[int] = []
    inner = range(1, _GRID - 1)
    highest_first = sorted(
        (i for i in inner if density[i] >= density[i - 1] and density[i] > density[i + 1]),
        key=lambda i: -float(density[i]),
    )
    for i in highest_first:
        if float(density[i]) >= threshold and all(abs(i - j) >= _GRID // 4 for j in peaks):
            peaks.append(i)
    return len(peaks) == 2


@torch.no_grad()
def mirror_keys(attention: Attention, key_mean_c: Tensor) -> None:
    """Flip the sign of K's (and Q's) channels whose mean is negative; q.k does not change.

    Under a rotary code the two channels of a pair must flip together, so the pair's larger mean decides. A
    channel without a sign keeps its own: sign(0) = +1.
    """
    if isinstance(attention, RoPEAttention):
        pairs = key_mean_c.view(-1, 2)
        leader = pairs.gather(1, pairs.abs().argmax(dim=1, keepdim=True))
        key_mean_c = leader.expand(-1, 2).reshape(-1)
    signs = torch.where(key_mean_c < 0, -1.0, 1.0)
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.mul_(signs[:, None])
        projection.bias.mul_(signs)
