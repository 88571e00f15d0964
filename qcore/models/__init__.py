"""The models the program knows: registry, checkpoints, download, and building `SAM2Base` modules.

Names that need torch are imported on first use, so that listing models does not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qcore.models.errors import DownloadCancelledError, ModelError
from qcore.models.registry import MODELS, ModelKind, ModelSpec, installed_path, model_spec, models_dir

if TYPE_CHECKING:
    from qcore.models.embedded import EmbeddedArch, build_embedded, set_image_size
    from qcore.models.loading import autocast_of, load_model
    from qcore.models.official import build_official

_LAZY = {
    "EmbeddedArch": "qcore.models.embedded",
    "build_embedded": "qcore.models.embedded",
    "set_image_size": "qcore.models.embedded",
    "autocast_of": "qcore.models.loading",
    "load_model": "qcore.models.loading",
    "build_official": "qcore.models.official",
}

__all__ = [
    "MODELS",
    "DownloadCancelledError",
    "EmbeddedArch",
    "ModelError",
    "ModelKind",
    "ModelSpec",
    "autocast_of",
    "build_embedded",
    "build_official",
    "installed_path",
    "load_model",
    "model_spec",
    "models_dir",
    "set_image_size",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
