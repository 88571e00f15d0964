"""BRECQ (Li et al. 2021): block by block, first rounding with exact activations, then activation steps. The
released code's mean squared error stands for the paper's Fisher weights, as in its own default."""

from __future__ import annotations

from qcore.quant.config import (
    ActivationSpec,
    Bits,
    QuantConfig,
    ReconstructionConfig,
    SoftmaxSpec,
    WeightSpec,
)


def brecq(bits: Bits, iterations: int) -> QuantConfig:
    """Block-wise, weights then activations."""
    return QuantConfig(
        "brecq",
        WeightSpec(bits.weights, "mse"),
        ActivationSpec(bits.activations),
        SoftmaxSpec(bits.activations),
        ReconstructionConfig("block", iterations, "weights_then_activations", p_fp=0.0),
    )
