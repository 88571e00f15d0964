"""Ranges chosen from data, against numpy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qcore.quant.affine import QuantizationError, fake_quantize, qparams_from_range
from qcore.quant.observers import (
    ChannelMseObserver,
    MinMaxObserver,
    MseObserver,
    PercentileObserver,
    make_observer,
    observe_weight,
)


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_minmax_keeps_the_extremes_of_all_calls() -> None:
    observer = MinMaxObserver()
    observer.observe(torch.tensor([-1.0, 2.0]))
    observer.observe(torch.tensor([-3.0, 1.0]))
    scale, zero = observer.qparams(8)
    assert float(scale) == pytest.approx(5 / 255)
    assert int(zero) == round(3 / (5 / 255))


def test_average_minmax_is_the_mean_of_the_calls() -> None:
    observer = MinMaxObserver(mode="average")
    for hi in (1.0, 2.0, 6.0):
        observer.observe(torch.tensor([0.0, hi]))
    assert float(observer.qparams(8)[0]) == pytest.approx(3 / 255, rel=1e-5)


def test_percentile_agrees_with_numpy_on_data_that_fits_the_sample() -> None:
    x = _normal(1, 4000)
    observer = PercentileObserver(percentile=0.99)
    observer.observe(x)
    lo, hi = np.quantile(x.numpy(), [0.01, 0.99])
    assert float(observer.qparams(8)[0]) == pytest.approx((hi - lo) / 255, rel=1e-4)


def test_percentile_takes_more_elements_than_torch_quantile_allows() -> None:
    observer = PercentileObserver(percentile=0.999)
    observer.observe(torch.zeros(1).expand((1 << 24) + 8))
    observer.observe(_normal(0, 100_000))
    assert 0 < float(observer.qparams(8)[0]) < 1


@pytest.mark.parametrize("power", [2.0, 2.4])
def test_mse_search_finds_the_best_of_its_hundred_ranges(power: float) -> None:
    x = torch.cat([_normal(2, 3000), torch.tensor([14.0, -9.0])])
    observer = MseObserver(power=power)
    observer.observe(x)
    scale, zero = observer.qparams(4)
    ours = (fake_quantize(x, scale, zero, 4) - x).abs().pow(power).mean()
    brute = min(
        float(
            (fake_quantize(x, *qparams_from_range(x.min() * f, x.max() * f, 4), 4) - x)
            .abs()
            .pow(power)
            .mean()
        )
        for f in np.linspace(0.01, 1, 100)
    )
    assert float(ours) == pytest.approx(brute, rel=1e-3)


def test_one_outlier_call_does_not_undo_the_clipping() -> None:
    observer = MseObserver()
    for seed in range(20):
        observer.observe(_normal(seed, 4000))
    observer.observe(torch.tensor([60.0]))
    assert float(observer.qparams(4)[0]) < 0.3 * (60 + 4) / 15


def test_per_channel_observers_treat_channels_apart() -> None:
    x = torch.stack([_normal(3, 500), _normal(4, 500) * 100], dim=1)
    for kind, apart in (("minmax", 30.0), ("percentile", 30.0), ("mse", 1.9)):
        observer = make_observer(kind, axis=1)
        observer.observe(x)
        scale, zero = observer.qparams(4)
        assert scale.shape == zero.shape == (2,)
        assert float(scale[1] / scale[0]) > apart


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_a_channel_that_is_counted_gets_the_range_that_its_values_themselves_would_give(
    two_dimensional: bool,
) -> None:
    calls = [_normal(seed, 3, 700) * torch.tensor([[0.9], [1.2], [1.0]]) + 0.2 for seed in range(6)]
    calls.insert(3, calls[0] * 7)  # the bins have to grow
    observer = ChannelMseObserver(0, two_dimensional=two_dimensional)
    for call in calls:
        observer.observe(call)
    scale, zero = observer.qparams(4)
    for channel in range(3):
        values = torch.cat([call[channel] for call in calls])
        lo, hi = values.min(), values.max()
        shrinks = np.linspace(0.01, 1, 100)
        brute = min(
            float((fake_quantize(values, *qparams_from_range(lo * f, hi * f, 4), 4) - values).pow(2).mean())
            for f in shrinks
        )
        ours = (fake_quantize(values, scale[channel], zero[channel], 4) - values).pow(2).mean()
        assert float(ours) <= 1.03 * brute


def test_a_channel_keeps_what_it_rarely_shows() -> None:
    # silent but for 1 value in 600: a sample of hundreds would cut it off
    observer = ChannelMseObserver(1)
    for seed in range(40):
        x = torch.zeros(1, 2, 30, 40)
        x[0, 0] = _normal(seed, 30, 40).abs() * 0.02
        x[0, 0, seed % 30, 3:5] = 5.0
        observer.observe(x)
    scale, zero = observer.qparams(8)
    assert float((fake_quantize(torch.tensor(5.0), scale[0], zero[0], 8) - 5.0).abs()) < 0.05
    assert float(scale[1]) == pytest.approx(float(scale[0]) / 2, rel=1e-3)  # the one that is always silent


def test_weight_mse_is_never_worse_than_minmax() -> None:
    weight = _normal(5, 8, 64)
    weight[0, 0] = 12.0
    errors = {}
    for kind in ("minmax", "mse"):
        scale, zero = observe_weight(weight, kind, 0, 4, False)
        errors[kind] = (fake_quantize(weight, scale, zero, 4, 0) - weight).pow(2).mean(1)
    assert (errors["mse"] <= errors["minmax"] + 1e-9).all()
    assert float(errors["mse"][0]) < float(errors["minmax"][0])


def test_unseen_broken_and_unknown_are_refused() -> None:
    with pytest.raises(QuantizationError, match="never saw"):
        MinMaxObserver().qparams(8)
    with pytest.raises(QuantizationError, match="not finite"):
        MinMaxObserver().observe(torch.tensor([1.0, float("nan")]))
    with pytest.raises(QuantizationError, match="no observer"):
        make_observer("kl", None)
