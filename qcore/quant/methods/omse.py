"""OMSE (Choukroun et al. 2019): every range minimizes the mean squared rounding error (p = 2)."""

from __future__ import annotations

from qcore.quant.config import ActivationSpec, Bits, QuantConfig, SoftmaxSpec, WeightSpec


def omse(bits: Bits, iterations: int) -> QuantConfig:
    """Error-minimizing ranges; ``iterations`` is not used."""
    return QuantConfig(
        "omse",
        WeightSpec(bits.weights, "mse"),
        ActivationSpec(bits.activations, "mse"),
        SoftmaxSpec(bits.activations, observer="mse"),
    )
