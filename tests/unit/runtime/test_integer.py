"""Integer products against exact sums in 64 bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.quant.affine import quantize
from qcore.quant.fake_quantize import ActivationQuantizer
from qcore.runtime import rounding
from qcore.runtime.integer import (
    IntegerConv,
    IntegerMatrix,
    fits,
    has_integer_kernels,
    is_exact,
    sums_full_bytes,
)
from qcore.runtime.rounding import Rounding

needs_kernels = pytest.mark.skipif(not has_integer_kernels(), reason="no 8-bit kernels in this torch")


@needs_kernels
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9), inner=st.integers(1, 70), columns=st.integers(1, 40), seed=st.integers(0, 99),
    limits=st.sampled_from([(63, 63), (127, 127), (255, 63), (15, 15), (255, 127)]), zero=st.integers(0, 15),
)  # fmt: skip
def test_products_within_the_limits_are_exact(
    rows: int, inner: int, columns: int, seed: int, limits: tuple[int, int], zero: int
) -> None:
    if not is_exact(*limits):
        return
    generator = torch.Generator().manual_seed(seed)
    # extremes often: sums of equal signs are what overflows
    codes = torch.randint(0, 2, (rows, inner), generator=generator) * limits[0]
    weight = torch.randint(-1, 2, (columns, inner), generator=generator) * limits[1]
    want = (codes - zero) @ weight.T
    bytes_nk = weight.to(torch.int8)
    cases = [(bytes_nk, rows), (bytes_nk, None), (bytes_nk.t().contiguous().t(), None)]
    for matrix_nk, rows_hint in cases if sums_full_bytes() else cases[:1]:
        matrix = IntegerMatrix(matrix_nk, torch.ones(columns), None, rows_hint)
        assert torch.equal(matrix.multiply(codes.to(torch.uint8), 1.0, zero).long(), want)


@pytest.mark.skipif(not sums_full_bytes(), reason="full bytes are not exact on this processor")
@pytest.mark.parametrize("groups", [1, 8])
def test_the_whole_range_of_a_signed_byte_is_one_byte(groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (1, 8, 6, 6), generator=generator)
    weight = torch.randint(-128, 128, (8, 8 // groups, 3, 3), generator=generator)
    weight[0], weight[1] = -128, 127
    assert fits(255, weight, groups) and not fits(255, -weight, groups=8)
    conv = IntegerConv(weight, torch.ones(8), None, 1, 1, groups)
    assert not conv.twice
    x = codes.to(torch.uint8).contiguous(memory_format=torch.channels_last)
    want = F.conv2d((codes - 3).double(), weight.double(), None, 1, 1, groups=groups)
    assert torch.equal(conv.real(x, 1.0, 3).double(), want)


@pytest.mark.skipif(not sums_full_bytes(), reason="full bytes are not exact on this processor")
def test_weights_of_two_bytes_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (1, 8, 6, 6), generator=generator)
    weight = torch.randint(-256, 255, (12, 8, 3, 3), generator=generator)
    weight[0], weight[1] = -256, 254
    assert fits(255, weight) and not fits(255, weight.abs()) and not fits(255, weight, groups=2)
    conv = IntegerConv(weight, torch.ones(12), None, 1, 1, 1)
    x = codes.to(torch.uint8).contiguous(memory_format=torch.channels_last)
    want = F.conv2d((codes - 3).double(), weight.double(), None, 1, 1)
    assert torch.equal(conv.real(x, 1.0, 3).double(), want)
    matrix = IntegerMatrix(weight.flatten(1), torch.ones(12), None, 5)
    rows = torch.randint(0, 256, (5, 72), generator=generator)
    got = matrix.multiply(rows.to(torch.uint8), 1.0, 100)
    assert torch.equal(got.long(), (rows - 100) @ weight.flatten(1).T)


@needs_kernels
@pytest.mark.parametrize(("groups", "stride", "side"), [(1, 1, 1), (1, 2, 3), (16, 1, 5), (16, 2, 3)])
def test_convolutions_are_exact_and_pad_with_real_zeros(groups: int, stride: int, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 64, (1, 16, 12, 12), generator=generator)
    weight = torch.randint(-63, 64, (16, 16 // groups, side, side), generator=generator)
    kernel = IntegerConv(weight.to(torch.int8), torch.ones(16), None, stride, side // 2, groups)
    x = codes.to(torch.uint8).contiguous(memory_format=torch.channels_last)
    want = F.conv2d((codes - 20).double(), weight.double(), None, stride, side // 2, 1, groups)
    assert torch.equal(kernel.real(x, 1.0, 20).double(), want)


@needs_kernels
def test_results_can_leave_as_bytes() -> None:
    weight = torch.tensor([[2, -1], [1, 1]], dtype=torch.int8)
    matrix = IntegerMatrix(weight, torch.full((2,), 0.5), torch.tensor([0.0, 100.0]), 1)
    codes = torch.tensor([[10, 4]], dtype=torch.uint8)
    # (16, 14) / 2 + (0, 100) in steps of 4 above 3: 2 + 3, and half to even of 26.75 + 3
    assert matrix.multiply(codes, 1.0, 0, into=(4.0, 3)).tolist() == [[5, 30]]


def test_what_could_overflow_pairs_of_16_bits_needs_full_sums() -> None:
    if has_integer_kernels():
        assert is_exact(63, 63) and is_exact(127, 127) and is_exact(255, 64)
    assert not is_exact(255, 128)


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("bits", [3, 6, 8])
def test_bytes_are_the_quantizers_codes(bits: int, one_pass: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not one_pass:
        monkeypatch.setattr(rounding, "has_fast_bytes", lambda: False)
    quantizer = ActivationQuantizer(bits)
    quantizer.scale, quantizer.zero_point = torch.tensor(0.0371), torch.tensor(3, dtype=torch.int32)
    x = torch.linspace(-2, 12, 4096).view(4, 8, 16, 8).contiguous(memory_format=torch.channels_last)
    how = Rounding.of(quantizer)
    codes = how.bytes(x)
    assert torch.equal(codes, quantize(x, quantizer.scale, quantizer.zero_point, bits))
    assert codes.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(how.centred(x), codes.float() - 3)
    if how.reach <= 127:
        assert torch.equal(how.signed_bytes(x).float(), codes.float() - 3)
