"""The `sam2` package's own video predictor on our weights: the baseline of every speed and parity figure."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor

from qcore.models.embedded import build_embedded, set_image_size
from qcore.models.loading import embedded_arch, load_model, resolve_model
from qcore.models.official import build_official
from qcore.models.registry import ModelKind, model_spec

PREDICTOR_SETTINGS: dict[str, Any] = {"fill_hole_area": 0, "add_all_frames_to_correct_as_cond": True}
"""Hole filling needs a CUDA extension; the second setting keeps corrections (UX: upstream drops them)."""


def build_upstream(model_id: str, image_size: int | None = None, seed: int = 0) -> SAM2VideoPredictor:
    """Upstream's predictor, float32 on the CPU.

    Official architectures get random weights: their speed is the same, their masks are not looked at.

    Raises:
        ModelError: no such model.
    """
    spec = model_spec(model_id)
    if spec.kind is ModelKind.OFFICIAL:
        torch.manual_seed(seed)
        upstream: Any = build_official(spec, image_size, base=SAM2VideoPredictor, **PREDICTOR_SETTINGS)
    else:
        weights = load_model(model_id).state_dict()
        arch = embedded_arch(resolve_model(model_id))
        upstream = build_embedded(arch, base=SAM2VideoPredictor, **PREDICTOR_SETTINGS)
        upstream.load_state_dict(weights)
        if image_size is not None:
            set_image_size(upstream, image_size)
    return upstream.eval().requires_grad_(False)


def build_pair(
    model_id: str, image_size: int | None = None, seed: int = 0
) -> tuple[SAM2VideoPredictor, SAM2Base]:
    """Upstream's predictor and our model with equal weights; see `build_upstream`."""
    upstream = build_upstream(model_id, image_size, seed)
    spec = model_spec(model_id)
    if spec.kind is ModelKind.OFFICIAL:
        ours = build_official(spec, image_size)
        ours.load_state_dict(upstream.state_dict())
    else:
        ours = load_model(model_id, image_size=image_size)
    return upstream, ours.eval().requires_grad_(False)


def write_jpeg_frames(frames: Iterable[npt.NDArray[np.uint8]], folder: Path) -> None:
    """Frames as upstream reads them: ``00000.jpg`` ..., quality 95."""
    for index, frame in enumerate(frames):
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])


class UpstreamClip:
    """A clip loaded into upstream's predictor, used as a context manager."""

    def __init__(self, predictor: SAM2VideoPredictor, frames: Iterable[npt.NDArray[np.uint8]]) -> None:
        self.predictor = predictor
        self._folder = tempfile.TemporaryDirectory(prefix="qminisam2-")
        write_jpeg_frames(frames, Path(self._folder.name))

    def __enter__(self) -> UpstreamClip:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @torch.inference_mode()
    def load(self) -> dict[str, Any]:
        """Upstream's inference state: all frames decoded and resized into memory."""
        state: dict[str, Any] = self.predictor.init_state(self._folder.name)
        return state

    @torch.inference_mode()
    def click(self, state: dict[str, Any], object_id: int, box_xyxy: tuple[float, ...]) -> None:
        """Prompt an object with a box on frame 0."""
        self.predictor.add_new_points_or_box(state, 0, object_id, box=np.array(box_xyxy, np.float32))

    def steps(self, state: dict[str, Any]) -> Iterator[npt.NDArray[np.bool_]]:
        """Masks (objects, H, W), frame after frame from the first one on."""
        # the predictor runs in inference mode by itself; around a yield it would leak to the caller
        for _, _, logits in self.predictor.propagate_in_video(state):
            yield (logits[:, 0] > 0).numpy()
