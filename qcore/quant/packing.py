"""Codes of 2 to 8 bits to bytes and back, without a wasted bit.

Row-wise little-endian bit stream: code i of a row occupies bits i*k .. i*k+k-1 of that row's bytes, counted
from each byte's lowest bit; a row is padded with zero bits to a whole byte. So 4-bit codes lie two a byte,
first in the low nibble; four 6-bit codes lie in three bytes. A row is one output channel, so any width works.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qcore.quant.affine import QuantizationError, quant_max

Bytes = npt.NDArray[np.uint8]


def row_bytes(columns: int, bits: int) -> int:
    """Bytes of one packed row of ``columns`` codes."""
    return (columns * bits + 7) // 8


def pack_rows(codes_rc: Bytes, bits: int) -> Bytes:
    """(rows, columns) codes 0..2^bits-1 to (rows, row_bytes) uint8.

    Raises:
        QuantizationError: not a two-dimensional uint8 array, or a code does not fit.
    """
    largest = quant_max(bits)
    if codes_rc.ndim != 2 or codes_rc.dtype != np.uint8:
        raise QuantizationError("Codes to pack must be a two-dimensional array of bytes.")
    if codes_rc.size and int(codes_rc.max()) > largest:
        raise QuantizationError(f"A code does not fit into {bits} bits.")
    rows, columns = codes_rc.shape
    if bits == 8:
        return np.ascontiguousarray(codes_rc)
    planes_rck = np.unpackbits(codes_rc[:, :, None], axis=2, count=bits, bitorder="little")
    return np.packbits(planes_rck.reshape(rows, columns * bits), axis=1, bitorder="little")


def unpack_rows(packed_rb: Bytes, columns: int, bits: int) -> Bytes:
    """Inverse of `pack_rows`: (rows, row_bytes) to (rows, columns) uint8.

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
