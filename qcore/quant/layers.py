"""A layer with weights, wrapped with its two quantizers: the activation that enters and the weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qcore.quant.fake_quantize import ActivationQuantizer, QuantizerState, WeightQuantizer

WEIGHT_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def output_axis(layer: nn.Module) -> int:
    """Dimension of the weight that counts output channels: 1 for transposed convolutions, else 0."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def is_depthwise(layer: nn.Module) -> bool:
    """True for a convolution whose every output channel reads exactly one input channel, one to one."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


class QuantizedLayer(nn.Module):
    """``layer`` computing with rounded input and rounded weight; subclasses with an own forward work too.

    The wrapped layer pads after the input was rounded, which is exact because zero is representable.
    """

    def __init__(
        self, layer: nn.Module, weight_quantizer: WeightQuantizer, input_quantizer: ActivationQuantizer | None
    ) -> None:
        super().__init__()
        self.layer = layer
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    @property
    def weight(self) -> Tensor:
        """The wrapped layer's weight; real values of the codes once frozen."""
        weight: Tensor = self.layer.get_parameter("weight")
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The wrapped layer's bias, never quantized."""
        bias = self.layer.bias
        return bias if isinstance(bias, Tensor) else None

    def forward(self, x: Tensor) -> Tensor:
        """As the wrapped layer."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        quantizer = self.weight_quantizer
        if quantizer.state is not QuantizerState.ON or quantizer.is_frozen:
            return self.layer(x)
        return functional_call(self.layer, {"weight": quantizer(self.weight)}, (x,))

    @torch.no_grad()
    def freeze(self) -> None:
        """Replace the weight by the real values of its final codes."""
        if not self.weight_quantizer.is_frozen:
            self.weight.copy_(self.weight_quantizer.freeze(self.weight))
