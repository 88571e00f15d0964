"""Fits the doubt head to what it sees while the model itself tracks: whole sequences, and objects that leave.

The rest of the model stays as it is. A mask counts as right on a frame with the object, and as wrong on one
without it. Labelled sequences as they are weigh more than pasted exits: the head must not doubt what merely
is hard to see, and pasted objects are told from their surroundings too easily. Frames on which the model
goes on without its object are few, and come in runs that look alike: so each round of exits gets a head of
its own, and their average, which is linear too, is the one that is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.models.doubt_head import doubt_head_of
from qcore.training.errors import TrainingError
from qcore.training.presence import ExitClip
from qcore.training.presence_head import judged_inputs

STEPS = 600
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 2.0
"""So strong that no input alone decides."""
WHOLE, PASTED, ABSENT = 6.0, 1.0, 1.0
"""How much frames weigh, all of a kind together: with the object, of sequences as they are and of clips whose
object leaves; without the object."""


@dataclass(frozen=True, slots=True)
class DoubtSamples:
    """What the doubt head sees of frames with a mask."""

    inputs_nk: Tensor
    """float32 (n, K)."""
    in_view_n: Tensor
    """bool (n,)."""


def collect_doubts(model: SAM2Base, clips: Iterable[ExitClip]) -> DoubtSamples:
    """Track all clips and keep what the doubt head was given.

    Args:
        model: in eval mode, with a doubt head.
        clips: of `presence_head.whole_clips`, or a round of `presence.exit_clips`.

    Raises:
        TrainingError: the model has no doubt head.
    """
    head = doubt_head_of(model)
    if head is None:
        raise TrainingError("The model has no doubt head.")
    inputs: list[Tensor] = []
    in_view: list[bool] = []
    for given, is_in_view in judged_inputs(model, head, clips):  # none where presence says "absent"
        inputs.append(given)
        in_view.append(is_in_view)
    width = head.in_features
    return DoubtSamples(
        torch.stack(inputs) if inputs else torch.empty(0, width), torch.tensor(in_view).bool()
    )


def fit_doubt(
    head: nn.Linear, whole: DoubtSamples, rounds: Sequence[DoubtSamples], shift: float = 0.0
) -> None:
    """Fit the head in place, always alike.

    Args:
        head: of `doubt_head_of`.
        whole: of sequences as they are.
        rounds: of clips whose object leaves, for each round of them.
        shift: added to the doubt. Negative: to leave a right mask out is worse than to show a wrong one.

    Raises:
        TrainingError: a round has no frames of both kinds.
    """
    fitted = [_fit_round(whole, leaving) for leaving in rounds]
    with torch.no_grad():
        head.weight.copy_(torch.stack([weight_1k for weight_1k, _ in fitted]).mean(0))
        head.bias.copy_(torch.stack([bias_1 for _, bias_1 in fitted]).mean(0) + shift)


def _fit_round(whole: DoubtSamples, leaving: DoubtSamples) -> tuple[Tensor, Tensor]:
    """Weight (1, K) and bias (1,) of a head."""
    inputs_nk = torch.cat([whole.inputs_nk, leaving.inputs_nk])
    in_view_n = torch.cat([whole.in_view_n, leaving.in_view_n])
    if in_view_n.all() or not in_view_n.any():
        raise TrainingError("The clips show no object that leaves the picture.")
    is_whole_n = torch.arange(len(in_view_n)) < len(whole.in_view_n)
    weight_n = torch.zeros(len(in_view_n))
    for kind_n, together in ((is_whole_n, WHOLE), (~is_whole_n, PASTED)):
        weight_n[in_view_n & kind_n] = together / max(1, int((in_view_n & kind_n).sum()))
    weight_n[~in_view_n] = ABSENT / int((~in_view_n).sum())
    weight_n /= weight_n.mean()
    wanted_n = (~in_view_n).float()
    mean_k, deviation_k = inputs_nk.mean(0), inputs_nk.std(0) + 1e-6
    normal_nk = (inputs_nk - mean_k) / deviation_k
    fitted = nn.Linear(inputs_nk.shape[1], 1)
    nn.init.zeros_(fitted.weight)
    nn.init.zeros_(fitted.bias)
    optimizer = torch.optim.AdamW(fitted.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(STEPS):
        loss = F.binary_cross_entropy_with_logits(fitted(normal_nk).flatten(), wanted_n, weight_n)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight_1k = fitted.weight.detach() / deviation_k
    return weight_1k, fitted.bias.detach() - weight_1k @ mean_k
