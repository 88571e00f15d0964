"""Algorithm 1, line 1: put fake quantizers into a copy of the model, as the plan says."""

from __future__ import annotations

import copy

from torch import nn

from qcore.quant.attention import quantized_class
from qcore.quant.config import QuantConfig
from qcore.quant.fake_quantize import ActivationQuantizer, WeightQuantizer
from qcore.quant.layers import QuantizedLayer, is_depthwise, output_axis
from qcore.quant.softmax_quantizer import LogSoftmaxQuantizer
from qcore.quant.targets import AttentionPlan, LayerPlan, Plan, make_plan


def insert(model: nn.Module, config: QuantConfig, plan: Plan | None = None) -> nn.Module:
    """A deep copy of ``model`` with quantizers in place, all off: its output is still the original's."""
    plan = make_plan(model, config) if plan is None else plan
    quantized = copy.deepcopy(model)
    quantized.requires_grad_(False)
    for layer_plan in plan.layers:
        if layer_plan.weight_bits is not None:
            _replace(quantized, layer_plan.name, _wrap(quantized, layer_plan, config))
    for attention_plan in plan.attentions:
        _replace(quantized, attention_plan.name, _take_over(quantized, attention_plan, config))
    return quantized


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent_name, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent_name), child, new)


def _wrap(model: nn.Module, plan: LayerPlan, config: QuantConfig) -> QuantizedLayer:
    layer = model.get_submodule(plan.name)
    assert plan.weight_bits is not None
    axis = output_axis(layer)
    weight_quantizer = WeightQuantizer(
        plan.weight_bits,
        layer.get_parameter("weight").shape[axis],
        axis,
        config.weights.is_symmetric(plan.weight_bits),
    )
    input_quantizer = None
    if plan.activation_bits is not None:
        spec = config.activations
        per_channel = spec.depthwise_per_channel and is_depthwise(layer)
        input_quantizer = ActivationQuantizer(
            plan.activation_bits,
            spec.observer,
            spec.symmetric,
            axis=1 if per_channel else None,
            channels=layer.get_parameter("weight").shape[0] if per_channel else 1,
            seed=config.seed,
        )
    return QuantizedLayer(layer, weight_quantizer, input_quantizer)


def head_width(attention: nn.Module) -> int:
    """Channels of one head of any of SAM 2's attentions."""
    width: int = getattr(attention, "internal_dim", None) or attention.dim_out  # type: ignore[assignment]
    heads: int = attention.num_heads  # type: ignore[assignment]
    return width // heads


def _take_over(model: nn.Module, plan: AttentionPlan, config: QuantConfig) -> nn.Module:
    original = model.get_submodule(plan.name)
    spec, softmax = config.activations, config.softmax
    replacement = quantized_class(original)
    assert replacement is not None

    def operand(axis: int | None = None) -> ActivationQuantizer:
        channels = 1 if axis is None else head_width(original)
        return ActivationQuantizer(
            plan.activation_bits, spec.observer, spec.symmetric, axis, channels, config.seed
        )

    probs: ActivationQuantizer | LogSoftmaxQuantizer
    if softmax.kind == "log2":
        probs = LogSoftmaxQuantizer(plan.softmax_bits, softmax.taus, softmax.row_scale, config.seed)
    else:
        probs = ActivationQuantizer(plan.softmax_bits, softmax.observer, seed=config.seed)
    value_axis = -1 if spec.value_per_channel else None
    return replacement.adopt(original, operand(), operand(), operand(value_axis), probs)
