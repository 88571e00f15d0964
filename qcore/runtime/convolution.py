"""Convolutions with weights re-laid once for oneDNN and their ReLU6 and residual sum fused."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcore.runtime.attention import packs


@functools.cache
def has_packed_convolution() -> bool:
    """True when this build of torch has oneDNN's prepacked, fused convolution (x86 CPUs)."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        image = torch.ones(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
        PackedConv(nn.Conv2d(8, 8, 1).eval(), torch.float32, relu6=True, probe=True)(image)
    except (AttributeError, RuntimeError):
        return False
    return True


class PackedConv:
    """``conv(x) [+ residual]`` then ReLU6 where asked, in one dtype; takes and gives channels-last maps."""

    def __init__(
        self, source: nn.Conv2d, dtype: torch.dtype, relu6: bool = False, probe: bool = False
    ) -> None:
        self.dtype = dtype
        self.relu6 = relu6
        self.weight = source.weight.detach().to(dtype)
        self.bias = None if source.bias is None else source.bias.detach().to(dtype)
        self.padding: list[int] = [int(side) for side in source.padding]
        self.stride: list[int] = list(source.stride)
        self.dilation: list[int] = list(source.dilation)
        self.groups = source.groups
        on_cpu = self.weight.device.type == "cpu" and packs(dtype)
        self.packed = on_cpu and (probe or has_packed_convolution())
        self._packed_for: tuple[int, ...] | None = None
        self._packed_weight: Tensor | None = None

    def _prepared(self, shape: tuple[int, ...]) -> Tensor:
        """The weight in oneDNN's layout for inputs of this shape; the last one is kept."""
        if self._packed_weight is None or self._packed_for != shape:
            self._packed_weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, self.dilation, self.groups, list(shape)
            )
            self._packed_for = shape
        return self._packed_weight

    def __call__(self, x_bchw: Tensor, residual_bchw: Tensor | None = None) -> Tensor:
        """Convolve; ``residual_bchw`` is overwritten with the sum and returned."""
        x_bchw = x_bchw.to(self.dtype)
        if not self.packed:
            y_bchw = F.conv2d(
                x_bchw, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
            y_bchw = y_bchw if residual_bchw is None else residual_bchw.add_(y_bchw)
            return F.relu6(y_bchw) if self.relu6 else y_bchw
        weight = self._prepared(tuple(x_bchw.shape))
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if residual_bchw is not None:
            return torch.ops.mkldnn._convolution_pointwise_.binary(
                residual_bchw, x_bchw, weight, self.bias, *geometry, "add", 1.0, None, [], None
            )
        name, bounds = ("hardtanh", [0.0, 6.0]) if self.relu6 else ("none", [])
        return torch.ops.mkldnn._convolution_pointwise(x_bchw, weight, self.bias, *geometry, name, bounds, "")
