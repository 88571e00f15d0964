"""Attention with rounded queries, keys, values and probabilities, block by block.

Queries and keys meet in 8-bit integers where those are exact; so do probabilities and values when the
probabilities have affine codes. Logarithmic codes need no logarithm: the code of a probability is its score's
distance from the row's largest one, in units of ln(2) / tau, rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcore.quant.affine import quant_max
from qcore.quant.attention import QuantizedAttention, QuantizedProducts
from qcore.quant.fake_quantize import ActivationQuantizer, QuantizerState
from qcore.quant.softmax_quantizer import LogSoftmaxQuantizer
from qcore.runtime.attention import QUERY_BLOCK, PackedMatrix
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.integer import IntegerMatrix, is_exact
from qcore.runtime.quantized_layers import linear_kernel
from qcore.runtime.rounding import Rounding

_LOG2_E = 1.0 / math.log(2.0)


@dataclass(frozen=True, slots=True)
class LogRounding:
    """Base-2 logarithmic codes of probabilities; see `LogSoftmaxQuantizer`."""

    tau: int
    zero_code: int
    scale: float | None
    """One calibrated scale, or None for each row's largest probability."""

    def weights(self, scores: Tensor) -> tuple[Tensor, Tensor | float]:
        """Rounded probabilities of scores (..., keys), as weights and the factor on each row's result.

        ``scores`` is overwritten.
        """
        top = scores.amax(dim=-1, keepdim=True)
        distances = scores.sub_(top)
        total = torch.exp(distances).sum(dim=-1, keepdim=True)
        factor: Tensor | float = 1.0 / total
        if self.scale is not None:
            distances = distances.sub_(torch.log(total * self.scale))
            factor = self.scale
        steps = distances.mul_(self.tau * _LOG2_E).round_()
        if self.scale is not None:
            steps.clamp_(max=0.0)
        if self.tau != 1:
            steps.div_(self.tau)
        smallest = 2.0 ** (-(self.zero_code - 0.5) / self.tau)
        return F.threshold(steps.exp2_(), smallest, 0.0, inplace=True), factor


@dataclass(frozen=True, slots=True)
class ProductRoundings:
    """How one attention rounds the operands of its two products."""

    query: Rounding
    key: Rounding
    value: Rounding
    probs: Rounding | LogRounding

    @classmethod
    def of(cls, attention: QuantizedProducts) -> ProductRoundings:
        """The parameters of a quantized attention.

        Raises:
            UnsupportedModuleError: one of its quantizers is not on.
        """
        operands = (attention.query_quantizer, attention.key_quantizer, attention.value_quantizer)
        probs = attention.probs_quantizer
        if any(quantizer.state is not QuantizerState.ON for quantizer in (*operands, probs)):
            raise UnsupportedModuleError("An attention quantizer is not on.")
        query, key, value = (Rounding.of(quantizer) for quantizer in operands)
        if isinstance(probs, LogSoftmaxQuantizer):
            scale = None if probs.row_scale else float(probs.scale)
            return cls(query, key, value, LogRounding(probs.tau, quant_max(probs.bits), scale))
        assert isinstance(probs, ActivationQuantizer)
        return cls(query, key, value, Rounding.of(probs))

    @property
    def scores_fit_integers(self) -> bool:
        """Whether integer kernels compute the scores exactly here."""
        return (
            self.query.is_per_tensor
            and self.key.is_per_tensor
            and is_exact(self.query.largest, self.key.reach)
        )

    @property
    def mixing_fits_integers(self) -> bool:
        """Whether they compute the weighted sum of values."""
        return isinstance(self.probs, Rounding) and is_exact(self.probs.largest, self.value.reach)


def weights_of(scores: Tensor, probs: Rounding | LogRounding) -> tuple[Tensor, Tensor | float]:
    """Softmax of scores (..., keys), rounded, as weights and the factor on each row's result."""
    if isinstance(probs, LogRounding):
        return probs.weights(scores)
    return probs.centred(torch.softmax(scores, dim=-1)), float(probs.scale)


def attend_small(
    q_bnc: Tensor, k_bmc: Tensor, v_bmd: Tensor, roundings: ProductRoundings, scale: float
) -> Tensor:
    """Attention of a batch of small windows or heads whose scores fit the cache; float32 (b, n, d)."""
    keys = roundings.key.centred(k_bmc)
    queries = roundings.query.centred(q_bnc).mul_(
        scale * float(roundings.query.scale) * float(roundings.key.scale)
    )
    weights, factor = weights_of(torch.matmul(queries, keys.transpose(-2, -1)), roundings.probs)
    return torch.matmul(weights, roundings.value.real(v_bmd)).mul_(factor)


def attend_rounded(
    queries_bnc: Tensor,
    keys_bmc: Tensor,
    values_bmd: Tensor,
    roundings: ProductRoundings,
    *,
    scale: float | None = None,
    key_bias_m: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    integers: bool = True,
) -> Tensor:
    """``P softmax(q k^T * scale + key_bias) v`` for one head, every operand rounded; float32 (b, n, d).

    Args:
        queries_bnc: (batch, n, c).
        keys_bmc: (batch, m, c).
        values_bmd: (batch, m, d).
        roundings: of queries, keys, values and probabilities.
        scale: factor on the scores, 1/sqrt(c) by default.
        key_bias_m: (m,), added to every query's scores.
        dtype: of the products where integers do not serve.
        integers: whether integer kernels may be used.
    """
    scale = queries_bnc.shape[-1] ** -0.5 if scale is None else scale
    mixed = queries_bnc.new_empty((*queries_bnc.shape[:2], values_bmd.shape[-1]), dtype=torch.float32)
    on_integers = integers and queries_bnc.device.type == "cpu"
    for index in range(queries_bnc.shape[0]):
        scores = _Scores(
            queries_bnc[index], keys_bmc[index], roundings, scale, key_bias_m, dtype, on_integers
        )
        mixing = _Mixing(values_bmd[index], roundings, dtype, on_integers)
        for start in range(0, queries_bnc.shape[1], QUERY_BLOCK):
            rows = slice(start, start + QUERY_BLOCK)
            mixed[index, rows] = mixing(scores(rows))
    return mixed


class _Scores:
    """Blocks of q k^T, scaled and biased, in float32."""

    def __init__(
        self,
        queries_nc: Tensor,
        keys_mc: Tensor,
        roundings: ProductRoundings,
        scale: float,
        key_bias_m: Tensor | None,
        dtype: torch.dtype,
        integers: bool,
    ) -> None:
        factor = scale * float(roundings.query.scale) * float(roundings.key.scale)
        self.query, self.factor = roundings.query, factor
        self.integer: IntegerMatrix | None = None
        if integers and roundings.scores_fit_integers:
            codes_mc = roundings.key.signed_bytes(keys_mc)
            self.integer = IntegerMatrix(codes_mc, torch.ones(1), key_bias_m, QUERY_BLOCK)
            self.queries = roundings.query.bytes(queries_nc)
            return
        bias = None if key_bias_m is None else key_bias_m.to(dtype)
        self.float = PackedMatrix(roundings.key.centred(keys_mc).to(dtype), bias)
        self.queries = roundings.query.centred(queries_nc).mul_(factor).to(dtype)

    def __call__(self, rows: slice) -> Tensor:
        block = self.queries[rows]
        if self.integer is None:
            return self.float.multiply(block).float()
        return self.integer.multiply(block, self.factor, int(self.query.zero_point))


class _Mixing:
    """Scores to weighted values."""

    def __init__(
        self, values_md: Tensor, roundings: ProductRoundings, dtype: torch.dtype, integers: bool
    ) -> None:
        self.probs, self.dtype = roundings.probs, dtype
        self.integer: IntegerMatrix | None = None
        if integers and roundings.mixing_fits_integers:
            scale = torch.as_tensor(roundings.value.scale).float().reshape(-1)
            codes_dm = roundings.value.signed_bytes(values_md).t()
            self.integer = IntegerMatrix(codes_dm, scale, None, QUERY_BLOCK)
        else:
            self.float = PackedMatrix(roundings.value.real(values_md).to(dtype).t())

    def __call__(self, scores: Tensor) -> Tensor:
        if self.integer is not None:
            assert isinstance(self.probs, Rounding)
            codes = self.probs.bytes(torch.softmax(scores, dim=-1))
            return self.integer.multiply(codes, float(self.probs.scale), int(self.probs.zero_point))
        weights, factor = weights_of(scores, self.probs)
        return self.float.multiply(weights.to(self.dtype)).float().mul_(factor)


class FastQuantizedAttention(nn.Module):
    """The mask decoder's quantized attention on kernels.

    Raises:
        UnsupportedModuleError: still being calibrated.
    """

    def __init__(self, source: QuantizedAttention, dtype: torch.dtype, integers: bool) -> None:
        super().__init__()
        self.heads = source.num_heads
        self.roundings = ProductRoundings.of(source)
        projections = (source.q_proj, source.k_proj, source.v_proj, source.out_proj)
        self._projections = [linear_kernel(layer, dtype, 512, integers=integers) for layer in projections]

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C), (B, M, C), (B, M, C) -> (B, N, C)."""
        query, key, value, output = self._projections
        queries, keys, values = (
            kernel(x).float().unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous()
            for kernel, x in ((query, q), (key, k), (value, v))
        )
        mixed = attend_small(queries, keys, values, self.roundings, queries.shape[-1] ** -0.5)
        return output(mixed.transpose(1, 2).flatten(2))
