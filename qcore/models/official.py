"""The four official SAM 2.1 architectures, from the configurations inside the `sam2` package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sam2
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base

from qcore.models.embedded import check_image_size
from qcore.models.errors import ModelError
from qcore.models.registry import MODELS, ModelKind, ModelSpec

# What upstream's own video predictor is built with by default: fall back to the best of three masks where the
# single one is unstable, and remember prompted masks as the user sees them.
_PREDICTOR_SETTINGS = {
    "binarize_mask_from_pts_for_mem_enc": True,
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
}


def build_official(
    spec: ModelSpec, image_size: int | None = None, base: type[SAM2Base] | None = None, **extra: Any
) -> SAM2Base:
    """An official architecture with random weights, in eval mode on the current default device.

    Args:
        spec: a model of the registry whose kind is ``official``.
        image_size: side of the square input in pixels, a multiple of 32; None for the published 1024.
        base: class to build instead of `SAM2Base`, e.g. upstream's `SAM2VideoPredictor`.
        extra: further keyword arguments of that class.

    Raises:
        ModelError: not an official model, or an impossible size.
    """
    if spec.config is None:
        raise ModelError(f"{spec.id} is not an official SAM 2.1 model.")
    config: Any = OmegaConf.load(Path(sam2.__path__[0]) / spec.config)
    settings = {**_PREDICTOR_SETTINGS, **extra}
    if image_size is not None:
        check_image_size(image_size)
        config.model.image_size = image_size
        tokens_side = image_size // 16
        layer = config.model.memory_attention.layer
        layer.self_attention.feat_sizes = layer.cross_attention.feat_sizes = [tokens_side, tokens_side]
    if base is not None:
        config.model._target_ = f"{base.__module__}.{base.__qualname__}"
    model = instantiate(config.model, _recursive_=True, **settings)
    model.eval()
    return model


def recognise_official(state_dict: dict[str, torch.Tensor]) -> ModelSpec:
    """Which official architecture a state dict belongs to, told by its width and depth.

    Raises:
        ModelError: none of the four.
    """
    weight = state_dict.get("image_encoder.trunk.patch_embed.proj.weight")
    width = weight.shape[0] if isinstance(weight, torch.Tensor) and weight.ndim == 4 else 0
    prefix = "image_encoder.trunk.blocks."
    blocks = {key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)}
    shapes = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base_plus", (144, 48): "large"}
    name = shapes.get((width, len(blocks)))
    if name is None:
        raise ModelError("The checkpoint is not of a SAM 2.1 architecture.")
    return MODELS[f"sam2.1_hiera_{name}"]


def official_specs() -> list[ModelSpec]:
    """The four official models, smallest first."""
    return [spec for spec in MODELS.values() if spec.kind is ModelKind.OFFICIAL]
