"""Who runs in the speed comparison: upstream's predictor, and our ways of running the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor

from qcore.evaluation.upstream import PREDICTOR_SETTINGS, build_pair, build_upstream
from qcore.models.embedded import build_embedded, set_image_size
from qcore.models.loading import load_model
from qcore.models.registry import MODELS
from qcore.quant.bundle_header import BundleHeader
from qcore.quant.calibration_data import CalibrationClip
from qcore.quant.config import Bits
from qcore.quant.fake_quantize import QuantizerState, set_state
from qcore.quant.insertion import insert
from qcore.quant.methods.minmax import minmax
from qcore.quant.pipeline import freeze, observe
from qcore.runtime import lower
from qcore.tracking.mutual_kv import MutualKvSettings

_CALIBRATION_SIZE = 256
"""Side of the pictures on which ranges are taken when only speed counts."""


@dataclass(frozen=True)
class Contender:
    """One of our ways to run the model."""

    name: str
    """E.g. ``CPU fp32`` or ``w6a6, CPU int8 + fp32, Mutual-KV at 3``."""
    model: SAM2Base
    groups: float | None = None
    """Mean number of groups of memory frames; None attends to all."""

    @property
    def mutual_kv(self) -> MutualKvSettings | None:
        """Settings for a session."""
        return None if self.groups is None else MutualKvSettings(target_groups=self.groups)


@dataclass(frozen=True)
class Subject:
    """One model, upstream's and ours."""

    name: str
    upstream_id: str
    """Registry id of the full-precision model."""
    upstream: SAM2VideoPredictor
    contenders: tuple[Contender, ...]


def build_subject(
    model: str,
    frames: Sequence[npt.NDArray[np.uint8]],
    image_size: int | None = None,
    bits: str | None = None,
    groups: float | None = None,
) -> Subject:
    """Upstream and every way of ours, on the kernels that `lower` chooses for this machine.

    Args:
        model: an id of the registry, or the file of a quantized bundle.
        frames: uint8 RGB (H, W, 3); two of them give the ranges where ``bits`` asks for a quantized form.
        image_size: input side; None for the model's own.
        bits: also run the model quantized to these, e.g. ``w6a6``; a bundle has its own.
        groups: also run with Mutual-KV at this mean number of groups.

    Raises:
        ModelError: no such model.
        QuantizationError: no such bit widths.
    """
    contenders: list[Contender] = []
    if model in MODELS:
        upstream, ours = build_pair(model, image_size)
        name = model
        quantized = None if bits is None else quantize_for_speed(ours, frames, bits)
        contenders.append(Contender(lower(ours).summary, ours))
    else:
        quantized = load_model(model, image_size=image_size)
        header = quantized.bundle_header
        assert isinstance(header, BundleHeader)
        upstream = _upstream_of(header, image_size)
        name, bits = header.model.base_id, f"{header.method} {header.bits}"
    if quantized is not None:
        contenders.append(Contender(f"{bits}, {lower(quantized).summary}", quantized))
    if groups is not None:
        last = contenders[-1]
        contenders.append(Contender(f"{last.name}, Mutual-KV at {groups:g}", last.model, groups))
    return Subject(f"{name} {upstream.image_size} px", name, upstream, tuple(contenders))


def _upstream_of(header: BundleHeader, image_size: int | None) -> SAM2VideoPredictor:
    """The full-precision original of a bundle where it is installed, else its architecture."""
    description = header.model
    image_size = image_size or description.image_size
    if description.base_id in MODELS:
        return build_upstream(description.base_id, image_size)
    if description.arch is None:
        raise ValueError("A bundle names no architecture.")
    upstream: Any = build_embedded(description.arch, base=SAM2VideoPredictor, **PREDICTOR_SETTINGS)
    set_image_size(upstream, image_size)
    model: SAM2VideoPredictor = upstream.eval().requires_grad_(False)
    return model


def quantize_for_speed(model: SAM2Base, frames: Sequence[npt.NDArray[np.uint8]], bits: str) -> SAM2Base:
    """A quantized copy with ranges from two small pictures: as fast as a well calibrated one, less accurate.

    Raises:
        QuantizationError: no such bit widths.
    """
    size = model.image_size
    height, width = frames[0].shape[:2]
    box = (width * 0.3, height * 0.3, width * 0.7, height * 0.7)
    config = minmax(Bits.parse(bits), 1)
    quantized: Any = insert(model, config)
    set_image_size(quantized, min(size, _CALIBRATION_SIZE))
    observe(quantized, [CalibrationClip("clip", tuple(frames[:2]), box)], config)
    set_state(quantized, weights=QuantizerState.ON, activations=QuantizerState.ON)
    freeze(quantized)
    set_image_size(quantized, size)
    result: SAM2Base = quantized.eval().requires_grad_(False)
    return result
