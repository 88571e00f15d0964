"""Kernels of quantized layers against the fake-quantized layers they stand for."""

from __future__ import annotations

import pytest
import torch
from quantized_modules import difference, on_codes, quantized_layer
from torch import nn

from qcore.quant.fake_quantize import QuantizerState
from qcore.runtime.channels_last import DoublingConv, PointwiseConv, as_linear
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.quantized_layers import (
    FeedForward,
    QuantizedConv,
    QuantizedLinear,
    kernel_layer,
    linear_kernel,
    runs_on_integers,
)

BITS = [(2, 4), (4, 4), (6, 6), (4, 8), (8, 8), (6, None)]
"""Of weights and activations; None leaves the input in floating point."""
ACTIVATIONS = {"none": nn.Identity(), "relu": nn.ReLU(), "gelu": nn.GELU()}


def linear(weight_bits: int, bits: int | None, wide: int = 40, out: int = 24, seed: int = 0):  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    x = torch.randn(3, 11, wide)
    layer = quantized_layer(nn.Linear(wide, out), x, weight_bits, bits)
    return layer, on_codes(layer.input_quantizer, x)


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("bits", BITS)
@torch.inference_mode()
def test_linear(bits: tuple[int, int | None], activation: str, integers: bool) -> None:
    layer, x = linear(*bits)
    kernel = QuantizedLinear(layer, torch.float32, 33, activation, integers=integers)
    assert difference(kernel(x), ACTIVATIONS[activation](layer(x))) < 1e-5


@torch.inference_mode()
def test_linear_with_reordered_outputs() -> None:
    layer, x = linear(6, 6)
    order = torch.randperm(24)
    kernel = linear_kernel(layer, torch.float32, 33, order=order)
    assert difference(kernel(x), layer(x)[..., order]) < 1e-5


@torch.inference_mode()
def test_bf16_products_of_8_bit_integers_lose_only_the_result() -> None:
    layer, x = linear(8, 8)
    kernel = QuantizedLinear(layer, torch.bfloat16, 33, integers=False)
    assert difference(kernel(x), layer(x)) < 5e-3


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@torch.inference_mode()
def test_feed_forward(activation: str, integers: bool) -> None:
    first, x = linear(6, 6, out=64)
    second = quantized_layer(nn.Linear(64, 24), ACTIVATIONS[activation](first(x)), 6, 6)
    kernels = [
        linear_kernel(layer, torch.float32, 33, act, integers=integers)
        for layer, act in ((first, activation), (second, "none"))
    ]
    want = second(ACTIVATIONS[activation](first(x)))
    # a hidden value beside a border may take the neighbouring code: one step of one input
    assert difference(FeedForward(*kernels)(x), want) < 5e-3


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "conv",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 5, "padding": 2, "groups": 16},
    ],
)
@torch.inference_mode()
def test_convolution(conv: dict[str, int], bits: tuple[int, int | None], integers: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 10, 10)
    layer = quantized_layer(nn.Conv2d(16, 16, **conv), x, *bits)  # type: ignore[arg-type]
    x = on_codes(layer.input_quantizer, x)
    kernel = QuantizedConv(layer, torch.float32, integers)
    assert difference(kernel(x), layer(x)) < 1e-5


@pytest.mark.parametrize("integers", [True, False])
@torch.inference_mode()
def test_depthwise_convolution_with_a_scale_a_channel(integers: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 10, 10) * torch.rand(1, 16, 1, 1)
    layer = quantized_layer(nn.Conv2d(16, 16, 3, 1, 1, groups=16), x, 6, 6, axis=1)
    x = on_codes(layer.input_quantizer, x)
    assert difference(QuantizedConv(layer, torch.float32, integers)(x), layer(x)) < 1e-5


@torch.inference_mode()
def test_any_other_layer_keeps_its_own_arithmetic() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 6, 6)
    layer = quantized_layer(nn.ConvTranspose2d(8, 4, 2, 2), x, 6, 6)
    assert torch.allclose(kernel_layer(layer, torch.float32, 36, True)(x), layer(x), atol=1e-6)


def test_integers_are_not_used_where_they_would_overflow() -> None:
    layer, _ = linear(8, 8)
    layer.weight_quantizer.zero_point.zero_()  # codes up to 255 do not fit a signed byte
    layer.weight_quantizer.codes = torch.full_like(layer.weight_quantizer.codes, 255)
    assert not runs_on_integers(layer, True)


@pytest.mark.parametrize("part", ["weight_quantizer", "input_quantizer"])
def test_a_layer_that_is_still_being_calibrated_is_refused(part: str) -> None:
    layer, _ = linear(6, 6)
    getattr(layer, part).state = QuantizerState.OFF
    with pytest.raises(UnsupportedModuleError):
        linear_kernel(layer, torch.float32, 33)


CHANNEL_LAYERS = {
    "1x1": lambda: nn.Conv2d(12, 7, 1),
    "1x1 without bias": lambda: nn.Conv2d(12, 7, 1, bias=False),
    "doubling": lambda: nn.ConvTranspose2d(12, 7, 2, 2),
}


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", list(CHANNEL_LAYERS))
@torch.inference_mode()
def test_convolutions_as_linear_layers_of_channels(
    kind: str, bits: tuple[int, int | None], integers: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, 6, 5)
    layer = quantized_layer(CHANNEL_LAYERS[kind](), x, *bits)
    x = on_codes(layer.input_quantizer, x)
    if kind == "doubling":
        grow = DoublingConv(layer, torch.float32, 30, integers)
        got = grow(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    else:
        got = PointwiseConv.of(layer, torch.float32, 30, integers)(x)
    assert got.shape == layer(x).shape
    assert difference(got, layer(x)) < 1e-5


def test_only_final_layers_of_channels_with_one_scale_are_taken() -> None:
    x = torch.randn(2, 12, 6, 5)
    apart = quantized_layer(nn.Conv2d(12, 7, 1), x, 8, 8, axis=1)
    open_ = quantized_layer(nn.Conv2d(12, 7, 1), x, 8, 8)
    open_.weight_quantizer.codes = None
    for layer in (apart, open_, quantized_layer(nn.Conv2d(12, 7, 3), x, 8, 8)):
        with pytest.raises(UnsupportedModuleError):
            as_linear(layer)
