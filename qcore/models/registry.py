"""Which models exist and where their files lie. Free of torch: the command line and the GUI list models."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import platformdirs

from qcore.models.errors import ModelError
from qcore.models.files import safetensors_metadata
from resources import resource_path

BUNDLE_METADATA_KEY = "qcore"
"""Key of a quantized bundle's JSON header in the safetensors metadata."""

_OFFICIAL_ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class ModelKind(StrEnum):
    """How a model's file is read."""

    EMBEDDED = "embedded"
    """The compact model: full-precision weights, or a quantized bundle of them."""
    OFFICIAL = "official"
    """A checkpoint of one of the four official SAM 2.1 architectures."""
    BUNDLE = "bundle"
    """A quantized bundle of the user's own."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the registry, installed or not."""

    id: str
    title: str
    kind: ModelKind
    licence: str
    input_size: int | None
    """Side of the square input in pixels; None where only the file knows."""
    precision: str
    """What the weights are stored in: ``fp32``, ``fp16``, or bits such as ``w6a6``."""
    file_name: str
    size_bytes: int | None = None
    sha256: str | None = None
    url: str | None = None
    config: str | None = None
    """Path of an official architecture's configuration inside the `sam2` package."""


def _official(name: str, config: str, title: str, size_bytes: int, sha256: str) -> ModelSpec:
    return ModelSpec(
        id=f"sam2.1_hiera_{name}",
        title=f"SAM 2.1 Hiera {title}",
        kind=ModelKind.OFFICIAL,
        licence="Apache-2.0",
        input_size=1024,
        precision="fp32",
        file_name=f"sam2.1_hiera_{name}.pt",
        size_bytes=size_bytes,
        sha256=sha256,
        url=f"{_OFFICIAL_ADDRESS}sam2.1_hiera_{name}.pt",
        config=f"configs/sam2.1/sam2.1_hiera_{config}.yaml",
    )


def _embedded(model_id: str, title: str, precision: str, file_name: str) -> ModelSpec:
    return ModelSpec(
        id=model_id,
        title=title,
        kind=ModelKind.EMBEDDED,
        licence="CC-BY-NC-SA-4.0",
        input_size=None,
        precision=precision,
        file_name=file_name,
    )


_SPECS = (
    _embedded("embedded", "Embedded (quantized)", "quantized", "embedded.safetensors"),
    _embedded("embedded-fp16", "Embedded (full precision)", "fp16", "embedded-fp16.safetensors"),
    _official(
        "tiny", "t", "Tiny", 156008466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"
    ),
    _official(
        "small", "s", "Small", 184416285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"
    ),
    _official(
        "base_plus",
        "b+",
        "Base+",
        323606802,
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    _official(
        "large", "l", "Large", 898083611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"
    ),
)
MODELS = MappingProxyType({spec.id: spec for spec in _SPECS})
"""The models that come with the program or that it can download, by id."""


def models_dir() -> Path:
    """Folder of downloaded and imported models; the variable QMINISAM2_MODELS_DIR overrides it."""
    override = os.environ.get("QMINISAM2_MODELS_DIR")
    return Path(override) if override else Path(platformdirs.user_data_dir("qminisam2", False)) / "models"


def user_models() -> dict[str, ModelSpec]:
    """Models in `models_dir` that are not of the registry: imported bundles and checkpoints, by id."""
    folder = models_dir()
    found: dict[str, ModelSpec] = {}
    published = {spec.file_name for spec in MODELS.values()}
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if path.suffix not in (".safetensors", ".pt") or path.name in published or not path.is_file():
            continue
        if path.stem not in MODELS and _SAFE_ID.fullmatch(path.stem):
            found[path.stem] = _describe(path)
    return found


def _describe(path: Path) -> ModelSpec:
    kind, precision, licence = ModelKind.OFFICIAL, "fp32", "as its source"
    if path.suffix == ".safetensors":
        kind, precision, licence = ModelKind.BUNDLE, "unknown", "as its base model"
        try:
            facts = stored_facts(path)
            kind = ModelKind.BUNDLE if facts.is_bundle else ModelKind.EMBEDDED
            precision, licence = facts.precision, facts.licence or licence
        except ModelError:
            precision = "damaged"
    return ModelSpec(
        id=path.stem,
        title=path.stem,
        kind=kind,
        licence=licence,
        input_size=None,
        precision=precision,
        file_name=path.name,
        size_bytes=path.stat().st_size,
    )


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """What a safetensors file says about itself, as far as lists show it."""

    is_bundle: bool
    precision: str
    """Bits of a bundle such as ``w6a6``; else ``fp16``."""
    licence: str | None


def stored_facts(path: Path) -> StoredFacts:
    """Look into a safetensors file's metadata; `qcore.quant.bundle` is what validates a bundle.

    Raises:
        ModelError: not a safetensors file.
    """
    metadata = safetensors_metadata(path)
    if BUNDLE_METADATA_KEY not in metadata:
        return StoredFacts(False, "fp16", metadata.get("licence"))
    try:
        header = json.loads(metadata[BUNDLE_METADATA_KEY])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        return StoredFacts(True, "damaged", None)
    bits, licence = header.get("bits"), header.get("licence")
    return StoredFacts(
        True, bits if isinstance(bits, str) else "quantized", licence if isinstance(licence, str) else None
    )


def model_spec(model_id: str) -> ModelSpec:
    """The model of that id, from the registry or from the user's imported ones.

    Raises:
        ModelError: no such model.
    """
    spec = MODELS.get(model_id) or user_models().get(model_id)
    if spec is None:
        raise ModelError(f"There is no model {model_id!r}; known: {', '.join([*MODELS, *user_models()])}.")
    return spec


def installed_path(spec: ModelSpec) -> Path | None:
    """Where the model's file lies, or None when it is not installed.

    ``embedded`` is the shipped quantized bundle; an installation without one uses the full-precision weights.
    A file of the wrong length counts as not installed.
    """
    if spec.id in ("embedded", "embedded-fp16"):
        names = ["embedded.safetensors"] if spec.id == "embedded" else []
        for name in [*names, "embedded-fp16.safetensors"]:
            try:
                return resource_path(f"models/{name}")
            except FileNotFoundError:
                continue
        return None
    path = models_dir() / spec.file_name
    if not path.is_file() or (spec.size_bytes is not None and path.stat().st_size != spec.size_bytes):
        return None
    return path


def is_safe_id(model_id: str) -> bool:
    """True when the text can be a model's id, which is also a file's stem."""
    return _SAFE_ID.fullmatch(model_id) is not None and model_id not in MODELS


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One row of `models list`."""

    id: str
    title: str
    kind: str
    installed: bool
    precision: str
    size_bytes: int | None
    """Of the installed file, else of the download."""
    licence: str
    path: str | None
    partial_bytes: int = 0
    """What an unfinished download has brought."""


def _partial_bytes(spec: ModelSpec) -> int:
    try:
        return (models_dir() / f"{spec.file_name}.part").stat().st_size
    except OSError:
        return 0


def model_statuses() -> list[ModelStatus]:
    """All models, installed or not, in the order to show them."""
    rows: list[ModelStatus] = []
    for spec in [*MODELS.values(), *user_models().values()]:
        path = installed_path(spec)
        title, precision, licence = spec.title, spec.precision, spec.licence
        if path is not None and spec.kind is ModelKind.EMBEDDED:
            try:
                facts = stored_facts(path)
                precision, licence = facts.precision, facts.licence or licence
                if spec.id == "embedded" and not facts.is_bundle:
                    title = "Embedded"  # this installation has only the full-precision weights
            except ModelError:
                precision = "damaged"
        rows.append(
            ModelStatus(
                id=spec.id,
                title=title,
                kind=spec.kind.value,
                installed=path is not None,
                precision=precision,
                size_bytes=path.stat().st_size if path is not None else spec.size_bytes,
                licence=licence,
                path=str(path) if path is not None else None,
                partial_bytes=_partial_bytes(spec) if path is None else 0,
            )
        )
    return rows
