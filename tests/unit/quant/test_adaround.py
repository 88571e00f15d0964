"""Learned rounding: its start, its decision, its regularizer."""

from __future__ import annotations

import pytest
import torch

from qcore.quant.adaround import LearnedRounding, annealed_beta, rectified_sigmoid
from qcore.quant.affine import dequantize, fake_quantize
from qcore.quant.observers import observe_weight


def _rounding(bits: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, LearnedRounding]:
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    scale, zero = observe_weight(weight, "minmax", 0, bits, False)
    return weight, scale, zero, LearnedRounding(weight, scale, zero, bits, 0)


def test_soft_rounding_starts_at_the_weight_itself() -> None:
    weight, scale, zero, rounding = _rounding()
    lo, hi = -zero * scale, (15 - zero) * scale
    inside = (weight > lo[:, None]) & (weight < hi[:, None])
    assert float(inside.float().mean()) > 0.85
    assert float(((rounding.soft_weight().detach() - weight).abs() / scale[:, None])[inside].max()) < 2e-3
    assert float((rounding.soft_weight() - weight).abs().max().detach()) <= float(scale.max()) * 0.51


def test_hard_rounding_of_an_untrained_v_is_nearest_rounding() -> None:
    weight, scale, zero, rounding = _rounding()
    hard = dequantize(rounding.hard_codes(), scale, zero, 0)
    assert torch.allclose(hard, fake_quantize(weight, scale, zero, 4, 0), atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_hard_codes_stay_in_range_whatever_v_says(bits: int) -> None:
    *_, rounding = _rounding(bits)
    rounding.v.data = torch.randn_like(rounding.v) * 50
    codes = rounding.hard_codes()
    assert codes.dtype == torch.uint8
    assert int(codes.max()) <= 2**bits - 1


def test_soft_equals_hard_once_every_h_is_decided() -> None:
    _, scale, zero, rounding = _rounding()
    rounding.v.data = torch.where(rounding.v >= 0, 10.0, -10.0)
    assert torch.allclose(rounding.soft_weight(), dequantize(rounding.hard_codes(), scale, zero, 0))
    assert float(rounding.regularizer(2.0).detach()) == pytest.approx(0.0, abs=1e-4)
    assert rounding.undecided() == 0.0


def test_regularizer_matches_its_formula_and_pushes_away_from_a_half() -> None:
    *_, rounding = _rounding()
    h = rectified_sigmoid(rounding.v)
    assert float(rounding.regularizer(3.0).detach()) == pytest.approx(
        float((1 - (2 * h - 1).abs() ** 3).sum().detach()), rel=1e-6
    )
    rounding.regularizer(2.0).backward()
    assert rounding.v.grad is not None
    moved = rectified_sigmoid(rounding.v - 0.01 * rounding.v.grad)
    free = (h > 0.01) & (h < 0.99)
    assert ((moved - 0.5).abs() >= (h - 0.5).abs() - 1e-6)[free].all()


def test_beta_waits_for_the_warm_up_and_falls_linearly() -> None:
    assert annealed_beta(0.1, 20, 2, 0.2) is None
    assert annealed_beta(0.2, 20, 2, 0.2) == pytest.approx(20)
    assert annealed_beta(0.6, 20, 2, 0.2) == pytest.approx(11)
    assert annealed_beta(1.0, 20, 2, 0.2) == pytest.approx(2)
