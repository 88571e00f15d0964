"""The methods: each a small module whose one function returns a recipe for the common engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from qcore.quant.affine import MAX_BITS, QuantizationError
from qcore.quant.config import Bits, QuantConfig
from qcore.quant.methods.adaround import adaround
from qcore.quant.methods.brecq import brecq
from qcore.quant.methods.minmax import minmax
from qcore.quant.methods.omse import omse
from qcore.quant.methods.percentile import percentile
from qcore.quant.methods.ptq4sam import ptq4sam
from qcore.quant.methods.q_minisam2 import q_minisam2
from qcore.quant.methods.qdrop import qdrop

METHODS: dict[str, Callable[[Bits, int], QuantConfig]] = {
    "minmax": minmax,
    "percentile": percentile,
    "omse": omse,
    "adaround": adaround,
    "brecq": brecq,
    "qdrop": qdrop,
    "ptq4sam": ptq4sam,
    "q-minisam2": q_minisam2,
}
DEFAULT_ITERATIONS = 300
PAPER_ITERATIONS = 20_000


def method(
    name: str,
    bits: str = "w4a4",
    iterations: int = DEFAULT_ITERATIONS,
    seed: int = 0,
    hvq: bool = True,
    mutual_kv: bool = True,
    preset: str = "practical",
) -> QuantConfig:
    """The recipe of a method.

    Args:
        name: a key of `METHODS`.
        bits: ``w4a4``, ``w6a6``, ...
        iterations: per reconstructed unit; `PAPER_ITERATIONS` is the paper's budget.
        seed: fixes every random choice.
        hvq: off removes Eqs. 4 and 5 (the paper's "Base", together with ``mutual_kv`` off).
        mutual_kv: off removes sharing from the loop and the bundle.
        preset: ``practical`` gives first and last layers 8 bits, and what lies outside the paper's three
            modules weights of one bit more than the rest and activations of 8; ``paper`` leaves all of these
            in floating point.

    Raises:
        QuantizationError: unknown method, preset or bit widths.
    """
    if name not in METHODS:
        raise QuantizationError(f"There is no method {name!r}; known: {', '.join(METHODS)}.")
    if preset not in ("practical", "paper"):
        raise QuantizationError(f"There is no preset {preset!r}; known: practical, paper.")
    if iterations < 1:
        raise QuantizationError("At least one iteration is needed.")
    config = METHODS[name](Bits.parse(bits), iterations).with_seed(seed)
    if not hvq:
        config = dataclasses.replace(config, hvq=None)
    if not mutual_kv:
        config = dataclasses.replace(config, mutual_kv=None)
    if preset == "paper":
        return dataclasses.replace(config, exempt_bits=None, optional_bits=None)
    return dataclasses.replace(config, optional_weight_bits=min(MAX_BITS, config.weights.bits + 1))
