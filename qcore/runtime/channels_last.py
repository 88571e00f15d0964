"""Small parts of SAM 2's heads on maps whose channels lie together, as linear layers and norms want them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.linear import PackedLinear


def norm_channels(norm: LayerNorm2d, x_bhwc: Tensor) -> Tensor:
    """`LayerNorm2d` of a map with its channels last."""
    return F.layer_norm(x_bhwc, x_bhwc.shape[-1:], norm.weight, norm.bias, norm.eps)


def is_pointwise(conv: nn.Module) -> bool:
    """Whether a module is a plain 1x1 convolution."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )


class PointwiseConv(nn.Module):
    """A 1x1 convolution as a linear layer; takes (B, C, H, W) in any layout, gives channels-last maps.

    Args:
        weight_oi: its weight.
        bias_o: its bias.
        dtype: of the product.
        rows_hint: positions of the map to expect.
    """

    def __init__(self, weight_oi: Tensor, bias_o: Tensor | None, dtype: torch.dtype, rows_hint: int) -> None:
        super().__init__()
        self._linear = PackedLinear(weight_oi, bias_o, dtype, rows_hint)

    @classmethod
    def of(cls, conv: nn.Module, dtype: torch.dtype, rows_hint: int) -> PointwiseConv:
        """The same function as a 1x1 convolution.

        Raises:
            UnsupportedModuleError: it is none.
        """
        if not is_pointwise(conv):
            raise UnsupportedModuleError(f"{type(conv).__name__} is not a 1x1 convolution.")
        assert isinstance(conv, nn.Conv2d)
        bias = None if conv.bias is None else conv.bias.detach()
        return cls(conv.weight.detach()[:, :, 0, 0], bias, dtype, rows_hint)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W) in the dtype of ``x``."""
        return self._linear(x_bchw.permute(0, 2, 3, 1)).to(x_bchw.dtype).permute(0, 3, 1, 2)


class DoublingConv:
    """A transposed convolution that doubles a map's sides (2x2, stride 2), as a linear layer.

    Raises:
        UnsupportedModuleError: it is built otherwise.
    """

    def __init__(self, conv: nn.Module, dtype: torch.dtype, rows_hint: int) -> None:
        if (
            type(conv) is not nn.ConvTranspose2d
            or conv.kernel_size != (2, 2)
            or conv.stride != (2, 2)
            or conv.padding != (0, 0)
            or conv.groups != 1
            or conv.bias is None
        ):
            raise UnsupportedModuleError(f"{type(conv).__name__} does not double a map's sides.")
        weight_kkoi = conv.weight.detach().permute(2, 3, 1, 0)
        self.width = conv.out_channels
        bias = conv.bias.detach().repeat(4)
        self._linear = PackedLinear(weight_kkoi.reshape(4 * self.width, -1), bias, dtype, rows_hint)

    def __call__(self, x_bhwc: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, 2H, 2W, C') in the dtype of the product."""
        batch, height, width, _ = x_bhwc.shape
        cells = self._linear(x_bhwc).view(batch, height, width, 2, 2, self.width)
        return cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, self.width)


def lower_neck(model: SAM2Base, dtype: torch.dtype) -> bool:
    """Swap the neck's 1x1 convolutions, in place; True where some were, now or before.

    The two finest levels only meet the mask decoder's ``conv_s0`` and ``conv_s1``: two 1x1 convolutions in a
    row are one, from the trunk's channels to the few of the decoder. Quantized convolutions stay.
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
        last = getattr(decoder, name, None) if model.use_high_res_features_in_sam and level < 2 else None
        can_fold = last is not None and level not in neck.fpn_top_down_levels and is_pointwise(last)
        if conv is not None and is_pointwise(conv):
            if can_fold and not any(below in neck.fpn_top_down_levels for below in range(level)):
                assert isinstance(last, nn.Conv2d)
                stage.conv = _in_a_row(conv, last, dtype, rows)
                setattr(decoder, name, nn.Identity())
                last = None
            else:
                stage.conv = PointwiseConv.of(conv, dtype, rows)
            swapped = True
        if last is not None and is_pointwise(last):
            setattr(decoder, name, PointwiseConv.of(last, dtype, rows))
            swapped = True
    return swapped


def _in_a_row(first: nn.Conv2d, second: nn.Conv2d, dtype: torch.dtype, rows_hint: int) -> PointwiseConv:
    """Two 1x1 convolutions as one."""
    w1, w2 = (conv.weight.detach()[:, :, 0, 0].double() for conv in (first, second))
    bias = torch.zeros(w2.shape[0], dtype=torch.float64)
    if first.bias is not None:
        bias = bias + w2 @ first.bias.detach().double()
    if second.bias is not None:
        bias = bias + second.bias.detach().double()
    return PointwiseConv((w2 @ w1).float(), bias.float(), dtype, rows_hint)
