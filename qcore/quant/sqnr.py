"""Per-layer signal to quantization-noise ratio: where a quantized model loses what.

SQNR = 10 log10(|x|^2 / |x - x_hat|^2) in decibels; 6 dB are about one bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.quant.calibration_data import CalibrationClip, with_prompts
from qcore.quant.layers import QuantizedLayer
from qcore.quant.rollout import roll_out


@dataclass(frozen=True, slots=True)
class LayerSqnr:
    """One layer, in dB; larger is better. ``output`` includes the error of everything before the layer."""

    name: str
    weight_bits: int
    activation_bits: int | None
    weight_db: float
    input_db: float
    output_db: float


def decibels(signal: float, noise: float) -> float:
    """10 log10 of a power ratio, at most 120."""
    return 120.0 if noise <= signal * 1e-12 else 10.0 * math.log10(max(signal, 1e-30) / noise)


@torch.no_grad()
def measure_sqnr(
    original: SAM2Base, quantized: SAM2Base, clips: Sequence[CalibrationClip], frames: int = 4
) -> list[LayerSqnr]:
    """SQNR of every quantized layer over the first frames of the first clip."""
    first = with_prompts(original, clips[:1])[0]
    clip = CalibrationClip(first.name, first.frames[:frames], first.box_xyxy)
    layers = {name: m for name, m in quantized.named_modules() if isinstance(m, QuantizedLayer)}
    theirs = _record_calls(original, {name: original.get_submodule(name) for name in layers}, clip)
    ours = _record_calls(quantized, dict(layers), clip)
    results = []
    for name, layer in layers.items():
        weight = original.get_submodule(name).get_parameter("weight")
        weight_db = decibels(_power(weight), _power(weight - layer.weight))
        signal = noise = input_signal = input_noise = 0.0
        for (x, y), (_, y_q) in zip(theirs[name], ours[name]):
            if y.shape == y_q.shape:
                signal, noise = signal + _power(y), noise + _power(y - y_q)
            if layer.input_quantizer is not None:
                input_signal += _power(x)
                input_noise += _power(x - layer.input_quantizer(x))
        results.append(
            LayerSqnr(
                name,
                layer.weight_quantizer.bits,
                None if layer.input_quantizer is None else layer.input_quantizer.bits,
                weight_db,
                decibels(input_signal, input_noise),
                decibels(signal, noise),
            )
        )
    return results


def _power(x: Tensor) -> float:
    return float(x.float().pow(2).sum())


def _record_calls(
    model: SAM2Base, modules: dict[str, nn.Module], clip: CalibrationClip
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in modules}

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def after(module: nn.Module, args: Any, out: Tensor) -> None:
            calls[name].append((args[0].detach().clone(), out.detach().clone()))

        return after

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        roll_out(model, [clip])
    finally:
        for handle in handles:
            handle.remove()
    return calls


def sqnr_markdown(rows: Sequence[LayerSqnr]) -> str:
    """A table with a bar of the output's ratio, one line a layer."""
    lines = [
        "| layer | W | A | weight dB | input dB | output dB | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        activation = "fp" if row.activation_bits is None else str(row.activation_bits)
        bar = "█" * round(max(0.0, min(40.0, row.output_db)) / 2)
        lines.append(
            f"| {row.name} | {row.weight_bits} | {activation} | {row.weight_db:.1f} | {row.input_db:.1f} "
            f"| {row.output_db:.1f} | {bar} |"
        )
    return "\n".join(lines) + "\n"
