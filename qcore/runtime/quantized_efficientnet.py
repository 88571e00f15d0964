"""The embedded model's quantized trunk: inside a block, maps stay bytes from one convolution to the next.

A block rounds its input, expands, filters and projects. What lies between is non-negative (ReLU6), so its
codes have zero point 0 and come out of the convolution itself: the scale of the codes is folded into the
weights' scales and the bias, and ReLU6 becomes a clamp of the codes. The residual stream stays float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcore.models.embedded import EfficientNetLiteTrunk, InvertedBottleneck
from qcore.quant.layers import QuantizedLayer
from qcore.runtime.choice import Case, Choice, Way
from qcore.runtime.convolution import PackedConv, without_border
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.integer import IntegerConv, fits
from qcore.runtime.quantized_layers import (
    QuantizedConv,
    centred_codes,
    channels_last_noise,
    check_final,
    conv_kernel,
    has_simple_geometry,
    input_rounding,
)
from qcore.runtime.rounding import Rounding


class _Codes:
    """The non-negative codes that a convolution takes: its input rounding, seen from the layer before.

    Raises:
        UnsupportedModuleError: some zero point is not 0.
    """

    def __init__(self, layer: QuantizedLayer) -> None:
        rounding = input_rounding(layer, 4)
        if rounding is None or bool((torch.as_tensor(rounding.zero_point) != 0).any()):
            raise UnsupportedModuleError("Codes after ReLU6 do not start at zero.")
        self.largest = rounding.largest
        self.scale = torch.as_tensor(rounding.scale).reshape(-1)
        # where 6 is less than the range, ReLU6 ends below the largest code
        caps = (6.0 / self.scale).clamp(max=float(self.largest))
        self.highest = float(caps.max())
        self.caps: Tensor | None = None
        if float(caps.min()) < self.highest:
            self.caps = caps.round().to(torch.uint8).view(1, -1, 1, 1)

    def cap(self, codes_bchw: Tensor) -> Tensor:
        """Codes clamped per channel where channels differ in it."""
        return codes_bchw if self.caps is None else torch.minimum(codes_bchw, self.caps)


class _IntoCodes:
    """One convolution with ReLU6, whose result is rounded for the next: float or byte input, bytes out."""

    def __init__(self, layer: QuantizedLayer, target: _Codes) -> None:
        check_final(layer)
        conv = layer.layer
        if not has_simple_geometry(conv):
            raise UnsupportedModuleError("The trunk holds other layers than plain convolutions.")
        assert isinstance(conv, nn.Conv2d)
        self.target = target
        self.rounding = input_rounding(layer, 4)
        channels = layer.weight.shape[0]
        scale = layer.weight_quantizer.scale / target.scale
        bias = torch.zeros(channels) if layer.bias is None else layer.bias.detach()
        bias = bias / target.scale
        codes = centred_codes(layer)
        self.integer: IntegerConv | None = None
        self.float: PackedConv | None = None
        rounding = self.rounding
        if rounding is not None and fits(rounding.largest, codes, conv.groups):
            if not rounding.is_per_tensor:
                scale = scale * torch.as_tensor(rounding.scale).reshape(-1)
            codes, padding = without_border(codes, int(conv.padding[0]), int(conv.stride[0]))
            self.integer = IntegerConv(codes, scale, bias, int(conv.stride[0]), padding, conv.groups)
        else:
            weight = layer.weight.detach() / target.scale.view(-1, 1, 1, 1)
            if rounding is not None:
                step = torch.as_tensor(rounding.scale).reshape(-1, 1, 1, 1)
                weight = weight * step
            self.float = PackedConv(conv, torch.float32, target.highest, weight=weight, bias=bias)
        self.input_scale = float(rounding.scale) if rounding is not None and rounding.is_per_tensor else 1.0

    def __call__(self, x_bchw: Tensor) -> Tensor:
        """From real values."""
        if self.integer is not None:
            assert self.rounding is not None
            return self.from_codes(self.rounding.bytes(x_bchw), int(self.rounding.zero_point))
        assert self.float is not None
        x_bchw = x_bchw if self.rounding is None else self.rounding.centred(x_bchw)
        return self.target.cap(Rounding(1.0, 0, self.target.largest).bytes(self.float(x_bchw)))

    def from_codes(self, codes_bchw: Tensor, zero_point: int = 0) -> Tensor:
        """From codes of the layer's own input rounding."""
        if self.integer is not None:
            codes = self.integer.codes(codes_bchw, self.input_scale, zero_point, self.target.highest)
            return self.target.cap(codes)
        assert self.float is not None
        return self.target.cap(Rounding(1.0, 0, self.target.largest).bytes(self.float(codes_bchw.float())))


def _quantized(layer: nn.Module | None) -> QuantizedLayer:
    if not isinstance(layer, QuantizedLayer):
        raise UnsupportedModuleError("Some of the trunk's convolutions are not quantized.")
    return layer


class _ByteBlock:
    """One `InvertedBottleneck` whose inner maps are bytes.

    Raises:
        UnsupportedModuleError: a layer is built or quantized otherwise.
    """

    def __init__(self, source: InvertedBottleneck) -> None:
        depthwise, pointwise = _quantized(source.dw), _quantized(source.pw)
        self.entering = _Codes(depthwise)
        expand = None if source.exp is None else _quantized(source.exp)
        self.expand = None if expand is None else _IntoCodes(expand, self.entering)
        self.filter = _IntoCodes(_with_padding(depthwise, source.pad), _Codes(pointwise))
        self.project = QuantizedConv(pointwise, torch.float32)
        self.has_residual = source.has_residual

    def __call__(self, x_bchw: Tensor) -> Tensor:
        """From the residual stream to the residual stream; the first block takes codes."""
        codes = x_bchw if self.expand is None else self.expand(x_bchw)
        codes = self.filter.from_codes(codes)
        project = self.project
        if project.integer is not None:
            assert project.rounding is not None
            residual = x_bchw if self.has_residual else None
            return project.integer.real(codes, float(project.rounding.scale), 0, residual)
        assert project.float is not None
        y_bchw = project.float(codes.float())
        return y_bchw.add_(x_bchw) if self.has_residual else y_bchw


def _with_padding(layer: QuantizedLayer, pad: nn.Module) -> QuantizedLayer:
    """The layer with its asymmetric zero padding written as a border of zeros in a symmetric one."""
    conv = layer.layer
    if not isinstance(pad, nn.ZeroPad2d):
        return layer
    assert isinstance(conv, nn.Conv2d)
    left, right, top, bottom = pad.padding
    if conv.padding != (0, 0) or not left == top == right - 1 == bottom - 1:
        raise UnsupportedModuleError("The trunk pads in another way.")
    quantizer = layer.weight_quantizer
    assert quantizer.codes is not None
    padded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        int(conv.kernel_size[0]) + 1,
        int(conv.stride[0]),
        int(right),
        groups=conv.groups,
    ).requires_grad_(False)
    padded.weight.copy_(F.pad(layer.weight, (1, 0, 1, 0)))
    padded.bias = conv.bias
    zero = quantizer.zero_point.to(torch.uint8).view(-1, 1, 1, 1)
    grown = zero.expand(*quantizer.codes.shape[:2], *padded.kernel_size).clone()
    grown[..., 1:, 1:] = quantizer.codes
    copy = type(quantizer)(quantizer.bits, len(quantizer.scale), quantizer.axis, quantizer.symmetric)
    copy.scale, copy.zero_point, copy.codes = quantizer.scale, quantizer.zero_point, grown
    copy.state = quantizer.state
    return QuantizedLayer(padded, copy, layer.input_quantizer)


class _RealBlock:
    """One `InvertedBottleneck` with real-valued maps: for bit widths that integers do not serve."""

    def __init__(self, source: InvertedBottleneck, dtype: torch.dtype, integers: Choice, side: int) -> None:
        self.expand = None if source.exp is None else _conv(source.exp, dtype, integers, side)
        self.pad = source.pad
        self.filter = _conv(source.dw, dtype, integers, side)
        self.project = _conv(source.pw, dtype, integers, side // _stride(source))
        self.has_residual = source.has_residual

    def __call__(self, x_bchw: Tensor) -> Tensor:
        y_bchw = x_bchw if self.expand is None else self.expand(x_bchw).clamp_(0.0, 6.0)
        y_bchw = self.project(self.filter(self.pad(y_bchw)).clamp_(0.0, 6.0)).float()
        return y_bchw.add_(x_bchw) if self.has_residual else y_bchw


def _stride(block: InvertedBottleneck) -> int:
    layer = block.dw.layer if isinstance(block.dw, QuantizedLayer) else block.dw
    assert isinstance(layer, nn.Conv2d)
    return int(layer.stride[0])


def _conv(layer: nn.Module, dtype: torch.dtype, integers: Choice, side: int) -> QuantizedConv | PackedConv:
    if isinstance(layer, QuantizedLayer):
        return conv_kernel(layer, dtype, side, integers)
    if type(layer) is not nn.Conv2d:
        raise UnsupportedModuleError("The trunk holds other layers than convolutions.")
    return PackedConv(layer, dtype)


_Block = _ByteBlock | _RealBlock


def _block(source: InvertedBottleneck, dtype: torch.dtype, integers: Choice, side: int) -> _Block:
    """A block on bytes where that is exact, and faster if there is a contest."""
    if not integers:
        return _RealBlock(source, dtype, False, side)
    try:
        on_bytes = _ByteBlock(source)
    except UnsupportedModuleError:
        return _RealBlock(source, dtype, integers, side)
    if isinstance(integers, bool):
        return on_bytes
    depthwise, pointwise = _quantized(source.dw), _quantized(source.pw)
    # of the map that enters; a depthwise filter's weight does not tell
    channels = depthwise.weight.shape[0] if source.exp is None else _quantized(source.exp).weight.shape[1]
    sizes = (side, channels, pointwise.weight.shape[1], pointwise.weight.shape[0])
    kind = f"{depthwise.weight.shape[-1]}x{depthwise.weight.shape[-1]}, stride {_stride(source)}"
    block: _Block = integers.build(
        Case("bottleneck", sizes, kind),
        {Way.INTEGER: lambda: on_bytes, Way.PACKED: lambda: _RealBlock(source, dtype, False, side)},
        lambda: channels_last_noise((1, channels, side, side)),
    )
    return block


_Stem = _IntoCodes | QuantizedConv | PackedConv


class _Entrance:
    """Stem and first block: the block has no expansion, so what enters it on bytes are the stem's codes."""

    def __init__(
        self, source: EfficientNetLiteTrunk, dtype: torch.dtype, integers: Choice, side: int
    ) -> None:
        stem, first = source.stem, source.blocks[0]
        assert isinstance(first, InvertedBottleneck)
        # integers or not is decided for both at once
        on_bytes = bool(integers) and isinstance(stem, QuantizedLayer)
        self.block = _block(first, dtype, on_bytes, side // 2)
        self.stem: _Stem
        if isinstance(self.block, _ByteBlock) and isinstance(stem, QuantizedLayer):
            self.stem = _IntoCodes(stem, self.block.entering)
        else:
            self.stem = _conv(stem, dtype, integers, side)

    def __call__(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.stem(x_bchw)
        if not isinstance(self.stem, _IntoCodes):
            x_bchw = x_bchw.float().clamp_(0.0, 6.0)
        return self.block(x_bchw)


def _entrance(source: EfficientNetLiteTrunk, dtype: torch.dtype, integers: Choice, side: int) -> _Entrance:
    if isinstance(integers, bool):
        return _Entrance(source, dtype, integers, side)
    on_bytes = _Entrance(source, dtype, True, side)
    if not isinstance(on_bytes.block, _ByteBlock):
        return _Entrance(source, dtype, integers, side)
    stem = _quantized(source.stem)
    entrance: _Entrance = integers.build(
        Case("stem and first bottleneck", (side, *stem.weight.shape[:2])),
        {Way.INTEGER: lambda: on_bytes, Way.PACKED: lambda: _Entrance(source, dtype, False, side)},
        lambda: channels_last_noise((1, stem.weight.shape[1], side, side)),
    )
    return entrance


class FastQuantizedEfficientNetTrunk(nn.Module):
    """Drop-in for a quantized `EfficientNetLiteTrunk` at inference.

    Args:
        source: frozen, its quantizers on.
        dtype: of the arithmetic where integers do not serve.
        integers: whether integer kernels are used, or a contest that decides.
        side: of the pictures to expect.

    Raises:
        UnsupportedModuleError: still being calibrated, or built otherwise.
    """

    def __init__(
        self,
        source: EfficientNetLiteTrunk,
        dtype: torch.dtype = torch.float32,
        integers: Choice = True,
        side: int = 384,
    ) -> None:
        super().__init__()
        self.source = source
        self.channel_list = source.channel_list
        self._blocks: list[_Entrance | _Block] = [_entrance(source, dtype, integers, side)]
        side //= 2
        for index, block in enumerate(source.blocks):
            assert isinstance(block, InvertedBottleneck)
            if index:
                self._blocks.append(_block(block, dtype, integers, side))
            side //= _stride(block)

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        """Map (B, 3, S, S) to four float32 feature maps of strides 4, 8, 16 and 32, from fine to coarse."""
        source = self.source
        x_bchw = torch.addcmul(source.input_shift, image_bchw, source.input_scale)
        x_bchw = x_bchw.contiguous(memory_format=torch.channels_last)
        outputs: list[Tensor] = []
        for index, block in enumerate(self._blocks):
            x_bchw = block(x_bchw)
            if index in source.output_blocks:
                level = len(outputs)
                scaled = x_bchw / source.feature_rms[level]
                has_coordinates = source.has_coordinates and level < 3
                outputs.append(source._with_coordinates(scaled) if has_coordinates else scaled)
        return outputs
