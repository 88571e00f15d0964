"""From a model's id or file to a `SAM2Base` ready to run. Files are untrusted: no pickle is executed."""

from __future__ import annotations

import logging
import pickle
import struct
import warnings
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from sam2.modeling.sam2_base import SAM2Base

from qcore.models.embedded import (
    ARCH_METADATA_KEY,
    EmbeddedArch,
    build_embedded,
    check_image_size,
    set_image_size,
)
from qcore.models.errors import ModelError
from qcore.models.files import safetensors_metadata
from qcore.models.official import build_official, recognise_official
from qcore.models.registry import BUNDLE_METADATA_KEY, MODELS, installed_path, model_spec, user_models

log = logging.getLogger(__name__)

_HALF_MODULES = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def load_model(
    id_or_path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    image_size: int | None = None,
) -> SAM2Base:
    """Load a model of the registry, an imported one, or a model file.

    Args:
        id_or_path: an id such as ``embedded``, or the path of a ``.safetensors`` bundle or weights file or of
            an official ``.pt`` checkpoint.
        device: where the model goes.
        dtype: float32, or float16 / bfloat16 for a device that is faster with them; run such a model inside
            `autocast_of`, because SAM 2 mixes in float32 inputs. Quantized bundles stay as they are.
        image_size: side of the square input in pixels, a multiple of 32; None for the model's own.

    Returns:
        The model in eval mode, its parameters without gradients.

    Raises:
        ModelError: unknown, not installed, damaged, or of an unknown kind.
    """
    if image_size is not None:
        check_image_size(image_size)
    path = resolve_model(id_or_path)
    if path.suffix == ".safetensors":
        metadata = safetensors_metadata(path)
        if BUNDLE_METADATA_KEY in metadata:
            # imported here because qcore.quant builds on this module
            from qcore.quant.bundle import load_bundle

            model = load_bundle(path)
            if image_size is not None:
                set_image_size(model, image_size)
            return model.to(device).eval().requires_grad_(False)
        model = load_embedded(path, image_size)
    else:
        model = load_checkpoint(path, image_size)
    model = model.to(device).eval().requires_grad_(False)
    if dtype is not torch.float32:
        model = _to_half(model, dtype)
    return model


def resolve_model(id_or_path: str | Path) -> Path:
    """The file of a model's id, or the path itself when it names a file.

    Raises:
        ModelError: unknown or not installed.
    """
    text = str(id_or_path)
    if text in MODELS or text in user_models():
        spec = model_spec(text)
        path = installed_path(spec)
        if path is not None:
            return path
        if spec.url is None:
            raise ModelError(f"The installation lacks the model {text}: reinstall Q-MiniSAM2 Annotator.")
        megabytes = round((spec.size_bytes or 0) / 1e6)
        raise ModelError(
            f"The model {text} is not installed: run 'qminisam2 models download {text}' ({megabytes} MB)."
        )
    path = Path(id_or_path)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise ModelError(f"The model file {text} does not exist.")
    model_spec(text)
    raise ModelError(f"There is no model {text!r}.")


def load_embedded(path: Path, image_size: int | None = None) -> SAM2Base:
    """The compact model in a safetensors file, on the CPU in float32.

    Raises:
        ModelError: the file is damaged or holds another model.
    """
    arch = EmbeddedArch.from_json(_arch_json(path))
    model = build_embedded(arch)
    expected = model.state_dict()
    state: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != set(expected):
                odd = sorted(names ^ set(expected))[0]
                raise ModelError(f"{path.name} does not hold the model that it describes (see {odd}).")
            for name in sorted(names):
                part = file.get_slice(name)
                if list(part.get_shape()) != list(expected[name].shape) or part.get_dtype() not in _FLOATS:
                    raise ModelError(f"{path.name} does not hold the model that it describes (see {name}).")
                state[name] = file.get_tensor(name).float()
    except (SafetensorError, OSError) as error:
        log.info("cannot read %s: %s", path, error)
        raise ModelError(f"{path.name} is damaged.") from error
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{path.name} is damaged: {name} holds values that are not numbers.")
    model.load_state_dict(state, strict=True)
    if image_size is not None:
        set_image_size(model, image_size)
    return model


def embedded_arch(path: Path) -> EmbeddedArch:
    """The architecture that a weights file of the compact model describes.

    Raises:
        ModelError: the file is not one.
    """
    return EmbeddedArch.from_json(_arch_json(path))


def _arch_json(path: Path) -> str:
    text = safetensors_metadata(path).get(ARCH_METADATA_KEY)
    if text is None:
        raise ModelError(f"{path.name} is neither a bundle nor a model of this program.")
    return text


_RUBBISH = (
    RuntimeError, ValueError, EOFError, LookupError, OSError, TypeError, AttributeError, struct.error,
)  # fmt: skip
"""What `torch.load` raises, besides `pickle.UnpicklingError`, for bytes that are no checkpoint."""


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in an official ``.pt`` checkpoint, read without executing any code in it.

    Raises:
        ModelError: not a checkpoint, damaged, or a pickle that wants to run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's advice about old pickles is not for users
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise ModelError(f"The model file {path} does not exist.") from error
    except pickle.UnpicklingError as error:
        log.info("refused %s: %s", path, error)
        raise ModelError(
            f"{path.name} was refused: it is damaged or holds more than weights, such as program code."
        ) from error
    except _RUBBISH as error:
        log.info("cannot read %s: %s", path, error)
        raise ModelError(f"{path.name} is not a checkpoint, or it is damaged.") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ModelError(f"{path.name} does not hold SAM 2.1 weights.")
    return state


def load_checkpoint(path: Path, image_size: int | None = None) -> SAM2Base:
    """The official model in a ``.pt`` checkpoint, every key accounted for, on the CPU in float32.

    Raises:
        ModelError: see `read_checkpoint`; or the weights are of no official architecture.
    """
    state = read_checkpoint(path)
    spec = recognise_official(state)
    model = build_official(spec, image_size)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        log.info("%s does not fit %s: %s", path, spec.id, error)
        raise ModelError(f"{path.name} does not fit the architecture {spec.id}.") from error
    return model.float()


def _to_half(model: SAM2Base, dtype: torch.dtype) -> SAM2Base:
    if dtype not in (torch.float16, torch.bfloat16):
        raise ModelError("A model runs in float32, float16 or bfloat16.")
    # Only what autocast would convert at each call: norms, coordinates and added embeddings need float32.
    for module in model.modules():
        if isinstance(module, _HALF_MODULES):
            module.to(dtype)
    return model


def autocast_of(model: SAM2Base) -> AbstractContextManager[object]:
    """The context to run a model in: autocast to its parameters' type, or nothing for float32."""
    weight = next((m.weight for m in model.modules() if isinstance(m, _HALF_MODULES)), None)
    if weight is None or weight.dtype is torch.float32:
        return nullcontext()
    return torch.autocast(weight.device.type, dtype=weight.dtype)
