"""Bit packing against a bit-by-bit reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.quant.affine import QuantizationError
from qcore.quant.packing import pack_rows, row_bytes, unpack_rows


def _reference(row: list[int], bits: int) -> bytes:
    number = sum(code << (index * bits) for index, code in enumerate(row))
    return number.to_bytes((len(row) * bits + 7) // 8, "little")


@given(
    bits=st.integers(2, 8),
    rows=st.integers(1, 5),
    columns=st.integers(1, 37),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_packing_is_the_little_endian_bit_stream_and_comes_back(
    bits: int, rows: int, columns: int, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    packed = pack_rows(codes, bits)
    assert [row.tobytes() for row in packed] == [_reference([int(c) for c in row], bits) for row in codes]
    assert np.array_equal(unpack_rows(packed, columns, bits), codes)


def test_four_bits_take_half_a_byte_and_six_bits_three_quarters() -> None:
    assert (row_bytes(10, 4), row_bytes(8, 6), row_bytes(3, 6)) == (5, 6, 3)
    assert pack_rows(np.array([[1, 2]], np.uint8), 4).tolist() == [[0x21]]


def test_codes_too_large_wrong_width_and_dirty_padding_are_refused() -> None:
    with pytest.raises(QuantizationError, match="does not fit"):
        pack_rows(np.array([[16]], np.uint8), 4)
    with pytest.raises(QuantizationError, match="width"):
        unpack_rows(np.zeros((1, 3), np.uint8), 4, 4)
    with pytest.raises(QuantizationError, match="padding"):
        unpack_rows(np.array([[0x11, 0x10]], np.uint8), 3, 4)
