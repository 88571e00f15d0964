"""Reconstruction of one unit: fit rounding and steps so that its output matches the original's (Eqs. 2, 3,
5).

    L_rec = sum over channels, mean over the rest, of |f_fp - f_q|^2 / rms^2 + alpha R(V)          (Eq. 2)

The input mixes the quantized prefix's and the original's (QDrop); the target is the original on its own
input. After fitting, roundings are decided and the result is compared with the rounding it started from,
nearest or compensated: the better one stays. Every fourth clip is not fitted but judges (ours): a fit to the
other clips that does not carry over to these is worth nothing on a user's next video.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcore.quant.adaround import LearnedRounding, annealed_beta
from qcore.quant.attention import QuantizedRoPEAttention
from qcore.quant.compensation import compensate_unit
from qcore.quant.config import HvqConfig, QuantConfig, ReconstructionConfig
from qcore.quant.fake_quantize import (
    ActivationQuantizer,
    Chances,
    QuantizerState,
    dropping,
    quantizers,
    set_state,
)
from qcore.quant.hvq import hierarchy_loss, rms_of, sample_triple, total_loss
from qcore.quant.layers import QuantizedLayer
from qcore.quant.units import Unit, UnitCall, compact, run, stack, widen

_ROWS = 144
"""Queries of a memory attention that are answered in an iteration."""
_LOSS_CALLS = 24
"""Recorded calls, at least, from which a rounding is judged, where there are so many."""
_JUDGING = 4
"""One clip of so many is not fitted and judges; with fewer clips all of them do both."""

log = logging.getLogger(__name__)

MergeMemories = Callable[[UnitCall, float], UnitCall]
"""Mutual-KV on a cross-attention's inputs at a share 0..1 of the iterations; see `mutual_kv_loop`."""


def judging_share(clip_count: int) -> tuple[float, float]:
    """Shares of the clips that are fitted and that judge."""
    judging = clip_count // _JUDGING / max(1, clip_count)
    return (1.0 - judging, judging) if judging else (1.0, 1.0)


def judged_calls(recorded: int) -> range:
    """Which of so many recorded calls the judge looks at, evenly spaced."""
    return range(0, recorded, max(1, recorded // _LOSS_CALLS))


@dataclass(frozen=True)
class UnitReport:
    """What fitting one unit brought. Losses are L_rec without the rounding term, with final roundings."""

    name: str
    nearest_loss: float
    learned_loss: float
    soft_loss: float
    """The loss just before roundings were decided."""
    undecided: float
    """Share of roundings still between 0.05 and 0.95 at that moment."""
    kept: str
    """``learned``, ``compensated`` or ``nearest``: which rounding stayed."""
    iterations: int


@dataclass(frozen=True)
class UnitData:
    """Recorded inputs of one unit: by the quantized prefix and by the original, call for call."""

    quantized: list[UnitCall]
    original: list[UnitCall]
    targets: list[tuple[Tensor, ...]]
    """Outputs of the original on its own inputs."""

    @classmethod
    @torch.no_grad()
    def of(cls, unit: Unit, quantized: list[UnitCall], original: list[UnitCall]) -> UnitData:
        """Compute the targets."""
        return cls(
            quantized,
            original,
            [tuple(compact(out) for out in run(unit.teacher, call)) for call in original],
        )

    def split(self) -> tuple[UnitData, UnitData]:
        """What is fitted, and what judges."""
        clips = sorted({call.clip for call in self.quantized})
        judging = set(clips[_JUDGING - 1 :: _JUDGING])
        return (self._where(set(clips) - judging), self._where(judging)) if judging else (self, self)

    def _where(self, clips: set[int]) -> UnitData:
        chosen = [index for index, call in enumerate(self.quantized) if call.clip in clips]
        parts = (self.quantized, self.original, self.targets)
        return UnitData(*([part[index] for index in chosen] for part in parts))  # type: ignore[arg-type]


class _Learned:
    """The variables of one unit: V of every weight, log-steps of every activation quantizer, biases."""

    def __init__(self, unit: Unit, config: ReconstructionConfig, weights: bool, steps: bool) -> None:
        self.roundings: list[LearnedRounding] = []
        self.steps: list[tuple[ActivationQuantizer, Tensor, Tensor]] = []
        self.biases: list[nn.Parameter] = []
        for module in unit.module.modules():
            if isinstance(module, QuantizedLayer) and weights and not module.weight_quantizer.is_frozen:
                self.roundings.append(
                    module.weight_quantizer.start_learning(module.weight, config.compensate)
                )
                if config.learn_bias and module.bias is not None:
                    module.layer.bias.requires_grad_(True)
                    self.biases.append(module.layer.bias)  # type: ignore[arg-type]
            if isinstance(module, ActivationQuantizer) and steps and module.bits < 8:
                shift = torch.zeros_like(module.scale, requires_grad=True)
                self.steps.append((module, module.scale.clone(), shift))
        for rounding in self.roundings:
            rounding.v.requires_grad_(True)

    def apply_steps(self) -> None:
        """Let every activation scale follow its variable; a relative step fits scales of any size."""
        for quantizer, start, shift in self.steps:
            quantizer.scale = start * torch.exp(shift)

    def release(self) -> None:
        """Plain values again, without gradients."""
        for quantizer, start, shift in self.steps:
            quantizer.scale = (start * torch.exp(shift)).detach()
        for bias in self.biases:
            bias.requires_grad_(False)


def reconstruct_unit(
    unit: Unit,
    data: UnitData,
    config: QuantConfig,
    seed: int,
    merge: MergeMemories | None = None,
    on_iteration: Callable[[int, float], None] | None = None,
) -> UnitReport:
    """Fit one unit in place and freeze its weights.

    Args:
        unit: its weights not frozen yet, quantizers on.
        data: recorded inputs and targets.
        config: needs ``reconstruction``; ``hvq`` adds Eq. 4.
        seed: fixes batches, drops and frame triples.
        merge: Mutual-KV for cross-attention inputs of the quantized branch; the target stays unmerged.
        on_iteration: called with (iteration, loss); raise from it to stop.
    """
    settings = config.reconstruction
    assert settings is not None
    generator = torch.Generator().manual_seed(seed)
    data, judging = data.split()
    nearest = _hard_loss(unit, judging, merge)
    start, kept = _start(unit, data, judging, config, merge, nearest)
    before = _saved_steps(unit)
    start_biases = {name: layer.bias.clone() for name, layer in unit.layers() if layer.bias is not None}
    if settings.phases == "joint":
        plan = [(settings.iterations, True, True)]
    elif settings.phases == "weights":
        plan = [(settings.iterations, True, False)]
    else:
        plan = [(settings.iterations * 4 // 5, True, False), (settings.iterations // 5, False, True)]
    soft, undecided = math.nan, 0.0
    for iterations, weights, steps in plan:
        learned = _Learned(unit, settings, weights, steps)
        has_variables = learned.roundings or learned.steps
        if has_variables and iterations > 0:
            if weights and not steps:
                set_state(unit.module, activations=QuantizerState.OFF)
            _optimize(unit, data, config, learned, iterations, generator, merge, on_iteration)
            set_state(unit.module, activations=QuantizerState.ON)
        learned.release()
        if weights:
            soft = _hard_loss(unit, judging, merge)
            undecided = max((r.undecided() for r in learned.roundings), default=0.0)
            _decide(unit)
    final = _hard_loss(unit, judging, merge)
    if final < start:
        kept = "learned"
    else:
        final = start
        _restore(unit, before, start_biases)
        log.info("%s: learned rounding did not beat %s rounding, which stays", unit.name, kept)
    for _, layer in unit.layers():
        layer.freeze()
    return UnitReport(unit.name, nearest, final, soft, undecided, kept, settings.iterations)


@torch.no_grad()
def _start(
    unit: Unit,
    data: UnitData,
    judging: UnitData,
    config: QuantConfig,
    merge: MergeMemories | None,
    nearest: float,
) -> tuple[float, str]:
    """The loss to beat and the rounding that gives it: compensated if asked for and better than nearest."""
    assert config.reconstruction is not None
    if not config.reconstruction.compensate:
        return nearest, "nearest"
    saved = [
        (layer.weight_quantizer, layer.weight_quantizer.scale, layer.weight_quantizer.zero_point)
        for _, layer in unit.layers()
    ]
    values = [(parameter, parameter.clone()) for parameter in unit.module.parameters()]
    compensate_unit(unit, data.quantized, data.original, config.weights.observer)
    compensated = _hard_loss(unit, judging, merge)
    if compensated < nearest:
        return compensated, "compensated"
    for quantizer, scale, zero_point in saved:
        quantizer.scale, quantizer.zero_point = scale, zero_point
    for parameter, value in values:
        parameter.copy_(value)
    return nearest, "nearest"


def rounding_step(config: ReconstructionConfig, iterations: int) -> float:
    """Adam's step for V: 1e-3 at 20 000 iterations, growing with fewer so that V can travel as far."""
    if config.rounding_lr is not None:
        return config.rounding_lr
    return 1e-3 * min(30.0, max(1.0, 20_000 / max(1, iterations)) ** 0.7)


def _optimize(
    unit: Unit,
    data: UnitData,
    config: QuantConfig,
    learned: _Learned,
    iterations: int,
    generator: torch.Generator,
    merge: MergeMemories | None,
    on_iteration: Callable[[int, float], None] | None,
) -> None:
    settings = config.reconstruction
    assert settings is not None
    groups = []
    if learned.roundings:
        groups.append({"params": [r.v for r in learned.roundings], "lr": rounding_step(settings, iterations)})
    if learned.steps:
        groups.append({"params": [s for _, _, s in learned.steps], "lr": settings.step_lr})
    if learned.biases:
        groups.append({"params": learned.biases, "lr": 1e-3})
    optimizer = torch.optim.Adam(groups)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    # V keeps its step (AdaRound); steps and biases anneal by cosine to 0 (QDrop)
    constant = {0} if learned.roundings else set()
    sampler = _Sampler(data, config.hvq, settings.batch_size, generator)
    chances = Chances(settings.p_fp, generator)
    with torch.enable_grad(), dropping(unit.module, chances):
        for iteration in range(iterations):
            progress = iteration / iterations
            for index, (group, lr) in enumerate(zip(optimizer.param_groups, base_lrs)):
                decay = 1.0 if index in constant else 0.5 * (1 + math.cos(math.pi * progress))
                group["lr"] = lr * decay
            learned.apply_steps()
            loss = _iteration_loss(unit, data, config, sampler, merge, progress, chances)
            beta = annealed_beta(progress, *settings.beta_range, settings.warmup)
            if beta is not None and learned.roundings:
                regularizer = torch.stack([r.regularizer(beta) for r in learned.roundings]).sum()
                weight = settings.round_weight * (config.hvq.rec_weight if config.hvq else 1.0)
                loss = loss + weight * regularizer
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if on_iteration is not None:
                on_iteration(iteration, float(loss.detach()))


def _iteration_loss(
    unit: Unit,
    data: UnitData,
    config: QuantConfig,
    sampler: _Sampler,
    merge: MergeMemories | None,
    progress: float,
    chances: Chances,
) -> Tensor:
    settings = config.reconstruction
    assert settings is not None
    indices, temporal, semantic = sampler.draw()

    def target(index: int, output: int = 0) -> Tensor:
        whole = widen(data.targets[index][output])
        return whole if rows is None else whole[:, rows]

    def quantized_output(chosen: Sequence[int]) -> tuple[Tensor, ...]:
        mixed = [_mix(data.quantized[i], data.original[i], chances) for i in chosen]
        if merge is None and all(sampler.alike(i, chosen[0]) for i in chosen):
            return run(unit.module, stack(mixed))
        # the number of memories or of their groups differs from call to call: no common batch
        single = [run(unit.module, call if merge is None else merge(call, progress)) for call in mixed]
        return tuple(torch.cat(parts) for parts in zip(*single))

    # the prompted frame has more tokens in the decoder than tracked ones: nothing to compare there
    shape = data.targets[indices[0]][0].shape
    past = [
        None if index is None or data.targets[index][0].shape != shape else index
        for index in (temporal, semantic)
    ]
    with _some_rows(unit, shape[1], chances.generator) as rows:
        parts = quantized_output([*indices, *(index for index in past if index is not None)])
        targets = tuple(torch.cat([target(i, k) for i in indices]) for k in range(len(parts)))
        anchor = target(indices[0])
        count = len(targets[0])
        outputs = tuple(part[:count] for part in parts)
        reconstruction = rec_loss(outputs, targets, unit.channel_dim, settings.loss_power, settings.normalise)
        if config.hvq is None:
            return reconstruction
        rest = list(parts[0][count:].split(len(anchor)))
        near, far = (None if index is None else (rest.pop(0), target(index)) for index in past)
    hierarchy = hierarchy_loss(anchor, outputs[0][: len(anchor)], near, far, unit.channel_dim, config.hvq)
    return total_loss(hierarchy, reconstruction, config.hvq)


@contextmanager
def _some_rows(unit: Unit, queries: int, generator: torch.Generator) -> Iterator[Tensor | None]:
    """A memory attention answers a random part of its queries in this iteration; which ones, or None for
    all.
    """
    module = unit.module
    if not isinstance(module, QuantizedRoPEAttention) or queries <= _ROWS:
        yield None
        return
    rows = torch.randperm(queries, generator=generator)[:_ROWS]
    module.query_rows = rows.to(next(module.parameters()).device)
    try:
        yield module.query_rows
    finally:
        module.query_rows = None


def rec_loss(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], channel_dim: int, power: float, normalise: bool
) -> Tensor:
    """L_rec of Eq. 2 without the rounding term, summed over a unit's outputs."""
    losses = []
    for output, target in zip(outputs, targets):
        difference = output - target
        if normalise:
            difference = difference / rms_of(target)
        losses.append(difference.abs().pow(power).sum(dim=channel_dim).mean())
    return torch.stack(losses).sum()


def _mix(quantized: UnitCall, original: UnitCall, chances: Chances) -> UnitCall:
    """QDrop's input: each element from the original with probability ``chances.p``, independently for each
    tensor.
    """
    if chances.p == 0.0:
        return quantized

    def choose(a: object, b: object) -> object:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
            return a
        if not a.is_floating_point():
            return a
        return torch.lerp(widen(a), widen(b), chances.draw(a))

    return UnitCall(
        quantized.clip,
        quantized.frame,
        tuple(choose(a, b) for a, b in zip(quantized.args, original.args)),
        {key: choose(value, original.kwargs[key]) for key, value in quantized.kwargs.items()},
    )


class _Sampler:
    """Draws batches of calls that can be stacked and, for HVQ, the two past frames of the first of them."""

    def __init__(
        self, data: UnitData, hvq: HvqConfig | None, batch_size: int, generator: torch.Generator
    ) -> None:
        self._hvq, self._batch_size, self._generator = hvq, batch_size, generator
        self._of: dict[tuple[int, int], int] = {}
        self._alike: dict[object, list[int]] = {}
        self._signature: list[object] = []
        for index, call in enumerate(data.quantized):
            self._of.setdefault((call.clip, call.frame), index)
            self._alike.setdefault(call.signature(), []).append(index)
            self._signature.append(call.signature())
        self._clips: dict[int, list[int]] = {}
        for clip, frame in sorted(self._of):
            self._clips.setdefault(clip, []).append(frame)

    def alike(self, first: int, second: int) -> bool:
        """Whether two calls have inputs of the same shapes."""
        return self._signature[first] == self._signature[second]

    def draw(self) -> tuple[list[int], int | None, int | None]:
        """(indices of the batch, index of the temporal frame, of the semantic frame)."""
        anchor, temporal, semantic = self._draw_triple()
        alike = self._alike[self._signature[anchor]]
        extra = torch.randint(len(alike), (self._batch_size - 1,), generator=self._generator)
        return [anchor, *(alike[int(i)] for i in extra)], temporal, semantic

    def _draw_triple(self) -> tuple[int, int | None, int | None]:
        clips = list(self._clips)
        clip = clips[int(torch.randint(len(clips), (1,), generator=self._generator))]
        frames = self._clips[clip]
        if self._hvq is None or len(frames) < 2:
            pick = int(torch.randint(len(frames), (1,), generator=self._generator))
            return self._of[clip, frames[pick]], None, None
        triple = sample_triple(len(frames), self._hvq, self._generator)
        past = [None if i is None else self._of[clip, frames[i]] for i in (triple.temporal, triple.semantic)]
        return self._of[clip, frames[triple.t]], past[0], past[1]


@torch.no_grad()
def _hard_loss(unit: Unit, data: UnitData, merge: MergeMemories | None) -> float:
    """L_rec over evenly spaced calls with the quantized prefix's inputs, everything as it stands."""
    total, calls = 0.0, judged_calls(len(data.quantized))
    for index in calls:
        call = data.quantized[index]
        if merge is not None:
            call = merge(call, 1.0)
        targets = tuple(map(widen, data.targets[index]))
        total += float(rec_loss(run(unit.module, call), targets, unit.channel_dim, 2.0, True))
    return total / max(1, len(calls))


@torch.no_grad()
def _decide(unit: Unit) -> None:
    """Turn learned roundings into decided ones, kept as such until the layer is frozen."""
    for _, layer in unit.layers():
        rounding = layer.weight_quantizer.rounding
        if rounding is not None:
            rounding.v.copy_(torch.where(rounding.v >= 0, 50.0, -50.0))
            rounding.v.requires_grad_(False)


def _saved_steps(unit: Unit) -> dict[str, Tensor]:
    return {
        name: quantizer.scale.clone()
        for name, quantizer in quantizers(unit.module)
        if isinstance(quantizer, ActivationQuantizer)
    }


@torch.no_grad()
def _restore(unit: Unit, steps: dict[str, Tensor], biases: dict[str, Tensor]) -> None:
    for name, quantizer in quantizers(unit.module):
        if name in steps:
            quantizer.scale = steps[name]
    for name, layer in unit.layers():
        layer.weight_quantizer.rounding = None
        if name in biases and layer.bias is not None:
            layer.bias.copy_(biases[name])
