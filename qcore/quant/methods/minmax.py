"""MinMax (Jacob et al. 2018): ranges are the extremes seen in calibration, rounding goes to the nearest
code.
"""

from __future__ import annotations

from qcore.quant.config import ActivationSpec, Bits, QuantConfig, SoftmaxSpec, WeightSpec


def minmax(bits: Bits, iterations: int) -> QuantConfig:
    """Extremes over all calibration data; ``iterations`` is not used."""
    return QuantConfig(
        "minmax",
        WeightSpec(bits.weights),
        ActivationSpec(bits.activations, "minmax"),
        SoftmaxSpec(bits.activations),
    )
