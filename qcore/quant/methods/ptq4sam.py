"""PTQ4SAM (Lv et al. 2024): QDrop on sub-blocks, two-peaked keys mirrored into one peak, and logarithmic
softmax codes of adaptive granularity. Ours quantizes at test time too: the released code leaves half of
each linear layer's input exact and all but the first rounding of a block soft, which inflates its published
figures."""

from __future__ import annotations

from qcore.quant.config import (
    ActivationSpec,
    Bits,
    QuantConfig,
    ReconstructionConfig,
    SoftmaxSpec,
    WeightSpec,
)


def ptq4sam(bits: Bits, iterations: int) -> QuantConfig:
    """Sub-block joint fitting, bimodal integration, adaptive log2 softmax."""
    return QuantConfig(
        "ptq4sam",
        WeightSpec(bits.weights, "mse"),
        ActivationSpec(bits.activations),
        SoftmaxSpec(bits.activations, "log2", taus=(1, 2, 4)),
        ReconstructionConfig("subblock", iterations, "joint", p_fp=0.5),
        bimodal_integration=True,
    )
