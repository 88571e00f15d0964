"""Run a model over calibration clips as in use - prompt, then track - and record what enters each of its
stages.

A *stage* is one of SAM 2's modules that runs once a frame: image encoder, memory attention, mask decoder,
memory encoder. Recording its inputs cuts the model in parts that can be replayed one by one without
tracking again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qcore.quant.calibration_data import CalibrationClip
from qcore.tracking.preprocess import image_tensor

STAGES = ("image_encoder", "memory_attention", "sam_mask_decoder", "memory_encoder")
"""In the order data flows."""


@dataclass(frozen=True)
class StageCall:
    """Inputs of one stage on one frame, detached. ``clip`` and ``frame`` count from 0."""

    clip: int
    frame: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def detach(value: Any) -> Any:
    """A deep copy of nested tensors without gradients; other values as they are."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(detach(item) for item in value)
    if isinstance(value, dict):
        return {key: detach(item) for key, item in value.items()}
    return value


class ImageFeatures:
    """What a finished image encoder gives for each frame, computed once for all later rollouts."""

    def __init__(self, model: Any, clips: Sequence[CalibrationClip]) -> None:
        device = next(model.parameters()).device
        self._levels: dict[tuple[int, int], list[Tensor]] = {}
        self._positions: list[Tensor] = []
        with torch.no_grad():
            for clip_index, clip in enumerate(clips):
                for frame_index, frame in enumerate(clip.frames):
                    out = model.forward_image(image_tensor(frame, model.image_size, device))
                    self._levels[clip_index, frame_index] = out["backbone_fpn"]
                    # position codes are large and the same for every frame
                    self._positions = self._positions or list(out["vision_pos_enc"])

    def backbone(self, clip: int, frame: int) -> dict[str, Any]:
        """What `SAM2Base.forward_image` gave."""
        levels = self._levels[clip, frame]
        return {
            "vision_features": levels[-1],
            "vision_pos_enc": list(self._positions),
            "backbone_fpn": list(levels),
        }


@torch.no_grad()
def roll_out(
    model: Any,
    clips: Sequence[CalibrationClip],
    record: Sequence[str] = (),
    after_frame: Callable[[int, int], None] | None = None,
    images: ImageFeatures | None = None,
) -> dict[str, list[StageCall]]:
    """Track each clip's object from its box on the first frame through all its frames.

    Args:
        model: a `SAM2Base`, quantized or not.
        clips: with boxes (see `with_prompts`).
        record: names among `STAGES` whose inputs are wanted; the decoder's call of the first frame is one
            of them.
        after_frame: called with (clip, frame) after each frame; raise from it to stop.
        images: a finished image encoder's outputs for these clips.

    Returns:
        The recorded calls by stage, in order.
    """
    device = next(model.parameters()).device
    calls: dict[str, list[StageCall]] = {name: [] for name in record}
    position = [0, 0]
    with _recording(model, calls, position):
        for clip_index, clip in enumerate(clips):
            outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
            for frame_index, frame in enumerate(clip.frames):
                position[:] = clip_index, frame_index
                if images is None:
                    backbone = model.forward_image(image_tensor(frame, model.image_size, device))
                else:
                    backbone = images.backbone(clip_index, frame_index)
                _, features, positions, sizes = model._prepare_backbone_features(backbone)
                is_first = frame_index == 0
                out = model.track_step(
                    frame_idx=frame_index,
                    is_init_cond_frame=is_first,
                    current_vision_feats=features,
                    current_vision_pos_embeds=positions,
                    feat_sizes=sizes,
                    point_inputs=_box_points(clip, model.image_size, device) if is_first else None,
                    mask_inputs=None,
                    output_dict=outputs,
                    num_frames=max(len(clip.frames), 100),
                )
                kept = {
                    key: out[key]
                    for key in ("maskmem_features", "maskmem_pos_enc", "obj_ptr", "object_score_logits")
                }
                outputs["cond_frame_outputs" if is_first else "non_cond_frame_outputs"][frame_index] = kept
                if after_frame is not None:
                    after_frame(clip_index, frame_index)
    return calls


def _box_points(clip: CalibrationClip, image_size: int, device: torch.device) -> dict[str, Tensor]:
    assert clip.box_xyxy is not None
    height, width = clip.frames[0].shape[:2]
    corners = torch.tensor(clip.box_xyxy, dtype=torch.float32).view(1, 2, 2)
    corners = corners / torch.tensor([width, height], dtype=torch.float32) * image_size
    labels = torch.tensor([[2, 3]], dtype=torch.int32)
    return {"point_coords": corners.to(device), "point_labels": labels.to(device)}


@contextmanager
def _recording(model: nn.Module, calls: dict[str, list[StageCall]], position: list[int]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[name].append(StageCall(position[0], position[1], detach(args), detach(kwargs)))

        return before

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in calls
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
