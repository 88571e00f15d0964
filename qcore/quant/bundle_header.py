"""The ``qcore`` header of a bundle: what the file claims to hold, checked against a schema with bounds."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from qcore.models.embedded import EmbeddedArch
from qcore.models.errors import ModelError
from qcore.models.registry import MODELS, ModelKind
from qcore.quant.affine import MAX_BITS, MIN_BITS
from qcore.quant.bundle_format import BundleError, canonical_json

FORMAT, VERSION = "qcore.sam2", 2
"""Version 1 held each layer's codes, scales and zero points as tensors of their own; it is still read."""
_INFORMATION = (
    "method",
    "bits",
    "config",
    "calibration",
    "reconstruction",
    "metrics",
    "environment",
    "licence",
)
_REQUIRED = ("format", "version", "model", "layers", "attentions", "mutual_kv", "payload_sha256")


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """How to build the architecture a bundle belongs to, from our own code."""

    base_id: str
    """Registry id or file name of the full-precision original."""
    base_sha256: str
    image_size: int
    arch: EmbeddedArch | None = None
    """Dimensions of a compact model; None for an official architecture, named by ``base_id``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "base_id": self.base_id,
            "base_sha256": self.base_sha256,
            "image_size": self.image_size,
            "arch": None if self.arch is None else dataclasses.asdict(self.arch),
        }


@dataclass(frozen=True, slots=True)
class LayerHeader:
    """One packed layer; in the file a list of these values in this order (version 1: by name)."""

    weight_bits: int
    activation_bits: int | None
    per_channel_input: bool
    symmetric: bool
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AttentionHeader:
    """One attention's products."""

    activation_bits: int
    value_per_channel: bool
    softmax_kind: str
    softmax_bits: int
    tau: int
    row_scale: bool


@dataclass(frozen=True, slots=True)
class MutualKvHeader:
    """Mutual-KV settings the model was calibrated with."""

    epsilon: float
    log_bias: bool


@dataclass(frozen=True, slots=True)
class BundleHeader:
    """A validated header. ``information`` is provenance for people; nothing is computed from it."""

    model: ModelDescription
    layers: dict[str, LayerHeader]
    attentions: dict[str, AttentionHeader]
    mutual_kv: MutualKvHeader | None
    payload_sha256: str
    information: dict[str, Any]
    version: int = VERSION

    @property
    def bits(self) -> str:
        """E.g. ``w4a4``."""
        return str(self.information.get("bits", "quantized"))

    @property
    def method(self) -> str:
        """E.g. ``q-minisam2``."""
        return str(self.information.get("method", "unknown"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the payload's hash (the writer adds it)."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model.to_dict(),
            "layers": {name: list(dataclasses.astuple(layer)) for name, layer in self.layers.items()},
            "attentions": {name: dataclasses.asdict(a) for name, a in self.attentions.items()},
            "mutual_kv": None if self.mutual_kv is None else dataclasses.asdict(self.mutual_kv),
            **self.information,
        }


def parse_header(value: dict[str, Any]) -> BundleHeader:
    """Check an untrusted header.

    Raises:
        BundleError: a newer version, or anything outside the schema.
    """
    if value.get("format") != FORMAT:
        raise BundleError("The file is not a bundle of this program.")
    version = value.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BundleError("The bundle's version is not readable.")
    if version > VERSION:
        raise BundleError("The bundle was made by a newer version of this program.")
    missing = [key for key in _REQUIRED if key not in value]
    unknown = sorted(set(value) - set(_REQUIRED) - set(_INFORMATION))
    if missing or unknown:
        raise BundleError(
            f"The bundle's header is not complete or not known (see {(missing + unknown)[0]!r})."
        )
    layers = {name: _layer(name, item) for name, item in _mapping(value["layers"], "layers").items()}
    attentions = {
        name: _attention(name, item) for name, item in _mapping(value["attentions"], "attentions").items()
    }
    if not layers:
        raise BundleError("The bundle holds no quantized layer.")
    digest = value["payload_sha256"]
    if not (isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
        raise BundleError("The bundle's checksum is not readable.")
    return BundleHeader(
        _model(value["model"]),
        layers,
        attentions,
        _mutual_kv(value["mutual_kv"]),
        digest,
        {key: value[key] for key in _INFORMATION if key in value},
        version,
    )


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > 10_000:
        raise BundleError(f"The bundle's {name} are not readable.")
    return value


def _record(value: object, keys: set[str], name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != keys:
        raise BundleError(f"The bundle's entry for {name[:80]!r} is not known.")
    return value


def _integer(value: object, low: int, high: int, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BundleError(f"The bundle's entry for {name[:80]!r} holds an impossible number.")
    return value


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise BundleError(f"The bundle's entry for {name[:80]!r} must say true or false.")
    return value


def _layer(name: str, value: object) -> LayerHeader:
    names = [field.name for field in dataclasses.fields(LayerHeader)]
    if isinstance(value, list) and len(value) == len(names):
        value = dict(zip(names, value))
    item = _record(value, set(names), name)
    shape = item["shape"]
    if not isinstance(shape, list) or len(shape) not in (2, 4):
        raise BundleError(f"The bundle's entry for {name[:80]!r} has an impossible shape.")
    sides = tuple(_integer(side, 1, 1 << 20, name) for side in shape)
    if math.prod(sides) >= 1 << 31:
        raise BundleError(f"The bundle's entry for {name[:80]!r} has an impossible shape.")
    bits = item["activation_bits"]
    return LayerHeader(
        _integer(item["weight_bits"], MIN_BITS, MAX_BITS, name),
        None if bits is None else _integer(bits, MIN_BITS, MAX_BITS, name),
        _flag(item["per_channel_input"], name),
        _flag(item["symmetric"], name),
        sides,
    )


def _attention(name: str, value: object) -> AttentionHeader:
    item = _record(value, {f.name for f in dataclasses.fields(AttentionHeader)}, name)
    if item["softmax_kind"] not in ("affine", "log2"):
        raise BundleError(f"The bundle's entry for {name[:80]!r} names an unknown softmax.")
    if item["tau"] not in (1, 2, 4) or isinstance(item["tau"], bool):
        raise BundleError(f"The bundle's entry for {name[:80]!r} holds an impossible number.")
    return AttentionHeader(
        _integer(item["activation_bits"], MIN_BITS, MAX_BITS, name),
        _flag(item["value_per_channel"], name),
        item["softmax_kind"],
        _integer(item["softmax_bits"], MIN_BITS, MAX_BITS, name),
        int(item["tau"]),
        _flag(item["row_scale"], name),
    )


def _mutual_kv(value: object) -> MutualKvHeader | None:
    if value is None:
        return None
    item = _record(value, {"epsilon", "log_bias"}, "mutual_kv")
    epsilon = item["epsilon"]
    if not isinstance(epsilon, (int, float)) or isinstance(epsilon, bool) or not -1.0 <= epsilon <= 2.0:
        raise BundleError("The bundle's Mutual-KV threshold is impossible.")
    return MutualKvHeader(float(epsilon), _flag(item["log_bias"], "mutual_kv"))


def _model(value: object) -> ModelDescription:
    item = _record(value, {"base_id", "base_sha256", "image_size", "arch"}, "model")
    base_id, digest = item["base_id"], item["base_sha256"]
    if not isinstance(base_id, str) or len(base_id) > 200 or not isinstance(digest, str) or len(digest) > 64:
        raise BundleError("The bundle does not say which model it was made from.")
    size = _integer(item["image_size"], 64, 2048, "image_size")
    if size % 32:
        raise BundleError("The bundle's input size is not a multiple of 32 pixels.")
    if item["arch"] is None:
        spec = MODELS.get(base_id)
        if spec is None or spec.kind is not ModelKind.OFFICIAL:
            raise BundleError("The bundle was made from a model that this program does not know.")
        return ModelDescription(base_id, digest, size)
    try:
        arch = EmbeddedArch.from_json(canonical_json(item["arch"]))
    except (ModelError, TypeError, ValueError) as error:
        raise BundleError(f"The bundle's model is not usable: {error}") from error
    return ModelDescription(base_id, digest, size, arch)
