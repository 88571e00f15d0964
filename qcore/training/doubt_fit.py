"""Fits the doubt head to what it sees while the model itself tracks: whole sequences, and objects that leave.

The rest of the model stays as it is. A mask counts as right on a frame with the object, and as wrong on one
without it. Labelled sequences as they are weigh more than pasted exits: the head must not doubt what merely
is hard to see, and pasted objects are told from their surroundings too easily. Frames on which the model
goes on without its object are few, and come in runs that look alike: so each round of exits gets a line of
its own, and their average, which is a line too, is the one that is kept. The net has few inputs and is fitted
to all rounds at once. The two are fitted apart, each to say how much a mask is to be doubted, and then
averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.models.doubt_head import HIDDEN, SIGNS, DoubtHead, doubt_head_of
from qcore.training.errors import TrainingError
from qcore.training.presence import ExitClip
from qcore.training.presence_head import judged_inputs

STEPS = 600
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 2.0
"""So strong that no input alone decides."""
NET_STEPS = 400
NET_LEARNING_RATE = 5e-3
NET_WEIGHT_DECAY = 1.0
NETS = 4
"""That many are fitted, each from its own start, and averaged: they are one wider net."""
SHARE_OF_LINE = 2 / 3
"""Of line and net in what they say together."""
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
    width = head.channels + len(SIGNS)
    return DoubtSamples(
        torch.stack(inputs) if inputs else torch.empty(0, width), torch.tensor(in_view).bool()
    )


def fit_doubt(
    head: DoubtHead, whole: DoubtSamples, rounds: Sequence[DoubtSamples], shift: float = 0.0
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
    lines = [_fit_line(_weighted(whole, leaving), head.line.in_features) for leaving in rounds]
    together = DoubtSamples(
        torch.cat([leaving.inputs_nk for leaving in rounds]), torch.cat([one.in_view_n for one in rounds])
    )
    hidden_weight, hidden_bias, last_weight, last_bias = _fit_net(_weighted(whole, together), head.channels)
    share = SHARE_OF_LINE
    with torch.no_grad():
        head.line.weight.copy_(share * torch.stack([line.weight for line in lines]).mean(0))
        head.line.bias.copy_(share * torch.stack([line.bias for line in lines]).mean(0) + shift)
        head.hidden.weight.copy_(hidden_weight)
        head.hidden.bias.copy_(hidden_bias)
        head.last.weight.copy_((1 - share) * last_weight)
        head.last.bias.copy_((1 - share) * last_bias)


@dataclass(frozen=True, slots=True)
class _Weighted:
    """Frames to fit to."""

    inputs_nk: Tensor
    wanted_n: Tensor
    """1 without the object, 0 with it."""
    weight_n: Tensor
    """1 on average."""

    def loss(self, doubt_n1: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(doubt_n1.flatten(), self.wanted_n, self.weight_n)


def _weighted(whole: DoubtSamples, leaving: DoubtSamples) -> _Weighted:
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
    return _Weighted(inputs_nk, (~in_view_n).float(), weight_n)


def _fit_line(samples: _Weighted, width: int) -> nn.Linear:
    """A line through the first inputs."""
    normal_nk, mean_k, deviation_k = _normal(samples.inputs_nk[:, :width])
    line = nn.Linear(width, 1)
    nn.init.zeros_(line.weight)
    nn.init.zeros_(line.bias)
    optimizer = torch.optim.AdamW(line.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(STEPS):
        loss = samples.loss(line(normal_nk))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _of_plain_inputs(line, mean_k, deviation_k)


def _fit_net(samples: _Weighted, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights and biases of both layers of the net over the inputs after the token."""
    normal_nk, mean_k, deviation_k = _normal(samples.inputs_nk[:, channels:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        width = HIDDEN // NETS
        nets = [(nn.Linear(normal_nk.shape[1], width), nn.Linear(width, 1)) for _ in range(NETS)]
    for hidden, last in nets:
        parameters = [*hidden.parameters(), *last.parameters()]
        optimizer = torch.optim.AdamW(parameters, NET_LEARNING_RATE, weight_decay=NET_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NET_STEPS)
        for _ in range(NET_STEPS):
            loss = samples.loss(last(torch.relu(hidden(normal_nk))))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        _of_plain_inputs(hidden, mean_k, deviation_k)
    return (
        torch.cat([hidden.weight for hidden, _ in nets]),
        torch.cat([hidden.bias for hidden, _ in nets]),
        torch.cat([last.weight for _, last in nets], 1) / NETS,
        torch.stack([last.bias for _, last in nets]).mean(0),
    )


def _normal(inputs_nk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of mean 0 and deviation 1, and what their mean and deviation (K,) were."""
    mean_k, deviation_k = inputs_nk.mean(0), inputs_nk.std(0) + 1e-6
    return (inputs_nk - mean_k) / deviation_k, mean_k, deviation_k


def _of_plain_inputs(layer: nn.Linear, mean_k: Tensor, deviation_k: Tensor) -> nn.Linear:
    """A layer that was fitted to `_normal` inputs, for those as they are; in place."""
    with torch.no_grad():
        layer.weight.div_(deviation_k)
        layer.bias.sub_(layer.weight @ mean_k)
    return layer
