"""Attention with rounded queries, keys, values and probabilities, block by block.

Queries and keys meet in 8-bit integers where those are exact; so do probabilities and values when the
probabilities have affine codes. Logarithmic codes need no logarithm: the code of a probability is its score's
distance from the row's largest one, in units of ln(2) / tau, rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcore.quant.affine import quant_max
from qcore.quant.attention import QuantizedAttention, QuantizedProducts
from qcore.quant.fake_quantize import ActivationQuantizer, QuantizerState
from qcore.quant.softmax_quantizer import LogSoftmaxQuantizer
from qcore.runtime.attention import PackedMatrix
from qcore.runtime.choice import Case, Choice, Way
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.integer import IntegerMatrix, has_plain_byte_product, is_exact
from qcore.runtime.quantized_layers import linear_kernel
from qcore.runtime.rounding import Rounding

QUERY_BLOCK = 256
"""Queries handled at a time: more than in `attention`: a product of bytes begins by copying its matrix."""
_LOG2_E = 1.0 / math.log(2.0)
_CACHED = 1 << 17
"""Scores that stay in a core's own cache, with a copy of them. Half as many are no faster on one thread, and
slower beside another: every call may wait for it."""
_LEAST_ROWS = 16
_FEW_KEYS = 16
"""Up to this many, a softmax along the queries' axis in memory is several times as fast."""


@dataclass(frozen=True, slots=True)
class LogRounding:
    """Base-2 logarithmic codes of probabilities; see `LogSoftmaxQuantizer`."""

    tau: int
    zero_code: int
    scale: float | None
    """One calibrated scale, or None for each row's largest probability."""

    def weights(self, scores: Tensor) -> tuple[Tensor, Tensor | float]:
        """Rounded probabilities of scores (..., keys) in units of ln(2), as weights and the factor on each
        row's result.

        ``scores`` is overwritten.
        """
        rows = scores.view(-1, scores.shape[-1])
        # ten passes: over what stays in a core's own cache
        parts = rows.split(max(_LEAST_ROWS, _CACHED // rows.shape[-1]))
        factors = [self._round(part) for part in parts]
        if self.scale is not None:
            return scores, self.scale
        factor = factors[0] if len(factors) == 1 else torch.cat(factors)
        return scores, factor.view(*scores.shape[:-1], 1)

    def _round(self, scores_nm: Tensor) -> Tensor:
        """Round in place, and give each row's largest probability."""
        distances = scores_nm.sub_(scores_nm.amax(dim=-1, keepdim=True))
        total = torch.exp2(distances).sum(dim=-1, keepdim=True)
        if self.scale is not None:
            distances.sub_(torch.log2(total * self.scale))
        # floats of this size are whole multiples of 1 / tau: adding rounds, half to even
        coarse = 1.5 * 2.0**23 / self.tau
        steps = distances.add_(coarse).sub_(coarse)
        if self.scale is not None:
            steps.clamp_(max=0.0)
        smallest = 2.0 ** (-(self.zero_code - 0.5) / self.tau)
        F.threshold(steps.exp2_(), smallest, 0.0, inplace=True)
        return total.reciprocal_()


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
    def score_unit(self) -> float:
        """What the scores' factor is multiplied by: logarithmic codes take them in units of ln(2)."""
        return _LOG2_E if isinstance(self.probs, LogRounding) else 1.0

    def score_factor(self, scale: float) -> float:
        """What turns products of centred codes into scores in that unit."""
        return scale * float(self.query.scale) * float(self.key.scale) * self.score_unit

    def score_ways(self) -> tuple[Way, ...]:
        """How the scores can be computed exactly here."""
        is_byte = self.query.is_per_tensor and self.key.is_per_tensor
        integer = () if not is_byte else _integer_ways(is_exact(self.query.largest, self.key.reach), True)
        return (*integer, Way.PACKED, Way.PLAIN)

    def mixing_ways(self, dtype: torch.dtype) -> tuple[Way, ...]:
        """How the weighted sum of values can be, where floats are of this dtype."""
        floats = (Way.PACKED, Way.PLAIN, *((Way.HALF,) if dtype is torch.bfloat16 else ()))
        if not isinstance(self.probs, Rounding) or not self.probs.is_per_tensor:
            return floats
        exact = is_exact(self.probs.largest, self.value.reach)
        return (*_integer_ways(exact, self.value.reach <= 127), *floats)


def _integer_ways(is_exact_here: bool, fits_a_byte: bool) -> tuple[Way, ...]:
    """Keys and values serve once, so re-laying them does not pay where it need not be."""
    if fits_a_byte and has_plain_byte_product():
        return (Way.INTEGER_PLAIN,)
    return (Way.INTEGER,) if is_exact_here else ()


@dataclass(frozen=True, slots=True)
class ProductWays:
    """How the two products of an attention are computed."""

    scores: Way
    mixing: Way

    @classmethod
    def of(cls, roundings: ProductRoundings, integers: bool, dtype: torch.dtype) -> ProductWays:
        """Integers wherever they are exact, or never."""

        def chosen(able: tuple[Way, ...]) -> Way:
            return able[0] if integers else Way.PACKED

        return cls(chosen(roundings.score_ways()), chosen(roundings.mixing_ways(dtype)))

    @classmethod
    def fastest(
        cls,
        roundings: ProductRoundings,
        choice: Choice,
        shape_nmcd: tuple[int, int, int, int],
        dtype: torch.dtype,
    ) -> ProductWays:
        """What a contest says for so many queries, keys, and channels of keys and values."""
        if isinstance(choice, bool):
            return cls.of(roundings, choice, dtype)
        queries, keys, c, d = shape_nmcd
        measured, blocks = min(keys, MEASURED_KEYS), max(1, queries // QUERY_BLOCK)
        rows = min(queries, QUERY_BLOCK)
        q, k, v = torch.randn(rows, c), torch.randn(measured, c), torch.randn(measured, d)
        scores = torch.randn(rows, measured)

        def scoring(way: Way) -> Callable[[], object]:
            def call() -> None:
                product = _Scores(q, k, roundings, c**-0.5, None, dtype, way)
                for _ in range(blocks):
                    product(slice(None))

            return call

        def mixing(way: Way) -> Callable[[], object]:
            def call() -> None:
                product = _Mixing(v, roundings, dtype, way)
                for _ in range(blocks):
                    product(scores)

            return call

        kind = str(dtype).removeprefix("torch.")
        probs = "logarithmic" if isinstance(roundings.probs, LogRounding) else "affine"
        return cls(
            choice.fastest(
                Case("scores", (queries, measured, c), kind), _calls(roundings.score_ways(), scoring)
            ),
            choice.fastest(
                Case("mixing", (queries, measured, d), f"{kind}, {probs}"),
                _calls(roundings.mixing_ways(dtype), mixing),
            ),
        )


MEASURED_KEYS = 4096
"""More keys than these are measured as these."""


def _calls(
    ways: Iterable[Way], call_of: Callable[[Way], Callable[[], object]]
) -> dict[Way, Callable[[], Callable[[], object]]]:
    return {way: partial(call_of, way) for way in ways}


def weights_of(scores: Tensor, probs: Rounding | LogRounding) -> tuple[Tensor, Tensor | float]:
    """Softmax of scores (..., keys), rounded, as weights and the factor on each row's result.

    ``scores``, in `ProductRoundings.score_unit`, is overwritten.
    """
    if isinstance(probs, LogRounding):
        return probs.weights(scores)
    return probs.centred(torch.softmax(scores, dim=-1, out=scores)), float(probs.scale)


def attend_small(
    q_bnc: Tensor,
    k_bmc: Tensor,
    v_bmd: Tensor,
    roundings: ProductRoundings,
    scale: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Attention of a batch of small windows or heads whose scores fit the cache; float32 (b, n, d).

    ``dtype`` is that of the two products.
    """
    queries, keys = roundings.query.centred(q_bnc, dtype), roundings.key.centred(k_bmc, dtype)
    values = roundings.value.centred(v_bmd, dtype)
    scale = roundings.score_factor(scale)
    if keys.shape[-2] <= _FEW_KEYS and isinstance(roundings.probs, Rounding):
        scores = torch.matmul(keys, queries.transpose(-2, -1)).float().mul_(scale)
        weights = roundings.probs.centred(torch.softmax(scores, dim=-2), dtype).transpose(-2, -1)
        factor: Tensor | float = float(roundings.probs.scale)
    else:
        scores = torch.matmul(queries, keys.transpose(-2, -1)).float().mul_(scale)
        weights, factor = weights_of(scores, roundings.probs)
    mixed = torch.matmul(weights.to(dtype), values).float()
    if isinstance(roundings.value.scale, float) and isinstance(factor, float):
        return mixed.mul_(roundings.value.scale * factor)
    return mixed.mul_(roundings.value.scale).mul_(factor)


def attend_rounded(
    queries_bnc: Tensor,
    keys_bmc: Tensor,
    values_bmd: Tensor,
    roundings: ProductRoundings,
    *,
    scale: float | None = None,
    key_bias_m: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    ways: ProductWays | None = None,
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
        ways: how the products are computed; None for integers wherever they are exact.
    """
    scale = queries_bnc.shape[-1] ** -0.5 if scale is None else scale
    mixed = queries_bnc.new_empty((*queries_bnc.shape[:2], values_bmd.shape[-1]), dtype=torch.float32)
    ways = ways or ProductWays.of(roundings, queries_bnc.device.type == "cpu", dtype)
    for index in range(queries_bnc.shape[0]):
        scores = _Scores(
            queries_bnc[index], keys_bmc[index], roundings, scale, key_bias_m, dtype, ways.scores
        )
        mixing = _Mixing(values_bmd[index], roundings, dtype, ways.mixing)
        for start in range(0, queries_bnc.shape[1], QUERY_BLOCK):
            rows = slice(start, start + QUERY_BLOCK)
            mixed[index, rows] = mixing(scores(rows))
    return mixed


class _Scores:
    """Blocks of q k^T, scaled and biased, in float32 and `ProductRoundings.score_unit`.

    Each block's result may be overwritten.
    """

    def __init__(
        self,
        queries_nc: Tensor,
        keys_mc: Tensor,
        roundings: ProductRoundings,
        scale: float,
        key_bias_m: Tensor | None,
        dtype: torch.dtype,
        way: Way,
    ) -> None:
        self.query, self.way = roundings.query, way
        self.factor = roundings.score_factor(scale)
        key_bias_m = None if key_bias_m is None else key_bias_m * roundings.score_unit
        if way.is_integer:
            # what a shift of the keys adds is the same for all keys of a query: softmax does not see it
            codes_mc = roundings.key.shifted_bytes(keys_mc, _signed_shift(roundings.key))
            rows_hint = QUERY_BLOCK if way is Way.INTEGER else None
            self.integer = IntegerMatrix(codes_mc, torch.ones(1), key_bias_m, rows_hint)
            self.queries = roundings.query.bytes(queries_nc)
        else:
            kind = dtype if way is Way.PACKED else torch.float32
            bias = None if key_bias_m is None else key_bias_m.to(kind)
            keys = roundings.key.centred(keys_mc).to(kind)
            self.float = PackedMatrix(keys, bias, packed=way is Way.PACKED)
            self.queries = roundings.query.centred(queries_nc).mul_(self.factor).to(kind)

    def __call__(self, rows: slice) -> Tensor:
        block = self.queries[rows]
        if self.way.is_integer:
            return self.integer.multiply(block, self.factor, int(self.query.zero_point))
        return self.float.multiply(block).float()


def _signed_shift(rounding: Rounding) -> int:
    """What to take from codes so that they fit a signed byte: the zero point where that does."""
    return int(rounding.zero_point) if rounding.reach <= 127 else 128


class _Mixing:
    """Scores to weighted values; overwrites the scores."""

    def __init__(self, values_md: Tensor, roundings: ProductRoundings, dtype: torch.dtype, way: Way) -> None:
        self.probs, self.dtype, self.way = roundings.probs, dtype, way
        self.scale_d = torch.as_tensor(roundings.value.scale).float().reshape(-1)
        if way.is_integer:
            codes_dm = roundings.value.signed_bytes(values_md).t()
            rows_hint = QUERY_BLOCK if way is Way.INTEGER else None
            self.integer = IntegerMatrix(codes_dm, self.scale_d, None, rows_hint)
        else:
            self.dtype = torch.float32 if way is Way.PLAIN else dtype
            values = roundings.value.real(values_md).to(self.dtype)
            self.float = PackedMatrix(values.t(), packed=way is Way.PACKED)

    def __call__(self, scores: Tensor) -> Tensor:
        if self.way.is_integer:
            assert isinstance(self.probs, Rounding)
            codes = self.probs.bytes(torch.softmax(scores, dim=-1, out=scores))
            return self.integer.multiply(codes, float(self.probs.scale), int(self.probs.zero_point))
        weights, factor = weights_of(scores, self.probs)
        return self.float.multiply(weights.to(self.dtype)).float().mul_(factor)


class FastQuantizedAttention(nn.Module):
    """The mask decoder's quantized attention on kernels.

    Raises:
        UnsupportedModuleError: still being calibrated.
    """

    def __init__(
        self,
        source: QuantizedAttention,
        dtype: torch.dtype,
        integers: Choice,
        queries_hint: int = 512,
        keys_hint: int = 512,
    ) -> None:
        super().__init__()
        self.heads = source.num_heads
        self.roundings = ProductRoundings.of(source)
        projections = {
            source.q_proj: queries_hint,
            source.k_proj: keys_hint,
            source.v_proj: keys_hint,
            source.out_proj: queries_hint,
        }
        self._projections = [
            linear_kernel(layer, dtype, rows, integers=integers) for layer, rows in projections.items()
        ]

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C), (B, M, C), (B, M, C) -> (B, N, C)."""
        query, key, value, output = self._projections
        queries, keys, values = (
            kernel(x).float().unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous()
            for kernel, x in ((query, q), (key, k), (value, v))
        )
        mixed = attend_small(queries, keys, values, self.roundings, queries.shape[-1] ** -0.5)
        return output(mixed.transpose(1, 2).flatten(2))
