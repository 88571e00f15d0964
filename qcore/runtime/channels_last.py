"""Small parts of SAM 2's heads on maps whose channels lie together, as linear layers and norms want them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from qcore.quant.fake_quantize import WeightQuantizer
from qcore.quant.layers import QuantizedLayer
from qcore.runtime.choice import Choice
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.quantized_layers import LinearKernel, check_final, feed_forward, linear_kernel


def norm_channels(norm: LayerNorm2d, x_bhwc: Tensor) -> Tensor:
    """`LayerNorm2d` of a map with its channels last."""
    return F.layer_norm(x_bhwc, x_bhwc.shape[-1:], norm.weight, norm.bias, norm.eps)


def plain(module: nn.Module) -> Any:
    """The layer itself, without its quantizers."""
    return module.layer if isinstance(module, QuantizedLayer) else module


def is_pointwise(module: nn.Module) -> bool:
    """Whether a layer, quantized or not, is a 1x1 convolution."""
    return _has_cells(plain(module), nn.Conv2d, (1, 1))


def doubles_sides(module: nn.Module) -> bool:
    """Whether a layer, quantized or not, is a transposed convolution that doubles a map's sides."""
    return _has_cells(plain(module), nn.ConvTranspose2d, (2, 2))


def _has_cells(conv: Any, kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], cell: tuple[int, int]) -> bool:
    """Whether a convolution's filters stand side by side without overlap, so that positions are separate."""
    if type(conv) is not kind:
        return False
    return (conv.kernel_size, conv.stride, conv.padding, conv.groups) == (cell, cell, (0, 0), 1)


def _linear(weight_oi: Tensor, bias_o: Tensor | None) -> nn.Linear:
    width, depth = weight_oi.shape
    linear = nn.Linear(depth, width, bias=bias_o is not None, device="meta")
    linear.weight = nn.Parameter(weight_oi.detach(), requires_grad=False)
    if bias_o is not None:
        linear.bias = nn.Parameter(bias_o.detach(), requires_grad=False)
    return linear


def as_linear(module: nn.Module) -> nn.Module:
    """The linear layer of channels that a 1x1 convolution is, quantized where that is.

    A transposed convolution that doubles sides is one too, with the 4 C' channels of a cell: its upper left,
    upper right, lower left and lower right.

    Raises:
        UnsupportedModuleError: it is neither, or still being calibrated.
    """
    conv = plain(module)
    copies = 4 if doubles_sides(module) else 1
    if copies == 1 and not is_pointwise(module):
        raise UnsupportedModuleError(f"{type(conv).__name__} is no linear layer of channels.")

    def laid(weight: Tensor) -> Tensor:
        rows = weight if copies == 1 else weight.permute(2, 3, 1, 0)
        return rows.reshape(copies * conv.out_channels, conv.in_channels)

    linear = _linear(laid(conv.weight), None if conv.bias is None else conv.bias.repeat(copies))
    if not isinstance(module, QuantizedLayer):
        return linear
    check_final(module)
    if module.input_quantizer is not None and module.input_quantizer.axis is not None:
        raise UnsupportedModuleError("Channels of a map that are rounded apart are not covered.")
    source = module.weight_quantizer
    assert source.codes is not None
    weights = WeightQuantizer(source.bits, copies * conv.out_channels, 0, source.symmetric)
    weights.scale, weights.zero_point = source.scale.repeat(copies), source.zero_point.repeat(copies)
    weights.codes, weights.state = laid(source.codes), source.state
    return QuantizedLayer(linear, weights, module.input_quantizer)


class PointwiseConv(nn.Module):
    """Linear layers of channels as one layer of maps: from (B, C, H, W) in any layout to channels-last."""

    def __init__(self, linear: LinearKernel) -> None:
        super().__init__()
        self._linear = linear

    @classmethod
    def of(cls, conv: nn.Module, dtype: torch.dtype, rows_hint: int, choice: Choice = True) -> PointwiseConv:
        """The same function as a 1x1 convolution.

        Args:
            conv: quantized or not.
            dtype: of the product where integers do not serve.
            rows_hint: positions of the map to expect.
            choice: of the kernel.

        Raises:
            UnsupportedModuleError: it is none.
        """
        if not is_pointwise(conv):
            raise UnsupportedModuleError(f"{type(plain(conv)).__name__} is not a 1x1 convolution.")
        return cls(linear_kernel(as_linear(conv), dtype, rows_hint, integers=choice))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W) in the dtype of ``x``."""
        return self._linear(x_bchw.permute(0, 2, 3, 1)).to(x_bchw.dtype).permute(0, 3, 1, 2)


class DoublingConv:
    """A transposed convolution that doubles a map's sides (2x2, stride 2), as a linear layer.

    Raises:
        UnsupportedModuleError: it is built otherwise.
    """

    def __init__(self, conv: nn.Module, dtype: torch.dtype, rows_hint: int, choice: Choice = True) -> None:
        if not doubles_sides(conv):
            raise UnsupportedModuleError(f"{type(plain(conv)).__name__} does not double a map's sides.")
        self._linear = linear_kernel(as_linear(conv), dtype, rows_hint, integers=choice)

    def __call__(self, x_bhwc: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, 2H, 2W, C') in the dtype of the product."""
        batch, height, width, _ = x_bhwc.shape
        cells = self._linear(x_bhwc).view(batch, height, width, 2, 2, -1)
        return cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)


def lower_neck(model: SAM2Base, dtype: torch.dtype, choice: Choice = True) -> bool:
    """Swap the neck's 1x1 convolutions, in place; True where some were, now or before.

    The two finest levels only meet the mask decoder's ``conv_s0`` and ``conv_s1``: two 1x1 convolutions in a
    row are one, from the trunk's channels to the few of the decoder. Where they are quantized, what lies
    between them stays codes.

    Raises:
        UnsupportedModuleError: a quantized convolution is still being calibrated.
    """
    neck, decoder = model.image_encoder.neck, model.sam_mask_decoder
    if not isinstance(neck, FpnNeck):
        return False
    count = len(neck.convs)
    swapped = False
    for level in range(count):
        stage = neck.convs[count - 1 - level]
        conv = getattr(stage, "conv", None)
        swapped = swapped or isinstance(conv, PointwiseConv)
        rows = max(1, model.image_size // (4 << level)) ** 2
        name = f"conv_s{level}"
        has_last = model.use_high_res_features_in_sam and level < 2
        last: Any = getattr(decoder, name, None) if has_last else None
        is_shared = any(below in neck.fpn_top_down_levels for below in range(level + 1))
        if conv is not None and is_pointwise(conv):
            if last is not None and is_pointwise(last) and not is_shared:
                stage.conv = _in_a_row(conv, last, dtype, rows, choice)
                setattr(decoder, name, nn.Identity())
                last = None
            else:
                stage.conv = PointwiseConv.of(conv, dtype, rows, choice)
            swapped = True
        if last is not None and is_pointwise(last):
            setattr(decoder, name, PointwiseConv.of(last, dtype, rows, choice))
            swapped = True
    return swapped


def _in_a_row(
    first: nn.Module, second: nn.Module, dtype: torch.dtype, rows_hint: int, choice: Choice
) -> PointwiseConv:
    """Two 1x1 convolutions as one layer: as one product too where neither rounds."""
    if isinstance(first, QuantizedLayer) or isinstance(second, QuantizedLayer):
        pair = feed_forward(as_linear(first), as_linear(second), dtype, rows_hint, integers=choice)
        return PointwiseConv(pair)
    before, after = as_linear(first), as_linear(second)
    assert isinstance(before, nn.Linear)
    assert isinstance(after, nn.Linear)
    w1, w2 = before.weight.double(), after.weight.double()
    bias = torch.zeros(w2.shape[0], dtype=torch.float64)
    if before.bias is not None:
        bias = bias + w2 @ before.bias.double()
    if after.bias is not None:
        bias = bias + after.bias.double()
    both = _linear((w2 @ w1).float(), bias.float())
    return PointwiseConv(linear_kernel(both, dtype, rows_hint, integers=choice))
