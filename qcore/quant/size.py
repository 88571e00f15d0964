"""What the bytes of a bundle are spent on, against the same model in fp32, everything counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcore.models.loading import resolve_model
from qcore.quant.affine import MAX_BITS, MIN_BITS
from qcore.quant.bundle import codes_name, read_header
from qcore.quant.bundle_format import open_bundle_file
from qcore.quant.bundle_header import BundleHeader

_ACTIVATIONS = "activation."


@dataclass(frozen=True, slots=True)
class BundleSize:
    """Bytes of one bundle. ``file_bytes`` is all of it, header included."""

    name: str
    bits: str
    file_bytes: int
    fp32_bytes: int
    """Four bytes for every value of the original, as its fp32 file would have."""
    weight_bytes: dict[int, int]
    """Stored weights by their bits."""
    qparam_bytes: int
    """Scales and zero points of weights and activations."""
    float_bytes: int
    """Everything that stays in floating point."""

    @property
    def header_bytes(self) -> int:
        """The JSON header: names, shapes, provenance."""
        return self.file_bytes - sum(self.weight_bytes.values()) - self.qparam_bytes - self.float_bytes

    @property
    def saved_share(self) -> float:
        """How much smaller than fp32, 0..1."""
        return 1.0 - self.file_bytes / self.fp32_bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "name": self.name,
            "bits": self.bits,
            "file_bytes": self.file_bytes,
            "fp32_bytes": self.fp32_bytes,
            "saved_percent": round(100 * self.saved_share, 2),
            "weight_bytes": {str(bits): size for bits, size in sorted(self.weight_bytes.items())},
            "qparam_bytes": self.qparam_bytes,
            "float_bytes": self.float_bytes,
            "header_bytes": self.header_bytes,
        }


def measure_size(id_or_path: str | Path) -> BundleSize:
    """Read a bundle's table of tensors and add up.

    Raises:
        ModelError: no such model, or not a bundle.
    """
    path = resolve_model(id_or_path)
    header = read_header(path)
    weights: dict[int, int] = {}
    qparams = floats = 0
    values = sum(math.prod(layer.shape) for layer in header.layers.values())
    for name, entry in open_bundle_file(path).entries.items():
        size, bits = entry.end - entry.begin, _bits_of(name, header)
        if bits is not None:
            weights[bits] = weights.get(bits, 0) + size
        elif name.startswith(_ACTIVATIONS) or name.endswith(("weight.scale", "weight.zero_point")):
            qparams += size
        else:
            floats += size
            values += math.prod(entry.shape)
    return BundleSize(path.stem, header.bits, path.stat().st_size, 4 * values, weights, qparams, floats)


def _bits_of(name: str, header: BundleHeader) -> int | None:
    """The width of the weights in a tensor, or None if it holds none."""
    layer = header.layers.get(name.removesuffix(".weight.qdata"))  # version 1
    if layer is not None:
        return layer.weight_bits
    return next((n for n in range(MIN_BITS, MAX_BITS + 1) if name == codes_name(n)), None)


def size_markdown(rows: Sequence[BundleSize]) -> str:
    """A table with a row a bundle, in bytes."""
    widths = sorted({bits for row in rows for bits in row.weight_bytes}, reverse=True)
    names = [f"W{bits} weights" for bits in widths]
    lines = [
        "| "
        + " | ".join(
            ["bundle", "bits", *names, "scales", "floating point", "header", "file", "fp32", "smaller"]
        )
        + " |",
        "|---" * (len(names) + 8) + "|",
    ]
    for row in rows:
        parts = [*(row.weight_bytes.get(bits, 0) for bits in widths), row.qparam_bytes, row.float_bytes]
        cells = [f"{size:,}" for size in (*parts, row.header_bytes, row.file_bytes, row.fp32_bytes)]
        saved = f"{100 * row.saved_share:.1f} %"
        lines.append("| " + " | ".join([row.name, row.bits, *cells, saved]) + " |")
    return "\n".join(lines) + "\n"
