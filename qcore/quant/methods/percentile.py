"""Percentile (Wu et al. 2020): activations are clipped to the 0.01 % and 99.99 % quantiles; weights keep
extremes.
"""

from __future__ import annotations

from qcore.quant.config import ActivationSpec, Bits, QuantConfig, SoftmaxSpec, WeightSpec


def percentile(bits: Bits, iterations: int) -> QuantConfig:
    """Clipped activations; ``iterations`` is not used."""
    return QuantConfig(
        "percentile",
        WeightSpec(bits.weights),
        ActivationSpec(bits.activations, "percentile:0.9999"),
        SoftmaxSpec(bits.activations, observer="percentile:0.9999"),
    )
