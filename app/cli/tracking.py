"""What the verbs that run a model share: its options, the device, and the model on the device's kernels."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from app.cli.errors import CommandError

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

    from qcore.tracking.feature_store import FeatureStore
    from qcore.tracking.mutual_kv import MutualKvSettings
    from qcore.video import FrameSource

DEVICES = ("auto", "cpu", "cuda", "mps")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, ``--device`` and ``--mutual-kv``."""
    parser.add_argument(
        "--model",
        default="embedded",
        metavar="ID|BUNDLE",
        help="id from 'qminisam2 models list', or a model file (default: %(default)s)",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="where it runs (default: %(default)s)"
    )
    parser.add_argument(
        "--mutual-kv",
        type=_mutual_kv,
        default=None,
        metavar="EPS|auto|off",
        help="memory frames more similar than EPS (a cosine) share keys and values (default: off)",
    )


def add_feature_cache_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--feature-cache``."""
    parser.add_argument(
        "--feature-cache",
        type=_gigabytes,
        default=0,
        metavar="GB",
        help="keep encoded frames on disk, up to GB in all: a later run on the video with the same model "
        "needs no image encoder (default: 0, none)",
    )


def _gigabytes(text: str) -> int:
    """Bytes of a number of gigabytes from 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of gigabytes")
    return int(value * 1e9)


def feature_store(
    budget_bytes: int, model: SAM2Base, model_id: str, source: FrameSource
) -> FeatureStore | None:
    """Where ``--feature-cache`` keeps this video's encoded frames; None for a budget of 0.

    Raises:
        ModelError: the model's file cannot be read.
    """
    if not budget_bytes:
        return None
    from qcore.models.files import sha256_of
    from qcore.models.loading import resolve_model
    from qcore.runtime import cpu_kernels
    from qcore.tracking.feature_store import FeatureStore, feature_key

    device = model.device.type
    arithmetic = f"{device} {cpu_kernels().summary if device == 'cpu' else next(model.parameters()).dtype}"
    digest = sha256_of(resolve_model(model_id))
    return FeatureStore(feature_key(source.fingerprint, digest, model.image_size, arithmetic), budget_bytes)


def _mutual_kv(text: str) -> float | str | None:
    """A number, ``auto``, or None for off."""
    if text == "off":
        return None
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from -1, nor 'auto', nor 'off'")
    return value


def mutual_kv_settings(choice: float | str | None) -> MutualKvSettings | None:
    """The session's Mutual-KV settings for the option's value; None for off."""
    if choice is None:
        return None
    from qcore.tracking.mutual_kv import MutualKvSettings  # brings torch

    return MutualKvSettings(epsilon=None if isinstance(choice, str) else choice)


def choose_device(wanted: str) -> str:
    """The torch device for ``--device``.

    Raises:
        CommandError: this machine, or this torch, has no such device.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise CommandError("There is no CUDA device that this torch can use; see 'qminisam2 doctor'.")
    if wanted == "mps" and not has_mps:
        raise CommandError("There is no Apple GPU that this torch can use; see 'qminisam2 doctor'.")
    return wanted


def load_for_tracking(model_id: str, device: str) -> tuple[SAM2Base, str]:
    """The model on this device's fastest kernels, and its precision.

    That is the bits of a quantized bundle (``w6a6``), else the kernels' arithmetic (``fp32``, ``bf16``).

    Raises:
        CommandError: no such device.
        ModelError: the model cannot be loaded.
    """
    from qcore.models import load_model
    from qcore.models.loading import resolve_model
    from qcore.models.registry import stored_facts
    from qcore.runtime import lower

    model = load_model(model_id, device=choose_device(device))
    arithmetic = str(lower(model).precision)
    path = resolve_model(model_id)
    facts = stored_facts(path) if path.suffix == ".safetensors" else None
    return model, facts.precision if facts is not None and facts.is_bundle else arithmetic
