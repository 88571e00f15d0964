"""Bringing models onto this machine, checking them and taking them off: what `qminisam2 models` does."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qcore.models.errors import ModelError
from qcore.models.fetch import Progress, RemoteFile, discard_partial, fetch_file
from qcore.models.files import safetensors_metadata, sha256_of
from qcore.models.registry import (
    BUNDLE_METADATA_KEY,
    MODELS,
    ModelKind,
    ModelSpec,
    installed_path,
    is_safe_id,
    model_spec,
    models_dir,
)

log = logging.getLogger(__name__)


def download_model(
    model_id: str, progress: Progress | None = None, cancelled: Callable[[], bool] = lambda: False
) -> Path:
    """Download an official model unless it is installed; an interrupted download continues.

    Args:
        model_id: id of the registry.
        progress: called with (bytes done, bytes in all).
        cancelled: asked between pieces; True stops and keeps what has arrived.

    Returns:
        The installed file.

    Raises:
        ModelError: nothing to download, no connection, or not the published file.
    """
    spec = model_spec(model_id)
    path = installed_path(spec)
    if path is not None:
        return path
    if spec.url is None or spec.size_bytes is None or spec.sha256 is None:
        raise ModelError(f"The model {model_id} has no download: it ships with the program.")
    target = models_dir() / spec.file_name
    fetch_file(RemoteFile(spec.url, spec.size_bytes, spec.sha256), target, progress, cancelled)
    return target


def import_model(source: Path, model_id: str | None = None) -> ModelSpec:
    """Copy a model file into `models_dir` after checking all of it.

    A published checkpoint becomes its registry entry, whatever the file is called. Other SAM 2.1 checkpoints
    (fine-tuned ones), bundles and weights of the compact model get ``model_id``, or the file's name, as id.

    Args:
        source: a ``.pt`` checkpoint or a ``.safetensors`` file.
        model_id: id to give it.

    Returns:
        The new entry.

    Raises:
        ModelError: the file is damaged, is of no known kind, holds code, or its id is taken.
    """
    if not source.is_file():
        raise ModelError(f"The model file {source} does not exist.")
    suffix = source.suffix.lower()
    if suffix == ".pth":
        suffix = ".pt"
    if suffix not in (".pt", ".safetensors"):
        raise ModelError(f"{source.name} is not a model file: .pt or .safetensors is needed.")
    digest = sha256_of(source)
    published = next((spec for spec in MODELS.values() if spec.sha256 == digest), None)
    if published is not None:
        _copy_in(source, models_dir() / published.file_name)
        return published
    namesake = next((spec for spec in MODELS.values() if spec.file_name == source.name and spec.url), None)
    if namesake is not None and model_id is None:
        raise ModelError(
            f"{source.name} is not the published {namesake.id}: its SHA-256 differs, it may be cut off."
        )
    new_id = model_id or source.stem
    if not is_safe_id(new_id):
        raise ModelError(f"{new_id!r} cannot be the id of an imported model: choose another with --name.")
    target = models_dir() / (new_id + suffix)
    if any((models_dir() / (new_id + other)).exists() for other in (".pt", ".safetensors")):
        raise ModelError(f"There is already a model {new_id}: remove it, or choose another id with --name.")
    _load_to_check(source)
    _copy_in(source, target)
    checksum = _checksum_path(target)
    checksum.write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    return model_spec(new_id)


def verify_model(model_id: str, progress: Progress | None = None) -> Path:
    """Check an installed model: its published or recorded SHA-256, and for the compact model that it loads.

    Returns:
        The checked file.

    Raises:
        ModelError: not installed, or not intact.
    """
    spec = model_spec(model_id)
    path = installed_path(spec)
    if path is None:
        leftover = models_dir() / spec.file_name
        if leftover.exists():
            raise ModelError(f"The model {model_id} is damaged: its file has the wrong length. Remove it.")
        raise ModelError(f"The model {model_id} is not installed.")
    expected = spec.sha256 or _recorded_checksum(path)
    if expected is not None and sha256_of(path, progress) != expected:
        raise ModelError(f"The model {model_id} is damaged: its SHA-256 differs. Remove and fetch it again.")
    if spec.kind is not ModelKind.OFFICIAL:
        _load_to_check(path)
    return path


def remove_model(model_id: str) -> int:
    """Delete a downloaded or imported model with what an unfinished download left; the freed bytes.

    Raises:
        ModelError: it ships with the program, is not installed, or cannot be deleted.
    """
    spec = model_spec(model_id)
    if spec.kind is ModelKind.EMBEDDED and model_id in MODELS:
        raise ModelError(f"The model {model_id} ships with the program and cannot be removed.")
    path = models_dir() / spec.file_name
    part = path.with_name(path.name + ".part")
    freed = sum(file.stat().st_size for file in (path, part) if file.exists())
    if not path.exists() and not part.exists():
        raise ModelError(f"The model {model_id} is not installed.")
    try:
        path.unlink(missing_ok=True)
        _checksum_path(path).unlink(missing_ok=True)
        discard_partial(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be deleted: {error.strerror or error}.") from error
    return freed


def discard_download(model_id: str) -> None:
    """Delete what an unfinished download left; nothing there is no error.

    Raises:
        ModelError: no such model, or the disk refuses.
    """
    target = models_dir() / model_spec(model_id).file_name
    try:
        discard_partial(target)
    except OSError as error:
        raise ModelError(f"{target}.part cannot be deleted: {error.strerror or error}.") from error


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What downloaded and imported models take, in bytes."""

    folder: Path
    used: int
    free: int
    """Left on that disk."""


def disk_use() -> DiskUse:
    """Sum up `models_dir`, unfinished downloads included."""
    folder = models_dir()
    files = [file for file in folder.glob("*") if file.is_file()] if folder.is_dir() else []
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    return DiskUse(folder, sum(file.stat().st_size for file in files), shutil.disk_usage(place).free)


def _load_to_check(path: Path) -> None:
    # imported here: only these two operations need torch
    from qcore.models.loading import load_model

    metadata = safetensors_metadata(path) if path.suffix == ".safetensors" else {}
    log.info("checking %s (%s)", path, "bundle" if BUNDLE_METADATA_KEY in metadata else "weights")
    load_model(path)


def _copy_in(source: Path, target: Path) -> None:
    """Copy so that ``target`` appears complete or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".import-", dir=target.parent)
        os.close(handle)
        try:
            shutil.copyfile(source, name)
            Path(name).chmod(0o644)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror or error}.") from error


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _recorded_checksum(path: Path) -> str | None:
    """What `import_model` wrote down; None for a file that was put there by hand."""
    try:
        words = _checksum_path(path).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return words[0] if words and len(words[0]) == 64 else None
