"""How long a calibration will take on this machine and how much memory: a few of its steps, measured.

Two frames are observed and as many units as fit the time are fitted for a few steps; the rest is arithmetic.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sam2.modeling.sam2_base import SAM2Base

from qcore.evaluation.memory import peak_rss_bytes
from qcore.quant.calibration_data import CalibrationClip, with_prompts
from qcore.quant.compensation import compensate_unit
from qcore.quant.config import QuantConfig
from qcore.quant.fake_quantize import QuantizerState, set_state
from qcore.quant.folding import prepare_weights
from qcore.quant.insertion import insert
from qcore.quant.layers import output_axis
from qcore.quant.observers import make_observer, observe_weight
from qcore.quant.pipeline import observe
from qcore.quant.reconstruct import UnitData, judged_calls, judging_share, reconstruct_unit
from qcore.quant.replay import StageReplay
from qcore.quant.rollout import STAGES, StageCall, roll_out
from qcore.quant.targets import make_plan
from qcore.quant.units import Unit, find_units

_ITERATIONS = 3
_FRAMES = 3
_ROLLOUTS = 5
"""Passes over all frames besides observing, in rollouts of the original: the finished blocks of both models,
and a rollout a stage with its quantized prefix."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a calibration will cost. Seconds are of wall time on this machine as busy as it is now."""

    seconds: float
    report_seconds: float
    """Of these, for comparing the models afterwards."""
    memory_bytes: int
    """Largest memory of the process."""
    units: int
    measured_units: int
    took_s: float
    """What measuring took."""


def estimate_cost(
    model: SAM2Base,
    clip: CalibrationClip,
    clip_count: int,
    frame_count: int,
    checked_frames: int,
    config: QuantConfig,
    budget_s: float = 6.0,
    clock: Callable[[], float] = time.monotonic,
) -> Estimate:
    """Measure a few steps and scale them up.

    Args:
        model: full precision, eval mode.
        clip: any of the clips; its first frames are used.
        clip_count: clips of the whole calibration.
        frame_count: their frames together.
        checked_frames: frames on which the result will be compared.
        config: what is to be done.
        budget_s: fitting more units stops after so long.
        clock: seconds, for tests.
    """
    began = clock()
    _warm_up()
    short = with_prompts(model, [CalibrationClip(clip.name, clip.frames[:_FRAMES], clip.box_xyxy)])
    frames = len(short[0].frames)
    ranges_s = _ranges_s(model, config, clock)
    # searching for the best ranges is measured apart; here the extremes do
    quick = dataclasses.replace(
        config,
        weights=dataclasses.replace(config.weights, observer="minmax"),
        activations=dataclasses.replace(config.activations, observer="minmax"),
    )
    teacher = prepare_weights(model, short, quick)
    quantized = insert(teacher, quick)
    started = clock()
    observe(quantized, short, quick)
    observe_s = (clock() - started) / frames
    set_state(quantized, weights=QuantizerState.ON, activations=QuantizerState.ON)
    started = clock()
    inputs = roll_out(teacher, short, STAGES)
    rollout_s = (clock() - started) / frames
    # every kept input is there twice: by the original, and by the quantized prefix one stage at a time
    kept = sum(_bytes((*c.args, *c.kwargs.values())) for calls in inputs.values() for c in calls) / frames
    memory = peak_rss_bytes() + round(1.4 * kept * max(0, frame_count - frames))
    total = ranges_s + frame_count * (observe_s + _ROLLOUTS * rollout_s)
    units: list[Unit] = []
    times: dict[str, list[float]] = {}
    if config.reconstruction is not None:
        units = find_units(quantized, teacher, config.reconstruction.unit)
        order = _in_turns(units)
        # compensated rounding is measured apart: part of it does not grow with the frames
        few_steps = dataclasses.replace(config.reconstruction, iterations=_ITERATIONS, compensate=False)
        trial = dataclasses.replace(config, reconstruction=few_steps)
        deadline = clock() + budget_s
        amount = _Amount.of(clip_count, frame_count)
        for unit in order:
            if len(times) == len({unit.stage for unit in units}) and clock() > deadline:
                break
            seconds = _measure_unit(unit, quantized, teacher, inputs, trial, config, amount, clock)
            times.setdefault(unit.stage, []).append(seconds)
        every = [value for values in times.values() for value in values]
        for unit in units:
            known = times.get(unit.stage, every)
            total += sum(known) / len(known)
    report_s = checked_frames * 5 * rollout_s + 40 * rollout_s
    measured = sum(map(len, times.values()))
    return Estimate(total + report_s, report_s, memory, len(units), measured, clock() - began)


@dataclass(frozen=True, slots=True)
class _Amount:
    """Frames of the whole calibration, and what becomes of them when a unit is fitted."""

    recorded: int
    fitted: float
    judged: int

    @classmethod
    def of(cls, clip_count: int, frame_count: int) -> _Amount:
        fitted, judging = judging_share(clip_count)
        return cls(frame_count, fitted * frame_count, len(judged_calls(round(judging * frame_count))))


def _in_turns(units: Sequence[Unit]) -> list[Unit]:
    """A seeded order that goes round the stages, so that each is met early."""
    chance = random.Random(0)
    by_stage: dict[str, list[Unit]] = {}
    for unit in units:
        by_stage.setdefault(unit.stage, []).append(unit)
    for members in by_stage.values():
        chance.shuffle(members)
    longest = max(map(len, by_stage.values()), default=0)
    return [members[i] for i in range(longest) for members in by_stage.values() if i < len(members)]


def _measure_unit(
    unit: Unit,
    quantized: torch.nn.Module,
    teacher: torch.nn.Module,
    inputs: dict[str, list[StageCall]],
    trial: QuantConfig,
    config: QuantConfig,
    amount: _Amount,
    clock: Callable[[], float],
) -> float:
    """Seconds the unit will take: what grows with the frames, with the iterations, and what does neither."""
    assert config.reconstruction is not None
    calls = inputs[unit.stage]
    replays = [StageReplay(model, unit.stage, calls) for model in (quantized, teacher)]
    for replay in replays:
        replay.advance(unit)  # what comes before is computed once for all units
    frames = max(1, len(calls))
    began = clock()
    data = UnitData.of(unit, *(replay.capture(unit, 0) for replay in replays))
    total = (clock() - began) * amount.recorded / frames
    if config.reconstruction.compensate:
        total += _compensation_s(unit, data, config.weights.observer, amount.fitted, clock)
    marks: list[float] = []
    began = clock()
    reconstruct_unit(unit, data, trial, 0, None, lambda iteration, loss: marks.append(clock()))
    whole = clock() - began
    step_s = (marks[-1] - marks[0]) / (len(marks) - 1) if len(marks) > 1 else 0.0
    judging_s = max(0.0, whole - _ITERATIONS * step_s)
    return total + config.reconstruction.iterations * step_s + judging_s * amount.judged / frames


def _compensation_s(
    unit: Unit, data: UnitData, observer: str, frame_count: float, clock: Callable[[], float]
) -> float:
    """Seconds of compensated rounding: gathering grows with the frames, solving for the weights does not."""
    frames = len(data.quantized)
    took = []
    for count in (1, frames):
        began = clock()
        compensate_unit(unit, data.quantized[:count], data.original[:count], observer)
        took.append(clock() - began)
    frame_s = max(0.0, took[1] - took[0]) / max(1, frames - 1)
    return max(0.0, took[0] - frame_s) + frame_count * frame_s


def _warm_up() -> None:
    """What the first step of a process costs once, such as importing the optimizer's parts."""
    value = torch.nn.Parameter(torch.zeros(1))
    value.sum().backward()
    torch.optim.Adam([value]).step()


def _ranges_s(model: SAM2Base, config: QuantConfig, clock: Callable[[], float]) -> float:
    """Seconds that choosing all ranges takes: one activation's and one weight's search, scaled up."""
    layers = [layer for layer in make_plan(model, config).layers if layer.weight_bits is not None]
    observer = make_observer(config.activations.observer, None)
    observer.observe(torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)))
    started = clock()
    observer.qparams(config.activations.bits)
    activation_s = clock() - started
    middle = sorted(layers, key=lambda layer: layer.weights)[len(layers) // 2]
    module = model.get_submodule(middle.name)
    started = clock()
    observe_weight(
        module.get_parameter("weight"),
        config.weights.observer,
        output_axis(module),
        config.weights.bits,
        False,
    )
    weight_s = clock() - started
    return len(layers) * (activation_s + weight_s)


def _bytes(values: Sequence[object]) -> int:
    total = 0
    for value in values:
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, list | tuple):
            total += _bytes(value)
    return total
