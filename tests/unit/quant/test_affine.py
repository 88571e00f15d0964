"""Eq. 1 against torch's kernels, gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.quant.affine import (
    QuantizationError,
    dequantize,
    fake_quantize,
    qparams_from_range,
    quant_max,
    quantize,
)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_and_values_equal_torchs_kernels_bit_for_bit(bits: int) -> None:
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(bits)) * 3
    scale, zero = qparams_from_range(x.min(), x.max(), bits)
    ours = dequantize(quantize(x, scale, zero, bits), scale, zero)
    theirs = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), 0, 2**bits - 1)
    assert torch.equal(ours, theirs)
    assert torch.equal(fake_quantize(x, scale, zero, bits), theirs)
    scale_c, zero_c = qparams_from_range(x.amin(1), x.amax(1), bits)
    ours = dequantize(quantize(x, scale_c, zero_c, bits, axis=0), scale_c, zero_c, axis=0)
    theirs = torch.fake_quantize_per_channel_affine(x, scale_c, zero_c, 0, 0, 2**bits - 1)
    assert torch.equal(ours, theirs)


@given(
    lo=st.floats(-1e4, 1e4, width=32),
    width=st.floats(0, 1e4, width=32),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_zero_is_exact_and_the_range_is_covered_to_half_a_step(
    lo: float, width: float, bits: int, symmetric: bool
) -> None:
    ends = torch.tensor([lo, lo + width])
    scale, zero = qparams_from_range(ends[0], ends[1], bits, symmetric)
    assert 0 <= int(zero) <= quant_max(bits)
    assert float(fake_quantize(torch.zeros(1), scale, zero, bits)) == 0.0
    error = (fake_quantize(ends, scale, zero, bits) - ends).abs().max()
    assert float(error) <= float(scale) * 0.5001 + 1e-6


def test_rounding_goes_half_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, 3.5])
    assert quantize(x, torch.tensor(1.0), torch.tensor(0), 4).tolist() == [0, 2, 2, 4]


def test_gradient_of_x_is_one_inside_and_zero_outside() -> None:
    x = torch.tensor([-5.0, -0.2, 0.3, 0.9, 9.0], requires_grad=True)
    fake_quantize(x, torch.tensor(0.1), torch.tensor(5), 4).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("axis", [None, 0])
def test_gradient_of_the_step_follows_lsq(axis: int | None) -> None:
    """Outside the range and for frozen roundings x_hat is smooth in s: compare with finite differences
    there.
    """
    x = torch.randn(4, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 4
    scale = torch.full((4,), 0.13) if axis == 0 else torch.tensor(0.13)
    zero = torch.full((4,), 6, dtype=torch.int32) if axis == 0 else torch.tensor(6, dtype=torch.int32)
    scale.requires_grad_(True)
    fake_quantize(x, scale, zero, 4, axis, scale_gradient_normalised=False).sum().backward()

    def straight_through(s: torch.Tensor) -> torch.Tensor:
        """x_hat with every rounding error and every clipping decision held at those of the original s."""
        s0 = scale.detach()
        s_, s0_ = (s[:, None], s0[:, None]) if axis == 0 else (s, s0)
        error = torch.round(x.double() / s0_.double()) - x.double() / s0_.double()
        nearest = torch.round(x.double() / s0_.double())
        codes = x.double() / s_.double() + error
        codes = torch.where(nearest < -6, -6.0, torch.where(nearest > 9, 9.0, codes))
        return codes * s_.double()

    for index in range(4 if axis == 0 else 1):
        step = 1e-7
        up, down = scale.detach().double().clone(), scale.detach().double().clone()
        up.view(-1)[index] += step
        down.view(-1)[index] -= step
        slope = (straight_through(up).sum() - straight_through(down).sum()) / (2 * step)
        assert scale.grad is not None
        assert float(scale.grad.view(-1)[index]) == pytest.approx(float(slope), rel=1e-2, abs=0.5)


@pytest.mark.parametrize("bits", [0, 1, 9, 16])
def test_impossible_bit_widths_are_refused(bits: int) -> None:
    with pytest.raises(QuantizationError, match="Bit widths"):
        quant_max(bits)
