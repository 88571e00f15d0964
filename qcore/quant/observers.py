"""Observers: what is remembered of a tensor while calibration data flows, and the range chosen from it.

`MinMaxObserver` (Jacob et al. 2018), `PercentileObserver` (Wu et al. 2020) and `MseObserver` (OMSE,
Choukroun et al. 2019). Percentiles and the error search work on a seeded random sample, because
``torch.quantile`` refuses more than 2^24 elements; the extremes are always exact. The error search pools
all calibration samples and takes one minimum, since minima taken per sample and then joined would undo the
clipping.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcore.quant.affine import QuantizationError, fake_quantize, qparams_from_range

SAMPLE_PER_CALL = 4096
SAMPLE_LIMIT = 1 << 16
SEARCH_LIMIT = 1 << 14
_BINS = 2048
_LEAST_REACH = 0.5
_COUNTED_PER_CALL = 2048
"""Values of each channel, at most, that a call adds to its bins; the extremes are always exact."""
_SEARCH_ELEMENTS = 1 << 20
"""Values times candidates rounded at a time."""


class Observer(ABC):
    """Collects statistics of one tensor, per tensor (``axis`` None) or per channel along ``axis``."""

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.calls = 0

    def observe(self, x: Tensor) -> None:
        """Take in one calibration tensor of any shape; non-finite values are refused."""
        rows_cn = self._rows(x.detach().float())
        if rows_cn.numel() == 0:
            return
        lo, hi = rows_cn.amin(dim=1), rows_cn.amax(dim=1)
        if not (torch.isfinite(lo).all() and torch.isfinite(hi).all()):
            raise QuantizationError("An activation is not finite; the model or a calibration clip is broken.")
        self._collect(rows_cn, lo, hi)
        self.calls += 1

    def qparams(self, bits: int, symmetric: bool = False) -> tuple[Tensor, Tensor]:
        """Scale and zero point for the observed data: 0-dimensional, or (C,) per channel."""
        if self.calls == 0:
            raise QuantizationError("A quantizer never saw calibration data.")
        scale, zero_point = self._choose(bits, symmetric)
        if self.axis is None:
            return scale.reshape(()), zero_point.reshape(())
        return scale, zero_point

    def _rows(self, x: Tensor) -> Tensor:
        """(C, n) per channel or (1, n); a view where memory allows, the order of values does not matter."""
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            x = x.permute(0, 2, 3, 1)
            axis = None if self.axis is None else (0, 3, 1, 2)[self.axis % 4]
        else:
            axis = self.axis
        if axis is None:
            return x.reshape(1, -1)
        if axis % x.ndim == x.ndim - 1:
            return x.reshape(-1, x.shape[-1]).T
        return x.movedim(axis, 0).flatten(1)

    @abstractmethod
    def _collect(self, rows_cn: Tensor, lo_c: Tensor, hi_c: Tensor) -> None: ...

    @abstractmethod
    def _choose(self, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]: ...


class MinMaxObserver(Observer):
    """The extremes: over everything (``global``), averaged over calls (``average``) or a running mean
    (``ema``).
    """

    def __init__(self, axis: int | None = None, mode: str = "global", ema: float = 0.01) -> None:
        super().__init__(axis)
        if mode not in ("global", "average", "ema"):
            raise QuantizationError(f"A min-max observer is global, average or ema, not {mode!r}.")
        self.mode, self.ema = mode, ema
        self.lo: Tensor | None = None
        self.hi: Tensor | None = None

    def _collect(self, rows_cn: Tensor, lo_c: Tensor, hi_c: Tensor) -> None:
        if self.lo is None or self.hi is None:
            self.lo, self.hi = lo_c.clone(), hi_c.clone()
        elif self.mode == "global":
            self.lo, self.hi = torch.minimum(self.lo, lo_c), torch.maximum(self.hi, hi_c)
        else:
            weight = self.ema if self.mode == "ema" else 1.0 / (self.calls + 1)
            self.lo, self.hi = self.lo.lerp(lo_c, weight), self.hi.lerp(hi_c, weight)

    def _choose(self, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        assert self.lo is not None and self.hi is not None
        return qparams_from_range(self.lo, self.hi, bits, symmetric)


class _SamplingObserver(Observer):
    """Exact extremes plus a seeded uniform sample of every call, bounded in size."""

    def __init__(self, axis: int | None = None, seed: int = 0) -> None:
        super().__init__(axis)
        self._generator = torch.Generator().manual_seed(seed)
        self._chunks: list[Tensor] = []
        self.lo: Tensor | None = None
        self.hi: Tensor | None = None

    def _collect(self, rows_cn: Tensor, lo_c: Tensor, hi_c: Tensor) -> None:
        if self.lo is None or self.hi is None:
            self.lo, self.hi = lo_c.clone(), hi_c.clone()
        else:
            self.lo, self.hi = torch.minimum(self.lo, lo_c), torch.maximum(self.hi, hi_c)
        channels, n = rows_cn.shape
        per_channel = max(64, SAMPLE_PER_CALL // channels)
        if n > per_channel:
            index = torch.randint(n, (per_channel,), generator=self._generator).to(rows_cn.device)
            rows_cn = rows_cn[:, index]
        self._chunks.append(rows_cn.clone())
        if sum(chunk.numel() for chunk in self._chunks) > SAMPLE_LIMIT:
            pooled = torch.cat(self._chunks, dim=1)
            keep = torch.randperm(pooled.shape[1], generator=self._generator)[: pooled.shape[1] // 2]
            self._chunks = [pooled[:, keep.to(pooled.device)]]

    @property
    def sample_cn(self) -> Tensor:
        """(C, n) values seen so far."""
        return torch.cat(self._chunks, dim=1)


class PercentileObserver(_SamplingObserver):
    """The (1-p) and p quantiles, p in 0.5..1; what lies outside is clipped."""

    def __init__(self, axis: int | None = None, percentile: float = 0.9999, seed: int = 0) -> None:
        super().__init__(axis, seed)
        if not 0.5 < percentile <= 1.0:
            raise QuantizationError(f"A percentile lies between 0.5 and 1, not {percentile}.")
        self.percentile = percentile

    def _choose(self, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        sample_cn = self.sample_cn
        tails = torch.tensor([1 - self.percentile, self.percentile], device=sample_cn.device)
        lo_c, hi_c = torch.quantile(sample_cn, tails, dim=1)
        return qparams_from_range(lo_c, hi_c, bits, symmetric)


class MseObserver(_SamplingObserver):
    """The range of least mean |x - x_hat|^p of a tensor (p = 2: OMSE), see `search_range`."""

    def __init__(self, power: float = 2.0, seed: int = 0, two_dimensional: bool = False) -> None:
        super().__init__(None, seed)
        self.power, self.two_dimensional = power, two_dimensional

    def _choose(self, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        assert self.lo is not None and self.hi is not None
        sample_cn = self.sample_cn
        # 2^14 values are enough for a mean error, and hundreds of ranges are tried
        values = sample_cn[:, :: max(1, sample_cn.shape[1] // SEARCH_LIMIT)].contiguous()
        errors = _RangeErrors(values, None, bits, symmetric, self.power)
        lo, hi = search_range(errors, self.lo, self.hi, self.two_dimensional)
        return qparams_from_range(lo, hi, bits, symmetric)


class ChannelMseObserver(Observer):
    """`MseObserver` for every channel by itself, from counts in bins in place of a sample.

    A sample that is small enough to keep for a thousand channels misses what a channel rarely answers to, an
    object for one, and the range of least error on it cuts just that off: at W8A8 that made six times the
    mask error of one range a tensor. For the same reason, what other videos may show, no channel's ends lie
    nearer to 0 than half the widest channel's.
    """

    def __init__(self, axis: int, power: float = 2.0, seed: int = 0, two_dimensional: bool = False) -> None:
        super().__init__(axis)
        self.power, self.two_dimensional = power, two_dimensional
        self._generator = torch.Generator().manual_seed(seed)
        self.lo: Tensor | None = None
        self.hi: Tensor | None = None
        self._counts_cb = torch.empty(0)
        self._reach_c = torch.empty(0)
        """Bins lie evenly from minus this to this."""

    def _collect(self, rows_cn: Tensor, lo_c: Tensor, hi_c: Tensor) -> None:
        channels, n = rows_cn.shape
        reach_c = torch.maximum(-lo_c, hi_c)
        if self.lo is None or self.hi is None:
            self.lo, self.hi = lo_c.clone(), hi_c.clone()
            self._counts_cb = torch.zeros(channels, _BINS, device=rows_cn.device)
            self._reach_c = reach_c.clamp(min=max(1e-12, 1e-3 * float(reach_c.max())))
        self.lo, self.hi = torch.minimum(self.lo, lo_c), torch.maximum(self.hi, hi_c)
        while (short := reach_c > self._reach_c).any():
            self._widen(short)
        if n > _COUNTED_PER_CALL:
            index = torch.randint(n, (_COUNTED_PER_CALL,), generator=self._generator).to(rows_cn.device)
            rows_cn = rows_cn[:, index]
        bins = ((rows_cn / self._reach_c[:, None] + 1) * (_BINS / 2)).long().clamp_(0, _BINS - 1)
        bins += torch.arange(channels, device=bins.device)[:, None] * _BINS
        self._counts_cb += torch.bincount(bins.flatten(), minlength=channels * _BINS).view(channels, _BINS)

    def _widen(self, channels: Tensor) -> None:
        """Twice the reach: two bins become one, and the outer halves are empty."""
        pairs = self._counts_cb[channels].unflatten(1, (_BINS // 2, 2)).sum(2)
        self._counts_cb[channels] = nn.functional.pad(pairs, (_BINS // 4, _BINS // 4))
        self._reach_c[channels] *= 2

    def _choose(self, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        assert self.lo is not None and self.hi is not None
        used = (self._counts_cb > 0).any(0).nonzero()[:, 0]
        part = slice(int(used[0]), int(used[-1]) + 1)
        middles = (torch.arange(_BINS, device=used.device) + 0.5) / (_BINS / 2) - 1
        values_cb = middles[part] * self._reach_c[:, None]
        errors = _RangeErrors(values_cb, self._counts_cb[:, part], bits, symmetric, self.power)
        lo, hi = search_range(errors, self.lo, self.hi, self.two_dimensional)
        lo, hi = torch.minimum(lo, _LEAST_REACH * lo.min()), torch.maximum(hi, _LEAST_REACH * hi.max())
        return qparams_from_range(lo, hi, bits, symmetric)


@dataclass(frozen=True)
class _RangeErrors:
    """What a search weighs: values, how often each counts, and how they are rounded."""

    values_cn: Tensor
    weights_cn: Tensor | None
    bits: int
    symmetric: bool
    power: float

    def of(self, los_kc: Tensor, his_kc: Tensor) -> Tensor:
        """(k, C) errors of k ranges."""
        return range_errors(
            self.values_cn, los_kc, his_kc, self.bits, self.symmetric, self.power, self.weights_cn
        )


def search_range(
    errors: _RangeErrors, lo_c: Tensor, hi_c: Tensor, two_dimensional: bool
) -> tuple[Tensor, Tensor]:
    """The ends (C,) of the range of least error among 100 shrinkages of the extremes.

    Both ends shrink together; where the distribution is one-sided (``two_dimensional`` False) that is the
    whole search. With ``two_dimensional`` each end then shrinks alone too, which helps skewed activations
    (GELU).
    """
    shrinks = torch.tensor([1.0 - 0.01 * step for step in range(100)], device=lo_c.device)[:, None]

    def best(los_kc: Tensor, his_kc: Tensor) -> tuple[Tensor, Tensor]:
        chosen_c = errors.of(los_kc, his_kc).argmin(0)
        return los_kc.gather(0, chosen_c[None])[0], his_kc.gather(0, chosen_c[None])[0]

    lo, hi = best(lo_c * shrinks, hi_c * shrinks)
    if two_dimensional and not errors.symmetric:
        los = torch.cat([lo[None], lo_c * shrinks])
        lo, _ = best(los, hi.expand_as(los))
        his = torch.cat([hi[None], hi_c * shrinks])
        _, hi = best(lo.expand_as(his), his)
    return lo, hi


def range_errors(
    values_cn: Tensor,
    los_kc: Tensor,
    his_kc: Tensor,
    bits: int,
    symmetric: bool,
    power: float,
    weights_cn: Tensor | None = None,
) -> Tensor:
    """Mean |x - x_hat|^power (k, C) of every channel's values, weighted or not, under each of k ranges."""
    channels, count = values_cn.shape
    at_once = max(1, _SEARCH_ELEMENTS // values_cn.numel())
    errors = []
    for los, his in zip(los_kc.split(at_once), his_kc.split(at_once)):
        scale, zero_point = qparams_from_range(los.reshape(-1), his.reshape(-1), bits, symmetric)
        rows = values_cn.expand(len(los), channels, count).reshape(-1, count)
        difference = fake_quantize(rows, scale, zero_point, bits, axis=0).sub_(rows).abs_()
        powers_kcn = difference.pow_(power).view(len(los), channels, count)
        if weights_cn is None:
            errors.append(powers_kcn.mean(dim=2))
        else:
            total_c = weights_cn.sum(dim=1).clamp(min=1e-12)
            errors.append(powers_kcn.mul_(weights_cn).sum(dim=2) / total_c)
    return torch.cat(errors)


def make_observer(kind: str, axis: int | None, seed: int = 0) -> Observer:
    """An observer by its name in a configuration.

    ``minmax``, ``average_minmax``, ``ema_minmax``, ``percentile``, ``percentile:0.999``, ``mse`` (OMSE),
    ``lapq`` (p = 2.4), ``mse2d``.

    Raises:
        QuantizationError: unknown name.
    """
    name, _, argument = kind.partition(":")
    if name == "percentile":
        return PercentileObserver(axis, float(argument) if argument else 0.9999, seed)
    makers = {
        "minmax": lambda: MinMaxObserver(axis),
        "average_minmax": lambda: MinMaxObserver(axis, "average"),
        "ema_minmax": lambda: MinMaxObserver(axis, "ema"),
        "mse": lambda: _mse(axis, 2.0, seed, False),
        "mse2d": lambda: _mse(axis, 2.0, seed, True),
        "lapq": lambda: _mse(axis, 2.4, seed, False),
    }
    if name not in makers or argument:
        raise QuantizationError(f"There is no observer {kind!r}.")
    return makers[name]()


def _mse(axis: int | None, power: float, seed: int, two_dimensional: bool) -> Observer:
    if axis is None:
        return MseObserver(power, seed, two_dimensional)
    return ChannelMseObserver(axis, power, seed, two_dimensional)


def observe_weight(weight: Tensor, kind: str, axis: int, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point (C,) of a weight, from the whole weight (no sampling: it is all there)."""
    rows_cn = weight.detach().float().movedim(axis, 0).flatten(1)
    lo, hi = rows_cn.aminmax(dim=1)
    if kind == "minmax":
        return qparams_from_range(lo, hi, bits, symmetric)
    power = {"mse": 2.0, "lapq": 2.4}.get(kind)
    if power is None:
        raise QuantizationError(f"Weights are observed by minmax, mse or lapq, not {kind!r}.")
    shrinks = torch.tensor([1.0 - 0.015 * step for step in range(40)], device=lo.device)[:, None]
    best_c = range_errors(rows_cn, lo * shrinks, hi * shrinks, bits, symmetric, power).argmin(0)
    shrink_c = shrinks[best_c, 0]
    return qparams_from_range(lo * shrink_c, hi * shrink_c, bits, symmetric)
