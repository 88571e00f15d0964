"""The bundle file's outer form: a safetensors file read with our own strict parser before anything is
allocated.

8 bytes little-endian header length, JSON header, tensor bytes. Accepted are only three dtypes, tensors that
lie edge to edge and end at the end of the file, and one metadata key, ``qcore``, holding canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qcore.models.errors import ModelError

METADATA_KEY = "qcore"
MAX_FILE_BYTES = 2 << 30
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 6
_DTYPES: dict[str, Any] = {"U8": np.uint8, "F16": np.float16, "F32": np.float32}
_NAMES = {np.dtype(np.uint8): "U8", np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}


class BundleError(ModelError):
    """A bundle cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: ``begin`` and ``end`` count bytes from the start of the data section."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A checked outer form. Nothing of the data section has been read yet."""

    path: Path
    data_start: int
    entries: dict[str, TensorEntry]
    header: dict[str, Any]

    def payload_sha256(self) -> str:
        """SHA-256 of the data section, hexadecimal."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            file.seek(self.data_start)
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def read(self, name: str) -> npt.NDArray[Any]:
        """One tensor, copied into memory."""
        entry = self.entries[name]
        with self.path.open("rb") as file:
            file.seek(self.data_start + entry.begin)
            raw = file.read(entry.end - entry.begin)
        if len(raw) != entry.end - entry.begin:
            raise BundleError("The bundle changed while it was read.")
        return np.frombuffer(raw, dtype=_DTYPES[entry.dtype]).reshape(entry.shape).copy()


def open_bundle_file(path: Path) -> BundleFile:
    """Check size, header and tensor table of a file; reads only the header.

    Raises:
        BundleError: anything is not as it must be.
    """
    try:
        size = path.stat().st_size
        if not 8 <= size <= MAX_FILE_BYTES:
            raise BundleError(f"{path.name} is not a bundle: its size is impossible.")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES or 8 + length > size:
                raise BundleError(f"{path.name} is damaged or cut off.")
            raw = file.read(length)
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}.") from error
    table = parse_json(raw, path.name)
    metadata = table.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(METADATA_KEY), str):
        raise BundleError(f"{path.name} is not a bundle of this program.")
    entries = _entries(table, size - 8 - length, path.name)
    header = parse_json(metadata[METADATA_KEY].encode(), path.name)
    return BundleFile(path, 8 + length, entries, header)


def parse_json(raw: bytes, file_name: str) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN or infinities.

    Raises:
        BundleError: anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise BundleError(f"{file_name} is damaged: a name occurs twice in its header.")
        return value

    def no_constant(text: str) -> Any:
        raise BundleError(f"{file_name} is damaged: {text} in its header.")

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file_name} is damaged: its header is not readable.") from error
    if not isinstance(value, dict):
        raise BundleError(f"{file_name} is damaged: its header is not an object.")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _entries(table: dict[str, Any], data_bytes: int, file_name: str) -> dict[str, TensorEntry]:
    damaged = BundleError(f"{file_name} is damaged: its table of tensors does not fit its size.")
    if len(table) > MAX_TENSORS:
        raise damaged
    entries: dict[str, TensorEntry] = {}
    for name, value in table.items():
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise damaged
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise damaged
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_count, shape)):
            raise damaged
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
            raise damaged
        begin, end = offsets
        if math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != end - begin:
            raise damaged
        entries[name] = TensorEntry(dtype, tuple(shape), begin, end)
    position = 0
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != position:
            raise damaged
        position = entry.end
    if position != data_bytes:
        raise damaged
    return entries


def write_bundle_file(path: Path, tensors: dict[str, npt.NDArray[Any]], header: dict[str, Any]) -> None:
    """Write a bundle byte-reproducibly, under its name only once it is complete.

    ``payload_sha256`` is added to ``header``. Larger elements come first, so every tensor is aligned.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    table: dict[str, Any] = {}
    digest, position = hashlib.sha256(), 0
    blocks: list[bytes] = []
    for name in order:
        block = np.ascontiguousarray(tensors[name]).tobytes()
        table[name] = {
            "dtype": _NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [position, position + len(block)],
        }
        position += len(block)
        digest.update(block)
        blocks.append(block)
    canonical = canonical_json({**header, "payload_sha256": digest.hexdigest()})
    raw = json.dumps({"__metadata__": {METADATA_KEY: canonical}, **table}, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for block in blocks:
            file.write(block)
    partial.replace(path)


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
