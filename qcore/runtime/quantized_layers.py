"""Quantized layers as kernels: 8-bit integers where they are exact and faster, else floats.

Every kernel computes what its `QuantizedLayer` computes with fake quantizers, to the rounding of sums; an
activation that lies within float rounding of the border between two codes may fall on the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from qcore.quant.affine import along_axis
from qcore.quant.fake_quantize import QuantizerState
from qcore.quant.layers import QuantizedLayer
from qcore.runtime.choice import Case, Choice, Way
from qcore.runtime.convolution import PackedConv
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.integer import IntegerConv, IntegerMatrix, fits
from qcore.runtime.linear import PackedLinear
from qcore.runtime.rounding import Rounding

MEASURED_ROWS = 1024
"""More rows than these are measured as these: the ways differ no more."""


class LinearKernel(Protocol):
    """What stands for a linear layer on the fast path."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map (..., in) to (..., out)."""
        ...


def check_final(layer: QuantizedLayer) -> None:
    """Refuse a layer that is still being calibrated.

    Raises:
        UnsupportedModuleError: codes are not final, or a quantizer is not on.
    """
    if not layer.weight_quantizer.is_frozen or layer.weight_quantizer.state is not QuantizerState.ON:
        raise UnsupportedModuleError("A weight is not quantized to final codes.")
    if layer.input_quantizer is not None and layer.input_quantizer.state is not QuantizerState.ON:
        raise UnsupportedModuleError("An activation quantizer is not on.")


def centred_codes(layer: QuantizedLayer) -> Tensor:
    """Weight codes minus their zero points, int16, in the weight's shape."""
    quantizer = layer.weight_quantizer
    assert quantizer.codes is not None
    zero = along_axis(quantizer.zero_point, quantizer.codes.ndim, quantizer.axis)
    return (quantizer.codes.int() - zero).to(torch.int16)


def input_rounding(layer: QuantizedLayer, ndim: int) -> Rounding | None:
    """How the layer rounds what enters; None where it does not."""
    return None if layer.input_quantizer is None else Rounding.of(layer.input_quantizer, ndim)


def runs_on_integers(layer: QuantizedLayer, integers: bool) -> bool:
    """Whether an integer kernel can stand for the layer on this machine."""
    rounding = input_rounding(layer, 2)
    if not integers or rounding is None or not rounding.is_per_tensor:
        return False
    if layer.weight.device.type != "cpu":
        return False
    groups = getattr(layer.layer, "groups", 1)
    return fits(rounding.largest, centred_codes(layer), groups)


class QuantizedLinear:
    """A `QuantizedLayer` around ``nn.Linear`` as a kernel.

    Args:
        layer: frozen, its quantizers on.
        dtype: of the product where integers do not serve.
        rows_hint: rows to expect.
        activation: ``none``, ``relu`` or ``gelu``, applied to the result.
        order: output channels in this order; None for their own.
        integers: whether integer kernels may be used.
        packed: whether a float weight is re-laid.

    Raises:
        UnsupportedModuleError: not a frozen linear layer.
    """

    def __init__(
        self,
        layer: QuantizedLayer,
        dtype: torch.dtype,
        rows_hint: int,
        activation: str = "none",
        order: Tensor | None = None,
        integers: bool = True,
        packed: bool = True,
    ) -> None:
        if type(layer.layer) is not nn.Linear:
            raise UnsupportedModuleError("A quantized layer is not a linear one.")
        check_final(layer)
        order = torch.arange(layer.weight.shape[0]) if order is None else order
        bias = None if layer.bias is None else layer.bias.detach()[order]
        scale = layer.weight_quantizer.scale[order]
        self.rounding = input_rounding(layer, 2)
        self.activation = activation
        self.integer: IntegerMatrix | None = None
        self.float: PackedLinear | None = None
        if runs_on_integers(layer, integers):
            self.integer = IntegerMatrix(centred_codes(layer)[order], scale, bias, rows_hint)
            return
        weight = layer.weight.detach()[order]
        if self.rounding is not None:
            weight = weight * self.rounding.scale
        self.float = PackedLinear(weight, bias, dtype, rows_hint, activation == "gelu", packed)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out); float32 from integers, else in the kernel's dtype."""
        flat = x.reshape(-1, x.shape[-1])
        if self.integer is not None:
            assert self.rounding is not None
            return self.from_bytes(self.rounding.bytes(flat)).view(*x.shape[:-1], -1)
        assert self.float is not None
        out = self.float(flat if self.rounding is None else self.rounding.centred(flat))
        out = torch.relu_(out) if self.activation == "relu" else out
        return out.view(*x.shape[:-1], -1)

    def from_bytes(self, codes_mk: Tensor) -> Tensor:
        """The same from input that is rounded already, float32; integer kernels only."""
        assert self.integer is not None
        return self.integer.multiply(codes_mk, *self._input(), self.activation)

    def into_bytes(self, x: Tensor, rounding: Rounding) -> Tensor:
        """The result (rows, out) rounded by what comes next; integer kernels only."""
        assert self.integer is not None
        assert self.rounding is not None
        codes = self.rounding.bytes(x.reshape(-1, x.shape[-1]))  # bytes stay as they are
        into = (float(rounding.scale), int(rounding.zero_point))
        out = self.integer.multiply(codes, *self._input(), self.activation, into)
        return out if rounding.largest == 255 else out.clamp_(max=rounding.largest)

    def _input(self) -> tuple[float, int]:
        assert self.rounding is not None
        return float(self.rounding.scale), int(self.rounding.zero_point)


class FeedForward:
    """``second(first(x))``; what lies between stays bytes where both run on integers."""

    def __init__(self, first: LinearKernel, second: LinearKernel) -> None:
        self.first, self.second = first, second

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        first, second = self.first, self.second
        if (
            isinstance(first, QuantizedLinear) and isinstance(second, QuantizedLinear)
            and first.integer is not None and second.integer is not None and second.rounding is not None
        ):  # fmt: skip
            return second.from_bytes(first.into_bytes(x, second.rounding)).view(*x.shape[:-1], -1)
        return second(first(x))


class _FloatRelu:
    def __init__(self, linear: PackedLinear) -> None:
        self.linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        return torch.relu_(self.linear(x))


def linear_kernel(
    module: nn.Module,
    dtype: torch.dtype,
    rows_hint: int,
    activation: str = "none",
    order: Tensor | None = None,
    integers: Choice = True,
) -> LinearKernel:
    """The kernel of a plain or quantized linear layer; see `QuantizedLinear`.

    Raises:
        UnsupportedModuleError: the module is neither.
    """
    layer = module.layer if isinstance(module, QuantizedLayer) else module
    if type(layer) is not nn.Linear:
        raise UnsupportedModuleError(f"{type(layer).__name__} stands where a linear layer is expected.")

    def made(way: Way, kind: torch.dtype = dtype) -> LinearKernel:
        is_packed = way is not Way.PLAIN
        if isinstance(module, QuantizedLayer):
            on_integers = way is Way.INTEGER
            return QuantizedLinear(module, kind, rows_hint, activation, order, on_integers, is_packed)
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        if order is not None:
            weight, bias = weight[order], None if bias is None else bias[order]
        kernel = PackedLinear(weight, bias, kind, rows_hint, activation == "gelu", is_packed)
        return _FloatRelu(kernel) if activation == "relu" else kernel

    if isinstance(integers, bool) or layer.weight.device.type != "cpu":
        return made(Way.INTEGER if integers else Way.PACKED)
    rows = min(rows_hint, MEASURED_ROWS)
    ways: dict[Way, Callable[[], LinearKernel]] = {
        Way.PACKED: partial(made, Way.PACKED),
        Way.PLAIN: partial(made, Way.PLAIN, torch.float32),
    }
    detail = [str(dtype).removeprefix("torch.")] + ([] if activation == "none" else [activation])
    if isinstance(module, QuantizedLayer):
        check_final(module)
        detail.append("rounded" if module.input_quantizer is not None else "weights rounded")
        if runs_on_integers(module, True):
            ways = {Way.INTEGER: partial(made, Way.INTEGER), **ways}
    case = Case("linear", (rows, layer.in_features, layer.out_features), ", ".join(detail))
    kernel: LinearKernel = integers.build(case, ways, lambda: torch.randn(rows, layer.in_features))
    return kernel


def feed_forward(
    first: nn.Module,
    second: nn.Module,
    dtype: torch.dtype,
    rows_hint: int,
    activation: str = "none",
    integers: Choice = True,
) -> FeedForward:
    """The kernels of ``second(activation(first(x)))``; see `linear_kernel`.

    Where both can run on integers they are measured as a pair: nothing is rounded between them then.

    Raises:
        UnsupportedModuleError: one is no linear layer, or still being calibrated.
    """

    def made(choice: Choice) -> FeedForward:
        return FeedForward(
            linear_kernel(first, dtype, rows_hint, activation, integers=choice),
            linear_kernel(second, dtype, rows_hint, integers=choice),
        )

    if isinstance(integers, bool):
        return made(integers)
    sizes = [min(rows_hint, MEASURED_ROWS)]
    for layer in (first, second):
        if not isinstance(layer, QuantizedLayer) or type(layer.layer) is not nn.Linear:
            return made(integers)
        check_final(layer)
        if not runs_on_integers(layer, True):
            return made(integers)
        sizes += [layer.layer.in_features, layer.layer.out_features]
    detail = [str(dtype).removeprefix("torch."), "rounded"] + ([] if activation == "none" else [activation])
    case = Case("feed forward", (*sizes[:3], sizes[-1]), ", ".join(detail))
    ways: dict[Way, Callable[[], FeedForward]] = {
        Way.INTEGER: partial(made, True),
        Way.PACKED: partial(made, False),
    }
    pair: FeedForward = integers.build(case, ways, lambda: torch.randn(sizes[0], sizes[1]))
    return pair


class QuantizedConv:
    """A `QuantizedLayer` around ``nn.Conv2d`` as a kernel; gives channels-last float32 maps.

    Raises:
        UnsupportedModuleError: not a frozen convolution with zero padding and equal strides.
    """

    def __init__(self, layer: QuantizedLayer, dtype: torch.dtype, integers: bool = True) -> None:
        conv = layer.layer
        check_final(layer)
        if not has_simple_geometry(conv):
            raise UnsupportedModuleError("A quantized layer is not a plain convolution.")
        assert isinstance(conv, nn.Conv2d)
        bias = None if layer.bias is None else layer.bias.detach()
        self.rounding = input_rounding(layer, 4)
        self.integer: IntegerConv | None = None
        self.float: PackedConv | None = None
        if runs_on_integers(layer, integers):
            self.integer = integer_conv(layer, bias)
            return
        weight = layer.weight.detach()
        if self.rounding is not None:
            scale = self.rounding.scale
            # one scale a channel exists for depthwise convolutions only: output channel = input channel
            weight = weight * (scale if isinstance(scale, float) else scale.view(-1, 1, 1, 1))
        self.float = PackedConv(conv, dtype, weight=weight)

    def __call__(self, x_bchw: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W') in float32."""
        x_bchw = x_bchw.contiguous(memory_format=torch.channels_last)
        if self.integer is not None:
            assert self.rounding is not None
            scale, zero_point = float(self.rounding.scale), int(self.rounding.zero_point)
            return self.integer.real(self.rounding.bytes(x_bchw), scale, zero_point)
        assert self.float is not None
        return self.float(x_bchw if self.rounding is None else self.rounding.centred(x_bchw)).float()


def has_simple_geometry(conv: nn.Module) -> bool:
    """True for a convolution with equal strides and zero padding and no dilation."""
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and len(set(conv.stride)) == len(set(conv.padding)) == 1
        and set(conv.dilation) == {1}
    )


def integer_conv(layer: QuantizedLayer, bias_o: Tensor | None, scale_o: Tensor | None = None) -> IntegerConv:
    """The integer kernel of a quantized convolution; ``scale_o`` replaces its weights' scales."""
    conv = layer.layer
    assert isinstance(conv, nn.Conv2d)
    scale_o = layer.weight_quantizer.scale if scale_o is None else scale_o
    stride, padding = int(conv.stride[0]), int(conv.padding[0])
    return IntegerConv(centred_codes(layer), scale_o, bias_o, stride, padding, int(conv.groups))


class RoundedLayer:
    """Any other quantized layer: its input rounded, then the layer with the real values of its codes."""

    def __init__(self, layer: QuantizedLayer) -> None:
        check_final(layer)
        self.layer = layer.layer
        self.rounding = input_rounding(layer, 4)

    def __call__(self, x: Tensor) -> Tensor:
        """As the layer."""
        out: Tensor = self.layer(x if self.rounding is None else self.rounding.real(x))
        return out


class KernelLayer(nn.Module):
    """A kernel in a model, where the quantized layer was."""

    def __init__(self, kernel: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        return self.kernel(x)


def conv_kernel(layer: QuantizedLayer, dtype: torch.dtype, side: int, integers: Choice) -> QuantizedConv:
    """The kernel of a quantized convolution; ``side`` of the maps to expect."""
    if isinstance(integers, bool):
        return QuantizedConv(layer, dtype, integers)
    check_final(layer)
    conv = layer.layer
    assert isinstance(conv, nn.Conv2d)
    ways: dict[Way, Callable[[], QuantizedConv]] = {
        Way.PACKED: lambda: QuantizedConv(layer, dtype, integers=False)
    }
    if runs_on_integers(layer, True):
        ways[Way.INTEGER] = lambda: QuantizedConv(layer, dtype)
    sizes = (side, conv.in_channels, conv.out_channels, int(conv.kernel_size[0]), int(conv.stride[0]))
    case = Case("convolution", sizes, "depthwise" if conv.groups > 1 else "")
    image = (1, conv.in_channels, side, side)
    kernel: QuantizedConv = integers.build(case, ways, lambda: channels_last_noise(image))
    return kernel


def channels_last_noise(shape_bchw: tuple[int, ...]) -> Tensor:
    """A random map as the convolutions take it."""
    return torch.randn(shape_bchw).contiguous(memory_format=torch.channels_last)


def kernel_layer(
    layer: QuantizedLayer, dtype: torch.dtype, rows_hint: int, integers: Choice, side: int = 24
) -> KernelLayer:
    """The module that replaces a quantized layer; ``side`` of the maps to expect.

    Raises:
        UnsupportedModuleError: the layer is still being calibrated.
    """
    if type(layer.layer) is nn.Linear:
        return KernelLayer(linear_kernel(layer, dtype, rows_hint, integers=integers))
    if has_simple_geometry(layer.layer):
        return KernelLayer(conv_kernel(layer, dtype, side, integers))
    return KernelLayer(RoundedLayer(layer))
