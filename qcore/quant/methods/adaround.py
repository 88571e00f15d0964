"""AdaRound (Nagel et al. 2020): rounding learned layer by layer on the quantized prefix's input; activation
ranges stay as observed."""

from __future__ import annotations

from qcore.quant.config import (
    ActivationSpec,
    Bits,
    QuantConfig,
    ReconstructionConfig,
    SoftmaxSpec,
    WeightSpec,
)


def adaround(bits: Bits, iterations: int) -> QuantConfig:
    """Layer-wise learned rounding."""
    return QuantConfig(
        "adaround",
        WeightSpec(bits.weights),
        ActivationSpec(bits.activations),
        SoftmaxSpec(bits.activations),
        ReconstructionConfig("layer", iterations, "weights", p_fp=0.0),
    )
