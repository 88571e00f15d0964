"""Hierarchy-based Video Quantization, the paper's Eqs. 4 and 5.

    L_Hiera = triplet(f_t_fp, f_t_q, f_tem_q) + beta triplet(f_t_fp, f_t_q, f_sem_q)          (Eq. 4)
    L_total = L_Hiera + gamma L_rec                                                          (Eq. 5)

The temporal frame is a near past frame, the semantic frame a far one. What the paper leaves open is settled
so: distance = L2 over channels, averaged over tokens, of features divided by the anchor's rms; anchor
without gradient; by default a margin relative to the originals' own distance, min(1, 0.9 d(f_t_fp,
f_n_fp)). With a constant margin even the perfect quantizer is pushed away from its target, because
neighbouring frames are nearer than the margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.quant.config import HvqConfig


def feature_distance(a: Tensor, b: Tensor, rms: Tensor, channel_dim: int) -> Tensor:
    """Mean over tokens of the L2 distance over channels, in units of ``rms``; a scalar."""
    return ((a - b) / rms).pow(2).sum(dim=channel_dim).clamp(min=1e-12).sqrt().mean()


def rms_of(x: Tensor) -> Tensor:
    """Root mean square, a scalar > 0."""
    return x.detach().pow(2).mean().sqrt().clamp(min=1e-6)


def triplet(
    anchor_fp: Tensor,
    positive_q: Tensor,
    negative_q: Tensor,
    negative_fp: Tensor,
    channel_dim: int,
    config: HvqConfig,
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin)."""
    anchor = anchor_fp.detach()
    rms = rms_of(anchor)
    margin: Tensor | float = 1.0
    if config.margin == "teacher":
        margin = (config.kappa * feature_distance(anchor, negative_fp.detach(), rms, channel_dim)).clamp(
            max=1.0
        )
    near = feature_distance(anchor, positive_q, rms, channel_dim)
    far = feature_distance(anchor, negative_q, rms, channel_dim)
    return torch.relu(near - far + margin)


@dataclass(frozen=True, slots=True)
class FrameTriple:
    """Frame t and the two past frames it is told apart from; None where the clip has no such past."""

    t: int
    temporal: int | None
    semantic: int | None


def sample_triple(frame_count: int, config: HvqConfig, generator: torch.Generator) -> FrameTriple:
    """A random t >= 1, t_tem in [t - short + 1, t - 1] and t_sem in [t - long + 1, t - short], as the clip
    allows.

    An empty semantic window falls back to the farthest past frame; without two different past frames the term
    is dropped.
    """
    t = 1 + int(torch.randint(max(1, frame_count - 1), (1,), generator=generator))
    if frame_count < 2:
        return FrameTriple(0, None, None)
    low = max(0, t - config.short_frames + 1)
    temporal = low + int(torch.randint(t - low, (1,), generator=generator))
    far_low, far_high = max(0, t - config.long_frames + 1), t - config.short_frames
    if far_high >= far_low:
        semantic: int | None = far_low + int(torch.randint(far_high - far_low + 1, (1,), generator=generator))
    else:
        semantic = 0 if temporal != 0 else None
    return FrameTriple(t, temporal, semantic)


def hierarchy_loss(
    anchor_fp: Tensor,
    positive_q: Tensor,
    temporal: tuple[Tensor, Tensor] | None,
    semantic: tuple[Tensor, Tensor] | None,
    channel_dim: int,
    config: HvqConfig,
) -> Tensor:
    """L_Hiera of Eq. 4. ``temporal`` and ``semantic`` are (quantized, original) outputs of those frames."""
    loss = positive_q.new_zeros(())
    if temporal is not None:
        loss = loss + triplet(anchor_fp, positive_q, *temporal, channel_dim, config)
    if semantic is not None:
        loss = loss + config.sem_weight * triplet(anchor_fp, positive_q, *semantic, channel_dim, config)
    return loss


def total_loss(hierarchy: Tensor, reconstruction: Tensor, config: HvqConfig) -> Tensor:
    """L_total of Eq. 5; ``reconstruction`` is L_rec of Eq. 2 with its rounding term."""
    return hierarchy + config.rec_weight * reconstruction
