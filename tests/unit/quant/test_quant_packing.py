"""Stored codes against references: the Huffman stream and the plain bit packing of version 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.quant.affine import QuantizationError
from qcore.quant.packing import decode_codes, encode_codes, most_bytes, row_bytes, unpack_rows

Bytes = npt.NDArray[np.uint8]


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
def test_version_1_packed_a_little_endian_bit_stream(bits: int, rows: int, columns: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    rows_of_bytes = [np.frombuffer(_reference([int(c) for c in row], bits), np.uint8) for row in codes]
    packed = np.stack(rows_of_bytes)
    assert packed.shape == (rows, row_bytes(columns, bits))
    assert np.array_equal(unpack_rows(packed, columns, bits), codes)


def test_four_bits_take_half_a_byte_and_six_bits_three_quarters() -> None:
    assert (row_bytes(10, 4), row_bytes(8, 6), row_bytes(3, 6)) == (5, 6, 3)
    assert unpack_rows(np.array([[0x21]], np.uint8), 2, 4).tolist() == [[1, 2]]


def test_a_wrong_width_and_dirty_padding_are_refused() -> None:
    with pytest.raises(QuantizationError, match="width"):
        unpack_rows(np.zeros((1, 3), np.uint8), 4, 4)
    with pytest.raises(QuantizationError, match="padding"):
        unpack_rows(np.array([[0x11, 0x10]], np.uint8), 3, 4)


def _entropy_bytes(codes: Bytes) -> float:
    shares = np.bincount(codes) / len(codes)
    return float(-(shares * np.log2(np.maximum(shares, 1e-12))).sum()) * len(codes) / 8


@given(
    bits=st.integers(2, 8),
    count=st.integers(1, 20_000),
    spread=st.floats(0.01, 10),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_stream_comes_back_and_takes_little_more_than_its_entropy(
    bits: int, count: int, spread: float, seed: int
) -> None:
    middle = 2 ** (bits - 1)
    drawn = np.random.default_rng(seed).normal(middle, spread * middle, count)
    codes = drawn.round().clip(0, 2**bits - 1).astype(np.uint8)
    stream = encode_codes(codes)
    assert np.array_equal(decode_codes(stream, count), codes)
    assert len(stream) <= most_bytes(count)
    # a Huffman code wastes less than a bit a code, and a table of lengths comes with each block
    assert len(stream) <= _entropy_bytes(codes) + count / 8 + 200


def test_weights_like_those_of_a_network_take_fewer_bits_than_their_width() -> None:
    codes = np.random.default_rng(0).normal(32, 10, 100_000).round().clip(0, 63).astype(np.uint8)
    assert len(encode_codes(codes)) < 0.93 * row_bytes(len(codes), 6)


def test_streams_of_another_length_or_with_more_behind_them_are_refused() -> None:
    codes = np.arange(100, dtype=np.uint8) % 16
    stream = encode_codes(codes)
    for broken in (stream[:-1], np.concatenate([stream, stream]), stream[:0], ~stream):
        with pytest.raises(QuantizationError, match="stored weights"):
            decode_codes(broken, 100)
    for count in (99, 101):
        with pytest.raises(QuantizationError, match="as many"):
            decode_codes(stream, count)


def test_a_stream_that_would_unpack_to_much_more_is_stopped() -> None:
    with pytest.raises(QuantizationError, match="as many"):
        decode_codes(encode_codes(np.zeros(1 << 22, np.uint8)), 1000)
