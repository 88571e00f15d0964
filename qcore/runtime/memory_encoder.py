"""SAM 2's memory encoder rewritten for speed: channels last, convolutions and norms on maps as they lie,
GELU fused into its linear, the layer scale folded into the one after it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sam2.modeling.memory_encoder import CXBlock, MemoryEncoder
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from qcore.quant.layers import QuantizedLayer
from qcore.runtime.channels_last import PointwiseConv, norm_channels, plain
from qcore.runtime.choice import Choice
from qcore.runtime.convolution import PackedConv
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.linear import PackedLinear
from qcore.runtime.quantized_layers import FeedForward, KernelLayer, conv_kernel, feed_forward, linear_kernel

_FEW_CHANNELS = 16


class _Filter:
    """A convolution, quantized or not."""

    def __init__(self, conv: nn.Module, dtype: torch.dtype, side: int, choice: Choice) -> None:
        self.dtype = torch.float32 if isinstance(conv, QuantizedLayer) else dtype
        if isinstance(conv, QuantizedLayer):
            self.kernel: PackedConv | Callable[[Tensor], Tensor] = conv_kernel(conv, dtype, side, choice)
        else:
            assert isinstance(conv, nn.Conv2d)
            self.kernel = PackedConv(conv, dtype)

    def __call__(self, x_bchw: Tensor) -> Tensor:
        """Channels-last maps (B, C', H', W') in ``dtype``."""
        return self.kernel(x_bchw)


class _FastFuserBlock:
    """One `CXBlock`."""

    def __init__(self, source: CXBlock, dtype: torch.dtype, rows_hint: int, choice: Choice) -> None:
        parts = (source.dwconv, source.norm, source.act, source.pwconv1, source.pwconv2)
        kinds = (nn.Conv2d, LayerNorm2d, nn.GELU, nn.Linear, nn.Linear)
        if any(type(plain(part)) is not kind for part, kind in zip(parts, kinds, strict=True)):
            raise UnsupportedModuleError("The memory encoder's fuser is not SAM 2's.")
        self.filter = _Filter(source.dwconv, dtype, math.isqrt(rows_hint), choice)
        self.norm = source.norm
        self.gamma = None if source.gamma is None else source.gamma.detach()
        if isinstance(source.pwconv2, QuantizedLayer):
            self.mlp = feed_forward(source.pwconv1, source.pwconv2, dtype, rows_hint, "gelu", choice)
            return
        weight, bias = source.pwconv2.weight.detach(), source.pwconv2.bias.detach()
        if self.gamma is not None:
            weight, bias = self.gamma[:, None] * weight, self.gamma * bias
            self.gamma = None
        widen = linear_kernel(source.pwconv1, dtype, rows_hint, "gelu", integers=choice)
        self.mlp = FeedForward(widen, PackedLinear(weight, bias, dtype, rows_hint))

    def __call__(self, x_bhwc: Tensor) -> Tensor:
        filtered = self.filter(x_bhwc.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        normed = norm_channels(self.norm, filtered.to(x_bhwc.dtype))
        change = self.mlp(normed)
        return x_bhwc + (change if self.gamma is None else change * self.gamma)


class FastMemoryEncoder(nn.Module):
    """Drop-in for `MemoryEncoder` at inference, in float32 or bfloat16, quantized or not; sums and norms stay
    in float32.

    Args:
        source: the module; its parameters are used as they are now.
        dtype: of the products that integers do not serve.
        rows_hint: positions of the top feature map to expect.
        choice: of the kernels of quantized layers.

    Raises:
        UnsupportedModuleError: it is built differently from SAM 2's, or still being calibrated.
    """

    def __init__(
        self, source: MemoryEncoder, dtype: torch.dtype, rows_hint: int, choice: Choice = True
    ) -> None:
        super().__init__()
        layers = list(source.mask_downsampler.encoder)
        steps = [tuple(layers[i : i + 3]) for i in range(0, len(layers) - 1, 3)]
        kinds = (nn.Conv2d, LayerNorm2d, nn.GELU)
        if any(tuple(type(plain(layer)) for layer in step) != kinds for step in steps):
            raise UnsupportedModuleError("The mask's downsampling is not SAM 2's.")
        if type(source.fuser.proj) is not nn.Identity:
            raise UnsupportedModuleError("The memory encoder's fuser has a projection of its own.")
        self.position_encoding = source.position_encoding
        side = 16 * math.isqrt(rows_hint)
        few, rest = [], []
        for conv, norm, act in steps:
            is_quantized = isinstance(conv, QuantizedLayer)
            if plain(conv).out_channels < _FEW_CHANNELS:
                # planes of a few channels are faster to normalise as planes
                few += [KernelLayer(_Filter(conv, dtype, side, choice)) if is_quantized else conv, norm, act]
            else:
                rest.append((_Filter(conv, dtype, side, choice), norm))
            side //= int(plain(conv).stride[0])
        self._planes, self._steps = nn.Sequential(*few), rest
        self._mask_last = PointwiseConv.of(layers[-1], dtype, rows_hint, choice)
        self._features = PointwiseConv.of(source.pix_feat_proj, dtype, rows_hint, choice)
        self._blocks = [_FastFuserBlock(block, dtype, rows_hint, choice) for block in source.fuser.layers]
        has_output = type(source.out_proj) is not nn.Identity
        self._output = PointwiseConv.of(source.out_proj, dtype, rows_hint, choice) if has_output else None

    def forward(
        self, pix_feat: Tensor, masks: Tensor, skip_mask_sigmoid: bool = False
    ) -> dict[str, Tensor | list[Tensor]]:
        """Features (B, C, H, W) and mask logits (B, 1, S, S), or probabilities, to a memory (B, C', H, W)."""
        x_bchw = masks if skip_mask_sigmoid else torch.sigmoid(masks)
        x_bchw = self._planes(x_bchw).contiguous(memory_format=torch.channels_last)
        for conv, norm in self._steps:
            normed = norm_channels(norm, conv(x_bchw).float().permute(0, 2, 3, 1))
            x_bchw = F.gelu(normed.to(conv.dtype)).permute(0, 3, 1, 2)
        both = self._features(pix_feat) + self._mask_last(x_bchw)
        x_bhwc = both.permute(0, 2, 3, 1)
        for block in self._blocks:
            x_bhwc = block(x_bhwc)
        result = x_bhwc.permute(0, 3, 1, 2)
        if self._output is not None:
            result = self._output(result)
        return {
            "vision_features": result,
            "vision_pos_enc": [self.position_encoding(result).to(result.dtype)],
        }
