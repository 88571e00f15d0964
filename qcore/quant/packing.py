"""Codes of 2 to 8 bits to bytes and back, without a wasted bit.

Bundles store the codes of all layers of one width as one Huffman-coded stream (raw DEFLATE without matches,
which zlib decodes in milliseconds): frequent codes take fewer bits than rare ones, so 6-bit weights take
about 5.6 bits each. Version 1 of the format stored them plainly, and is still read:

row-wise little-endian bit stream: code i of a row occupies bits i*k .. i*k+k-1 of that row's bytes, counted
from each byte's lowest bit; a row is padded with zero bits to a whole byte. So 4-bit codes lie two a byte,
first in the low nibble; four 6-bit codes lie in three bytes. A row is one output channel, so any width works.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from qcore.quant.affine import QuantizationError, quant_max

Bytes = npt.NDArray[np.uint8]


def most_bytes(count: int) -> int:
    """More than any stream of ``count`` codes takes."""
    return count + count // 8 + 64


def encode_codes(codes_n: Bytes) -> Bytes:
    """Codes one a byte to their stream; the same bytes for the same codes and zlib.

    Raises:
        QuantizationError: not a one-dimensional uint8 array.
    """
    if codes_n.ndim != 1 or codes_n.dtype != np.uint8:
        raise QuantizationError("Codes to store must be a row of bytes.")
    encoder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return np.frombuffer(encoder.compress(codes_n.tobytes()) + encoder.flush(), np.uint8)


def decode_codes(stream_n: Bytes, count: int) -> Bytes:
    """Inverse of `encode_codes`; never holds more than ``count`` + 1 codes, whatever the stream says.

    Raises:
        QuantizationError: the stream is damaged or does not hold exactly ``count`` codes.
    """
    decoder = zlib.decompressobj(-15)
    try:
        raw = decoder.decompress(stream_n.tobytes(), count + 1)
    except zlib.error as error:
        raise QuantizationError("The stored weights are not readable.") from error
    if len(raw) != count or not decoder.eof or decoder.unused_data:
        raise QuantizationError("The stored weights are not as many as their layers need.")
    return np.frombuffer(raw, np.uint8)


def row_bytes(columns: int, bits: int) -> int:
    """Bytes of one packed row of ``columns`` codes."""
    return (columns * bits + 7) // 8


def unpack_rows(packed_rb: Bytes, columns: int, bits: int) -> Bytes:
    """Plainly packed codes, (rows, row_bytes) uint8, to (rows, columns) uint8.

    Raises:
        QuantizationError: the width does not match or the padding bits are not zero.
    """
    quant_max(bits)
    if packed_rb.ndim != 2 or packed_rb.dtype != np.uint8 or packed_rb.shape[1] != row_bytes(columns, bits):
        raise QuantizationError("Packed weights do not have the width that their shape asks for.")
    rows = packed_rb.shape[0]
    if bits == 8:
        return np.ascontiguousarray(packed_rb)
    planes = np.unpackbits(packed_rb, axis=1, bitorder="little")
    if planes[:, columns * bits :].any():
        raise QuantizationError("Packed weights have bits set in their padding.")
    return np.packbits(planes[:, : columns * bits].reshape(rows, columns, bits), axis=2, bitorder="little")[
        :, :, 0
    ]
