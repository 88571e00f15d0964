"""Mixed precision by measured sensitivity (ours): which layers deserve more bits under a size budget.

Each group of layers (one sub-block) is rounded alone to 4, 6 and 8 bits, everything else exact, and the
error of the model's mask logits is measured on a rollout. A greedy knapsack then buys bits where a byte
removes most error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from qcore.quant.affine import QuantizationError
from qcore.quant.calibration_data import CalibrationClip, with_prompts
from qcore.quant.config import Override, QuantConfig
from qcore.quant.fake_quantize import QuantizerState, set_state
from qcore.quant.insertion import insert
from qcore.quant.pipeline import Progress, observe
from qcore.quant.rollout import roll_out
from qcore.quant.targets import Role, make_plan
from qcore.quant.units import find_units

CHOICES = (4, 6, 8)


@dataclass(frozen=True, slots=True)
class Option:
    """One unit at one width: its weight bytes and the mask-logit error it causes alone."""

    unit: str
    bits: int
    size_bytes: int
    error: float


def choose_bits(
    model: SAM2Base,
    clips: Sequence[CalibrationClip],
    config: QuantConfig,
    budget_bytes: int,
    progress: Callable[[Progress], None] | None = None,
) -> QuantConfig:
    """``config`` with an override for every unit, so that all weights together fit ``budget_bytes``.

    Raises:
        QuantizationError: even the smallest widths do not fit.
    """
    short = [CalibrationClip(c.name, c.frames[:4], c.box_xyxy) for c in with_prompts(model, clips[:2])]
    options = measure_options(model, short, config, progress)
    plan = make_plan(model, config)
    rest = sum(
        layer.weights * (layer.weight_bits or 16) // 8
        for layer in plan.layers
        if layer.role is not Role.QUANTIZED
    )
    chosen = knapsack(options, budget_bytes - rest)
    overrides = tuple(
        Override(f"{name.removesuffix('.ffn')}{suffix}", bits, bits)
        for name, bits in chosen.items()
        for suffix in ((".linear1", ".linear2") if name.endswith(".ffn") else _suffixes(model, name))
    )
    return dataclasses.replace(config, overrides=config.overrides + overrides)


def _suffixes(model: SAM2Base, name: str) -> tuple[str, ...]:
    return ("",) if not list(model.get_submodule(name).children()) else (".*",)


@torch.no_grad()
def measure_options(
    model: SAM2Base,
    clips: Sequence[CalibrationClip],
    config: QuantConfig,
    progress: Callable[[Progress], None] | None = None,
) -> list[Option]:
    """Error and size of every unit at every width in `CHOICES`."""
    reference = mask_logits(model, clips)
    options: list[Option] = []
    for number, bits in enumerate(CHOICES):
        trial = dataclasses.replace(
            config,
            weights=dataclasses.replace(config.weights, bits=bits),
            activations=dataclasses.replace(config.activations, bits=bits),
            softmax=dataclasses.replace(config.softmax, bits=bits),
            exempt_bits=None,
            optional_bits=None,
        )
        quantized = insert(model, trial)
        observe(quantized, clips, trial)
        set_state(quantized, weights=QuantizerState.OFF, activations=QuantizerState.OFF)
        units = find_units(quantized, model, "subblock", with_eight_bits=True)
        for index, unit in enumerate(units):
            if progress is not None:
                done = (number + index / len(units)) / len(CHOICES)
                progress(Progress("sensitivity", unit.name, done, None, None))
            set_state(unit.module, weights=QuantizerState.ON, activations=QuantizerState.ON)
            error = mask_distance(mask_logits(quantized, clips), reference)
            set_state(unit.module, weights=QuantizerState.OFF, activations=QuantizerState.OFF)
            size = sum(layer.weight.numel() for _, layer in unit.layers()) * bits // 8
            options.append(Option(unit.name, bits, size, error))
    return options


def mask_logits(model: Any, clips: Sequence[CalibrationClip]) -> list[Tensor]:
    """The mask decoder's low-resolution logits (1, 1 or 3, h, w), frame by frame over the clips."""
    masks: list[Tensor] = []
    handle = model.sam_mask_decoder.register_forward_hook(
        lambda module, args, out: masks.append(out[0].clone())
    )
    try:
        roll_out(model, clips)
    finally:
        handle.remove()
    return masks


def mask_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Mean squared difference of mask probabilities: what a person would see."""
    pairs = zip(ours, theirs, strict=True)
    return sum(float((a.sigmoid() - b.sigmoid()).pow(2).mean()) for a, b in pairs) / max(1, len(theirs))


def knapsack(options: Sequence[Option], budget_bytes: int) -> dict[str, int]:
    """Bits per unit: start with the fewest, then buy the step that removes most error a byte while it fits.

    Raises:
        QuantizationError: the fewest bits do not fit.
    """
    by_unit: dict[str, list[Option]] = {}
    for option in sorted(options, key=lambda o: (o.unit, o.bits)):
        by_unit.setdefault(option.unit, []).append(option)
    level = dict.fromkeys(by_unit, 0)
    left = budget_bytes - sum(choices[0].size_bytes for choices in by_unit.values())
    if left < 0:
        raise QuantizationError(f"Even at {CHOICES[0]} bits the weights are {-left} bytes over the budget.")
    while True:
        best: tuple[float, str, int, int] | None = None
        for unit, choices in by_unit.items():
            now = choices[level[unit]]
            for index in range(level[unit] + 1, len(choices)):
                cost = choices[index].size_bytes - now.size_bytes
                gain = (now.error - choices[index].error) / max(1, cost)
                if cost <= left and gain > 0 and (best is None or gain > best[0]):
                    best = (gain, unit, index, cost)
        if best is None:
            break
        level[best[1]], left = best[2], left - best[3]
    return {unit: by_unit[unit][index].bits for unit, index in level.items()}
