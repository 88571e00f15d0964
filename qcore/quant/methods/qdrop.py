"""QDrop (Wei et al. 2022): block by block, rounding and steps together, while half of the activation
elements, in the input and inside, stay exact."""

from __future__ import annotations

from qcore.quant.config import (
    ActivationSpec,
    Bits,
    QuantConfig,
    ReconstructionConfig,
    SoftmaxSpec,
    WeightSpec,
)


def qdrop(bits: Bits, iterations: int) -> QuantConfig:
    """Block-wise joint fitting with dropped quantization."""
    return QuantConfig(
        "qdrop",
        WeightSpec(bits.weights, "mse"),
        ActivationSpec(bits.activations),
        SoftmaxSpec(bits.activations),
        ReconstructionConfig("block", iterations, "joint", p_fp=0.5),
    )
