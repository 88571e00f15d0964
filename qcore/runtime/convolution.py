"""Convolutions with weights re-laid once for oneDNN and their ReLU6 and residual sum fused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable

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
        conv = nn.Conv2d(8, 8, 1).eval().requires_grad_(False)
        PackedConv(conv, torch.float32, highest=6.0, probe=True)(image)
    except (AttributeError, RuntimeError):
        return False
    return True


def without_border(weight_oikk: Tensor, padding: int, stride: int) -> tuple[Tensor, int]:
    """Weight and padding without a first row and column of zeros, the same function on maps of even size.

    The strided convolutions of the embedded trunk carry such borders to compute asymmetric padding.
    """
    side = weight_oikk.shape[-1]
    has_border = not bool(weight_oikk[..., 0, :].any()) and not bool(weight_oikk[..., :, 0].any())
    if stride == 2 and side % 2 and padding >= 1 and weight_oikk.shape[-2] == side > 1 and has_border:
        return weight_oikk[..., 1:, 1:].contiguous(), padding - 1
    return weight_oikk, padding


_KEPT_LAYOUTS = 2
"""A clip has one size of input, seen by a team of threads and by single workers."""


class Layouts:
    """A weight in the layouts that oneDNN asked for last.

    A layout suits a shape of input and a number of threads. With another number the product is still right,
    but oneDNN may fall back to its reference code, which takes two hundred times as long.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Hashable, int], Tensor] = {}

    def get(self, case: Hashable, build: Callable[[], Tensor]) -> Tensor:
        """The weight for a kind of input on as many threads as the caller computes with."""
        key = (case, torch.get_num_threads())
        found = self._kept.get(key)
        if found is None:
            found = build()
            # a new dict: another thread may look into the old one meanwhile
            kept = [(k, v) for k, v in self._kept.items() if k != key]
            self._kept = dict([*kept, (key, found)][-_KEPT_LAYOUTS:])
        return found


class PackedConv:
    """``conv(x) [+ residual]``, clamped where asked, in one dtype; takes and gives channels-last maps.

    Args:
        source: the convolution.
        dtype: of the arithmetic and the result.
        highest: clamp the result to 0 .. highest (6 is ReLU6); None leaves it.
        probe: use the fused call without asking whether it exists.
        weight: replaces the weight of ``source``.
        bias: replaces its bias.
    """

    def __init__(
        self,
        source: nn.Conv2d,
        dtype: torch.dtype,
        highest: float | None = None,
        probe: bool = False,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.dtype = dtype
        self.highest = highest
        weight = source.weight.detach() if weight is None else weight
        padding = int(source.padding[0])
        if len(set(source.padding)) == len(set(source.stride)) == 1:
            weight, padding = without_border(weight, padding, source.stride[0])
            self.padding: list[int] = [padding, padding]
        else:
            self.padding = [int(side) for side in source.padding]
        self.weight = weight.to(dtype)
        bias = source.bias.detach() if bias is None and source.bias is not None else bias
        self.bias = None if bias is None else bias.to(dtype)
        self.stride: list[int] = list(source.stride)
        self.dilation: list[int] = list(source.dilation)
        self.groups = source.groups
        on_cpu = self.weight.device.type == "cpu" and packs(dtype)
        self.packed = on_cpu and (probe or has_packed_convolution())
        self._layouts = Layouts()

    def _prepared(self, shape: tuple[int, ...]) -> Tensor:
        """The weight in oneDNN's layout for inputs of this shape."""
        return self._layouts.get(
            shape,
            lambda: torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, self.dilation, self.groups, list(shape)
            ),
        )

    def __call__(self, x_bchw: Tensor, residual_bchw: Tensor | None = None) -> Tensor:
        """Convolve; ``residual_bchw`` is overwritten with the sum and returned."""
        x_bchw = x_bchw.to(self.dtype)
        if not self.packed:
            y_bchw = F.conv2d(
                x_bchw, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
            )
            y_bchw = y_bchw if residual_bchw is None else residual_bchw.add_(y_bchw)
            return y_bchw if self.highest is None else y_bchw.clamp_(0.0, self.highest)
        weight = self._prepared(tuple(x_bchw.shape))
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if residual_bchw is not None:
            return torch.ops.mkldnn._convolution_pointwise_.binary(
                residual_bchw, x_bchw, weight, self.bias, *geometry, "add", 1.0, None, [], None
            )
        name, bounds = ("none", []) if self.highest is None else ("hardtanh", [0.0, self.highest])
        return torch.ops.mkldnn._convolution_pointwise(x_bchw, weight, self.bias, *geometry, name, bounds, "")
