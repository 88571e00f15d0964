"""Looking at model files without loading them; free of torch, so that listing models is instant."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

from qcore.models.errors import DownloadCancelledError, ModelError

_MAX_HEADER_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The free-text metadata in a safetensors file's header.

    Raises:
        ModelError: the file cannot be read or is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            (length,) = struct.unpack("<Q", prefix) if len(prefix) == 8 else (0,)
            if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise ModelError(f"{path.name} is not a safetensors file, or it is cut off.")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not a safetensors file.") from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelError(f"{path.name} has a damaged safetensors header.")
    return metadata


def sha256_of(
    path: Path,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> str:
    """SHA-256 of a file in lower-case hex.

    Args:
        path: the file.
        progress: called with (bytes done, bytes in all).
        cancelled: asked between chunks; True stops with `DownloadCancelledError`.

    Raises:
        ModelError: the file cannot be read.
    """
    digest = hashlib.sha256()
    done = 0
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                if cancelled():
                    raise DownloadCancelledError("Checking the file was cancelled.")
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()
