"""Q-MiniSAM2, ours: sub-block fitting with the video terms of the paper (HVQ, Mutual-KV in the loop), and
what we add: error-minimizing two-sided ranges, centred values, log2 softmax with row scales, rounding that
starts from compensated weights (GPTQ), biases fitted too, and scales per channel where they fold away
(depthwise inputs, V)."""

from __future__ import annotations

from qcore.quant.config import (
    ActivationSpec,
    Bits,
    HvqConfig,
    MutualKvConfig,
    QuantConfig,
    ReconstructionConfig,
    SoftmaxSpec,
    WeightSpec,
)


def q_minisam2(bits: Bits, iterations: int) -> QuantConfig:
    """The full method."""
    return QuantConfig(
        "q-minisam2",
        WeightSpec(bits.weights, "mse"),
        ActivationSpec(bits.activations, "mse2d", depthwise_per_channel=True, value_per_channel=True),
        SoftmaxSpec(bits.activations, "log2", taus=(1, 2, 4), row_scale=True),
        ReconstructionConfig("subblock", iterations, "joint", p_fp=0.5, compensate=True, learn_bias=True),
        hvq=HvqConfig(),
        mutual_kv=MutualKvConfig(),
        centre_values=True,
    )
