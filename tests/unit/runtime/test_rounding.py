"""Rounding to codes in its several forms, against the definition (Eq. 1)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore.runtime import rounding
from qcore.runtime.rounding import Rounding


@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(2, 8),
    share=st.floats(0.0, 1.0),
    scale=st.floats(1e-3, 10.0),
)
def test_all_forms_agree_with_the_definition_and_take_codes_as_well(
    seed: int, bits: int, share: float, scale: float
) -> None:
    largest = 2**bits - 1
    zero = round(share * largest)
    rounds = Rounding(scale, zero, largest)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed)) * scale * largest
    exact = torch.clamp(torch.round(x * (1.0 / scale)) + zero, 0, largest)
    codes = rounds.bytes(x)
    assert torch.equal(codes.float(), exact)
    for source in (x, codes):
        assert torch.equal(rounds.bytes(source), codes)
        for dtype in (torch.float32, torch.bfloat16):
            centred = rounds.centred(source, dtype)
            assert centred.dtype is dtype
            assert torch.equal(centred.float(), exact - zero)
        if rounds.reach <= 127:
            assert torch.equal(rounds.signed_bytes(source).float(), exact - zero)
        shift = zero if rounds.reach <= 127 else 128
        assert torch.equal(rounds.shifted_bytes(source, shift).float(), exact - shift)
    assert torch.equal(rounds.bytes(x), codes)


@pytest.mark.parametrize(("bits", "zero"), [(6, 20), (8, 128), (8, 3)])
def test_large_tensors_take_the_way_over_bytes_to_the_same_codes(
    bits: int, zero: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 1024) * 3
    rounds = Rounding(0.05, zero, 2**bits - 1)
    assert x.numel() >= rounding._LARGE
    over_bytes = rounds.centred(x)
    monkeypatch.setattr(rounding, "_LARGE", x.numel() + 1)
    difference = (over_bytes - rounds.centred(x)).abs()
    assert difference.max() <= 1
    # only what lies half-way between two codes may go the other way
    assert (difference > 0).float().mean() < 1e-4
