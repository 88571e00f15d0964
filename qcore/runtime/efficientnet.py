"""The embedded model's trunk with fused, prepacked convolutions; the same function of the same parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcore.models.embedded import EfficientNetLiteTrunk, InvertedBottleneck
from qcore.runtime.convolution import PackedConv
from qcore.runtime.errors import UnsupportedModuleError


class _FastBlock:
    """One `InvertedBottleneck`."""

    def __init__(self, source: InvertedBottleneck, dtype: torch.dtype) -> None:
        for layer in (source.exp, source.dw, source.pw):
            if layer is not None and type(layer) is not nn.Conv2d:
                raise UnsupportedModuleError("The trunk's blocks hold other layers than plain convolutions.")
        self.expand = None if source.exp is None else PackedConv(source.exp, dtype, highest=6.0)
        self.pad = source.pad
        self.filter = PackedConv(source.dw, dtype, highest=6.0)
        self.project = PackedConv(source.pw, dtype)
        self.has_residual = source.has_residual

    def __call__(self, x_bchw: Tensor) -> Tensor:
        y_bchw = x_bchw if self.expand is None else self.expand(x_bchw)
        y_bchw = self.filter(self.pad(y_bchw))
        if not self.has_residual:
            return self.project(y_bchw)
        return self.project(y_bchw, x_bchw)


class FastEfficientNetTrunk(nn.Module):
    """Drop-in for `EfficientNetLiteTrunk` at inference, in float32 (exact) or bfloat16.

    Raises:
        UnsupportedModuleError: a layer is not a plain convolution.
    """

    def __init__(self, source: EfficientNetLiteTrunk, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if type(source.stem) is not nn.Conv2d:
            raise UnsupportedModuleError("The trunk's stem is not a plain convolution.")
        self.source = source
        self.channel_list = source.channel_list
        self.dtype = dtype
        self._stem = PackedConv(source.stem, dtype, highest=6.0)
        self._blocks = [_FastBlock(block, dtype) for block in source.blocks]  # type: ignore[arg-type]

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        """Map (B, 3, S, S) to four float32 feature maps of strides 4, 8, 16 and 32, from fine to coarse."""
        source = self.source
        x_bchw = torch.addcmul(source.input_shift, image_bchw, source.input_scale)
        x_bchw = self._stem(x_bchw.to(self.dtype).contiguous(memory_format=torch.channels_last))
        outputs: list[Tensor] = []
        for index, block in enumerate(self._blocks):
            # an output map leaves the trunk scaled, hence copied: the next block may overwrite it
            x_bchw = block(x_bchw)
            if index in source.output_blocks:
                level = len(outputs)
                scaled = x_bchw.float() / source.feature_rms[level]
                has_coordinates = source.has_coordinates and level < 3
                outputs.append(source._with_coordinates(scaled) if has_coordinates else scaled)
        return outputs
