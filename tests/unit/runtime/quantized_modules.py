"""Quantized modules ready to run: ranges from given inputs, weights rounded to their final codes."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from qcore.quant.config import ActivationSpec, QuantConfig, SoftmaxSpec, WeightSpec
from qcore.quant.fake_quantize import (
    ActivationQuantizer,
    QuantizerState,
    TensorQuantizer,
    WeightQuantizer,
    set_state,
)
from qcore.quant.layers import QuantizedLayer, output_axis

Module = TypeVar("Module", bound=nn.Module)


def quantized_layer(
    layer: nn.Module, x: Tensor, weight_bits: int, bits: int | None, axis: int | None = None
) -> QuantizedLayer:
    """``layer`` wrapped and calibrated on ``x``; ``axis``: one activation scale a channel."""
    layer.requires_grad_(False)
    weight = WeightQuantizer(weight_bits, layer.weight.shape[output_axis(layer)], output_axis(layer))
    entering = None
    if bits is not None:
        entering = ActivationQuantizer(bits, axis=axis, channels=1 if axis is None else x.shape[axis])
    wrapped = QuantizedLayer(layer, weight, entering)
    return finish(wrapped, x)


@torch.no_grad()
def finish(module: Module, *inputs: Tensor, **named: Tensor | int) -> Module:
    """Observe one forward pass, then round everything for good."""
    for part in module.modules():
        if isinstance(part, QuantizedLayer):
            part.weight_quantizer.observe(part.weight, "minmax")
    set_state(module, activations=QuantizerState.OBSERVE)
    module(*inputs, **named)
    for part in module.modules():
        if isinstance(part, TensorQuantizer):
            part.finish_observing()
    set_state(module, weights=QuantizerState.ON, activations=QuantizerState.ON)
    for part in module.modules():
        if isinstance(part, QuantizedLayer):
            part.freeze()
    return module.eval()


def on_codes(quantizer: ActivationQuantizer | None, x: Tensor) -> Tensor:
    """``x`` moved away from the borders between codes, where rounding of sums would decide its code."""
    if quantizer is None:
        return x
    shape = [1] * x.ndim
    shape[quantizer.axis or 0] = -1
    scale = quantizer.scale.view(shape)
    return ((x / scale).round() + 0.3 * torch.rand_like(x)) * scale


def recipe(weight_bits: int, bits: int, kind: str = "affine", **activation: bool) -> QuantConfig:
    """Ranges from extremes, nothing learned."""
    return QuantConfig(
        "minmax",
        WeightSpec(weight_bits),
        ActivationSpec(bits, **activation),
        SoftmaxSpec(bits, kind, taus=(1, 2), row_scale=kind == "log2" and bool(activation)),
    )


def difference(got: Tensor, want: Tensor) -> float:
    """Relative to the norm of what is wanted."""
    return float((got.float() - want.float()).norm() / want.float().norm())
