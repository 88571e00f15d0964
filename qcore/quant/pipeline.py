"""Algorithm 1: from a full-precision SAM 2 and calibration clips to a quantized one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from qcore.quant.affine import QuantizationError
from qcore.quant.bundle import fits_half
from qcore.quant.bundle_header import MutualKvHeader
from qcore.quant.calibration_data import CalibrationClip, fingerprint, with_prompts
from qcore.quant.checkpoints import Checkpoints
from qcore.quant.config import QuantConfig
from qcore.quant.fake_quantize import (
    QuantizerState,
    TensorQuantizer,
    WeightQuantizer,
    quantizers,
    set_state,
)
from qcore.quant.folding import prepare_weights
from qcore.quant.insertion import insert
from qcore.quant.layers import QuantizedLayer
from qcore.quant.mutual_kv_loop import choose_epsilon, merging
from qcore.quant.reconstruct import UnitData, UnitReport, reconstruct_unit
from qcore.quant.replay import StageReplay
from qcore.quant.rollout import STAGES, ImageFeatures, StageCall, roll_out
from qcore.quant.targets import Plan, make_plan
from qcore.quant.units import Unit, find_units

SMALLEST_NORMAL = 2.0**-14
"""The smallest number that fp16 holds with all its digits."""

log = logging.getLogger(__name__)


class CalibrationCancelledError(QuantizationError):
    """The user stopped it; finished units are on disk when a work folder was given."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a calibration is."""

    stage: str
    """``prepare``, ``observe``, ``reconstruct`` or ``finish``."""
    module: str
    done: float
    """Share of all work, 0..1 (an estimate)."""
    loss: float | None
    eta_s: float | None
    """Seconds left, judged by the pace so far; None at the start."""
    unit: int = 0
    """Which unit is being fitted, from 1; 0 in other stages."""
    units: int = 0
    """Units to fit in all; 0 until that is known."""


@dataclass
class QuantizedModel:
    """A quantized model ready to run or save, and how it came about."""

    model: SAM2Base
    config: QuantConfig
    plan: Plan
    units: list[UnitReport]
    mutual_kv: MutualKvHeader | None
    calibration: dict[str, Any]
    wall_s: float
    cpu_s: float
    stage_s: dict[str, float] = field(default_factory=dict)


class _Tracker:
    """Turns steps into `Progress` and looks whether to stop."""

    def __init__(
        self, progress: Callable[[Progress], None] | None, should_stop: Callable[[], bool] | None
    ) -> None:
        self._progress, self._should_stop = progress, should_stop
        self._started = self._last = time.monotonic()
        self._stage = ""
        self._first_done: float | None = None

    def step(
        self, stage: str, module: str, done: float, loss: float | None = None, unit: int = 0, units: int = 0
    ) -> None:
        """Report at most every 0.2 s, but always that a stage begins.

        Raises:
            CalibrationCancelledError: the caller wants to stop.
        """
        if self._should_stop is not None and self._should_stop():
            raise CalibrationCancelledError("Calibration was stopped.")
        now = time.monotonic()
        is_news = stage != self._stage or not 0 < done < 1
        if self._progress is None or (now - self._last < 0.2 and not is_news):
            return
        self._last, self._stage = now, stage
        if self._first_done is None:
            self._first_done = done
        share = done - self._first_done
        eta = (now - self._started) * (1 - done) / share if share > 0.01 else None
        self._progress(Progress(stage, module, min(1.0, done), loss, eta, unit, units))


def quantize_model(
    model: SAM2Base,
    clips: Sequence[CalibrationClip],
    config: QuantConfig,
    progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    work_dir: Path | None = None,
) -> QuantizedModel:
    """Algorithm 1 of the paper; deterministic for a seed.

    Args:
        model: full precision, eval mode; it is not changed.
        clips: calibration data (see `collect_clips`).
        config: what to do; ``qcore.quant.methods.method(...)`` makes one.
        progress: told stage, module, loss and time left.
        should_stop: asked often; True ends the run.
        work_dir: finished units are kept there, and a later call with the same model, data and config goes on
            from them.

    Raises:
        QuantizationError: the configuration fits neither model nor data.
        CalibrationCancelledError: ``should_stop`` said so.
    """
    started, cpu_started = time.monotonic(), time.process_time()
    tracker, stage_s = _Tracker(progress, should_stop), {}
    tracker.step("prepare", "", 0.0)
    clips = with_prompts(model, clips)
    plan = make_plan(model, config)
    checkpoints = Checkpoints.open(work_dir, model, clips, config)

    # line 1: copy, insert fake quantizers
    teacher = prepare_weights(model, clips, config)
    quantized = insert(teacher, config, plan)
    # lines 2 and 3: observe weights and, with every quantizer off, activations
    originals = observe(
        quantized, clips, config, STAGES, lambda share: tracker.step("observe", "", 0.02 + 0.08 * share)
    )
    stage_s["observe"] = time.monotonic() - started
    # line 4: enable
    set_state(quantized, weights=QuantizerState.ON, activations=QuantizerState.ON)
    mutual_kv = choose_epsilon(originals["memory_attention"], config)
    # lines 5 to 7: reconstruct unit by unit
    reports = _reconstruct(quantized, teacher, clips, originals, config, mutual_kv, tracker, checkpoints)
    stage_s["reconstruct"] = time.monotonic() - started - stage_s["observe"]
    # line 8: what is not fitted rounds to nearest; everything is final
    freeze(quantized)
    assert_deployable(quantized)
    tracker.step("finish", "", 1.0)
    calibration = {
        "clips": len(clips),
        "frames": sum(len(clip.frames) for clip in clips),
        "names": [clip.name for clip in clips],
        "sha256": fingerprint(clips),
        "seed": config.seed,
    }
    return QuantizedModel(
        quantized,
        config,
        plan,
        reports,
        mutual_kv,
        calibration,
        time.monotonic() - started,
        time.process_time() - cpu_started,
        stage_s,
    )


def observe(
    quantized: nn.Module,
    clips: Sequence[CalibrationClip],
    config: QuantConfig,
    record: Sequence[str] = (),
    on_share: Callable[[float], None] = lambda share: None,
) -> dict[str, list[StageCall]]:
    """Lines 2 and 3: ranges of weights from the weights, of activations from a full-precision rollout.

    A quantizer that no data reaches (a head that tracking never uses) is removed from its layer and reported.
    Returns the recorded inputs of the stages in ``record``: an observing model is still the original.
    """
    for _, module in quantized.named_modules():
        if isinstance(module, QuantizedLayer):
            module.weight_quantizer.observe(module.weight, config.weights.observer)
    set_state(quantized, activations=QuantizerState.OBSERVE)
    frames = sum(len(clip.frames) for clip in clips)
    seen = 0

    def after_frame(clip: int, frame: int) -> None:
        nonlocal seen
        seen += 1
        on_share(seen / frames)

    recorded = roll_out(quantized, clips, record, after_frame)
    set_state(quantized, activations=QuantizerState.OFF)
    for name, module in list(quantized.named_modules()):
        if isinstance(module, QuantizedLayer) and module.input_quantizer is not None:
            if module.input_quantizer.saw_data:
                module.input_quantizer.finish_observing()
            else:
                module.input_quantizer = None
                log.info("%s is not used in tracking: its input stays in floating point", name)
        elif isinstance(module, TensorQuantizer) and not name.endswith("input_quantizer"):
            module.finish_observing()
    return recorded


def _reconstruct(
    quantized: nn.Module,
    teacher: nn.Module,
    clips: Sequence[CalibrationClip],
    originals: dict[str, list[StageCall]],
    config: QuantConfig,
    mutual_kv: MutualKvHeader | None,
    tracker: _Tracker,
    checkpoints: Checkpoints,
) -> list[UnitReport]:
    """Lines 5 to 7. Each stage is replayed on inputs recorded with everything before it already quantized."""
    if config.reconstruction is None:
        return []
    units = find_units(quantized, teacher, config.reconstruction.unit)
    reports: list[UnitReport] = []
    images: ImageFeatures | None = None
    for stage in dict.fromkeys(unit.stage for unit in units):
        in_stage = [unit for unit in units if unit.stage == stage]
        if all(checkpoints.holds(unit.name) for unit in in_stage):
            for unit in in_stage:
                reports.append(checkpoints.restore(unit))
            continue
        inputs = originals[stage]
        if stage != STAGES[0]:  # images are the same for both models
            images = images or ImageFeatures(quantized, clips)
            with _later_stages_exact(quantized, stage):
                inputs = roll_out(quantized, clips, [stage], images=images)[stage]
        ours, theirs = StageReplay(quantized, stage, inputs), StageReplay(teacher, stage, originals[stage])
        for unit in in_stage:
            index = units.index(unit)

            def on_iteration(iteration: int, loss: float, index: int = index, unit: Unit = unit) -> None:
                assert config.reconstruction is not None
                part = iteration / max(1, config.reconstruction.iterations)
                done = 0.1 + 0.88 * (index + part) / len(units)
                tracker.step("reconstruct", unit.name, done, loss, index + 1, len(units))

            start = 0.1 + 0.88 * index / len(units)
            tracker.step("reconstruct", unit.name, start, None, index + 1, len(units))
            if checkpoints.holds(unit.name):
                reports.append(checkpoints.restore(unit))
                continue
            seed = config.seed * 100_003 + index
            data = UnitData.of(unit, ours.capture(unit, seed), theirs.capture(unit, seed))
            merge = merging(mutual_kv, config) if unit.is_cross_attention else None
            reports.append(reconstruct_unit(unit, data, config, seed, merge, on_iteration))
            checkpoints.keep(unit, reports[-1])
        originals.pop(stage)
    return reports


class _later_stages_exact:  # noqa: N801 - used as a context manager
    """Quantizers of the stages after ``stage`` off: they are not fitted yet and would only blur its
    inputs.
    """

    def __init__(self, model: nn.Module, stage: str) -> None:
        order = ("image_encoder", "memory_attention", "sam_mask_decoder", "memory_encoder")
        self._later = [model.get_submodule(name) for name in order[order.index(stage) + 1 :]]

    def __enter__(self) -> None:
        for module in self._later:
            set_state(module, weights=QuantizerState.OFF, activations=QuantizerState.OFF)

    def __exit__(self, *details: object) -> None:
        for module in self._later:
            set_state(module, weights=QuantizerState.ON, activations=QuantizerState.ON)


@torch.no_grad()
def freeze(quantized: nn.Module) -> None:
    """Decide every remaining rounding; bring activation scales and the unquantized rest to fp16 values where
    they fit its range.

    The model in memory is then exactly the one a bundle stores.
    """
    for module in quantized.modules():
        if isinstance(module, QuantizedLayer):
            module.freeze()
    packed = {id(m.weight) for m in quantized.modules() if isinstance(m, QuantizedLayer)}
    for parameter in quantized.parameters():
        half = parameter.half().float()
        if id(parameter) not in packed and torch.isfinite(half).all() and not fits_half(parameter):
            parameter.copy_(half)
    _round_activation_scales([q for _, q in quantizers(quantized) if isinstance(q, TensorQuantizer)])


def _round_activation_scales(steps: Sequence[TensorQuantizer]) -> None:
    """To fp16, which changes normal numbers by 1 in 2048 at most; all stay as they are if one does not fit.

    A channel whose step is below fp16's normal numbers, beside one of 256 times that or more, is as good as
    dead (often all 0) and gets the smallest normal step: less than the rounding of its neighbours.
    """
    scales: list[torch.Tensor] = []
    for quantizer in steps:
        scale = quantizer.get_buffer("scale")
        if scale.numel() > 1 and float(scale.max()) >= 256 * SMALLEST_NORMAL:
            scale = scale.clamp(min=SMALLEST_NORMAL)
        scales.append(scale)
    if all(float(s.min()) >= SMALLEST_NORMAL and float(s.max()) <= 65504.0 for s in scales):
        for quantizer, scale in zip(steps, scales):
            quantizer.scale = scale.half().float()


def assert_deployable(quantized: nn.Module) -> None:
    """What must hold of a finished model: nothing soft, nothing dropped, every code within its bits.

    Raises:
        QuantizationError: naming the first quantizer that fails.
    """
    for name, quantizer in quantizers(quantized):
        if quantizer.state is not QuantizerState.ON:
            raise QuantizationError(f"The quantizer {name} is not on.")
        if isinstance(quantizer, WeightQuantizer):
            if quantizer.rounding is not None or quantizer.codes is None:
                raise QuantizationError(f"The rounding of {name} is not decided.")
            if int(quantizer.codes.max()) >= 1 << quantizer.bits:
                raise QuantizationError(f"A code of {name} does not fit its bits.")
        elif quantizer.p_fp != 0.0:
            raise QuantizationError(f"The quantizer {name} still leaves elements unquantized.")
