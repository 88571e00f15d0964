"""Mutual-KV inside the reconstruction loop: the quantized branch attends to shared keys and values, the
target does not, so the values learn to make up for the sharing. Grouping itself is
`qcore.tracking.mutual_kv`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcore.quant.bundle_header import MutualKvHeader
from qcore.quant.config import QuantConfig
from qcore.quant.reconstruct import MergeMemories
from qcore.quant.rollout import StageCall
from qcore.quant.units import UnitCall
from qcore.tracking.mutual_kv import (
    Grouping,
    GroupSteps,
    Similarity,
    bisect_epsilon,
    comparison_vector,
    cosine_epsilon,
    group_frames,
)


def choose_epsilon(calls: Sequence[StageCall], config: QuantConfig) -> MutualKvHeader | None:
    """The threshold to calibrate and run with: the configured one, or the one that leaves the wished groups.

    ``target_groups`` is a share of the memory frames; the prompted frame always keeps its own keys.
    ``calls`` are the original's recorded inputs of the memory attention.
    """
    settings = config.mutual_kv
    if settings is None:
        return None
    if settings.epsilon is not None:
        return MutualKvHeader(settings.epsilon, settings.log_bias)
    similarities: list[Similarity] = []
    frame_counts: list[int] = []
    for call in calls:
        frames = _memory_frames(call.kwargs)
        if len(frames) > 2:
            similarities.append(_similarity(frames[1:][::-1]))
            frame_counts.append(len(frames))
    if not similarities:
        return MutualKvHeader(1.0, settings.log_bias)
    target = max(1.0, settings.target_groups * float(np.mean(frame_counts)))
    epsilon = bisect_epsilon(
        [GroupSteps.of(similarity, Grouping.LEADER) for similarity in similarities], target, fixed_groups=1.0
    )
    return MutualKvHeader(float(epsilon), settings.log_bias)


def _memory_frames(kwargs: dict[str, Any]) -> list[Tensor]:
    """The memory tokens of each frame (N, 1, C), prompted frame first, newest last."""
    current = kwargs["curr"][0] if isinstance(kwargs["curr"], list) else kwargs["curr"]
    tokens = kwargs["memory"].shape[0] - kwargs["num_obj_ptr_tokens"]
    return list(kwargs["memory"][:tokens].split(current.shape[0]))


def _similarity(newest_first: Sequence[Tensor]) -> Similarity:
    vectors = torch.stack([comparison_vector(frame, center=False) for frame in newest_first])
    matrix: Similarity = (vectors @ vectors.T).double().cpu().numpy()
    return matrix


def merging(header: MutualKvHeader | None, config: QuantConfig) -> MergeMemories | None:
    """A function that shares keys and values in a cross-attention's input, or None when Mutual-KV is off.

    Epsilon goes by cosine from 1 (nothing shared) to its final value over the iterations after the warm-up.
    """
    if header is None or config.reconstruction is None:
        return None
    warmup, end, log_bias = config.reconstruction.warmup, header.epsilon, header.log_bias

    def merge(call: UnitCall, progress: float) -> UnitCall:
        return share(call, cosine_epsilon(progress, end, warm_up=warmup), log_bias)

    return merge


def share(call: UnitCall, epsilon: float, log_bias: bool) -> UnitCall:
    """Average keys' and values' inputs over groups of similar frames (Eqs. 6 and 7), one batch element.

    ``k`` holds memory plus position and ``v`` memory, both (1, M, C) with frames first and pointers last;
    averaging them equals averaging keys and values, which are linear in them.
    """
    keys, values, pointers = call.kwargs["k"], call.kwargs["v"], call.kwargs.get("num_k_exclude_rope", 0)
    tokens = call.kwargs["q"].shape[1]
    count = (keys.shape[1] - pointers) // tokens
    if epsilon >= 1.0 or count < 3:
        return call
    key_frames = list(keys[:, : count * tokens].split(tokens, dim=1))
    value_frames = list(values[:, : count * tokens].split(tokens, dim=1))
    tracked = [frame.transpose(0, 1) for frame in value_frames[1:][::-1]]
    groups = group_frames(_similarity(tracked), epsilon, Grouping.LEADER)
    members = [[0], *([count - 1 - i for i in group] for group in groups)]
    members.sort(key=max)
    shared_keys = [torch.stack([key_frames[i] for i in group]).mean(0) for group in members]
    shared_values = [torch.stack([value_frames[i] for i in group]).mean(0) for group in members]
    kwargs = dict(call.kwargs)
    kwargs["k"] = torch.cat([*shared_keys, keys[:, count * tokens :]], dim=1)
    kwargs["v"] = torch.cat([*shared_values, values[:, count * tokens :]], dim=1)
    if log_bias and len(members) < count:
        per_frame = [torch.full((tokens,), math.log(len(group))) for group in members]
        kwargs["key_bias"] = torch.cat([*per_frame, torch.zeros(pointers)]).to(keys.device)
    return UnitCall(call.clip, call.frame, call.args, kwargs)
