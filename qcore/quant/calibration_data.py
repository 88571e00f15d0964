"""Calibration clips in memory: short runs of frames with one box prompt each (see `clip_selection`).

Where no prompt is given, the model itself proposes an object: ground truth is never used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qcore.quant.clip_selection import Box, ClipPlan, ClipRequest, Rgb, plan_clips, read_frames
from qcore.tracking.preprocess import image_tensor


@dataclass(frozen=True)
class CalibrationClip:
    """``frames`` are uint8 RGB (H, W, 3) in order; the prompt is on the first one, in its pixels (x0, y0,
    x1, y1).
    """

    name: str
    frames: tuple[Rgb, ...]
    box_xyxy: Box | None = None
    """None: an object is proposed by the model."""


def collect_clips(
    requests: Sequence[ClipRequest], clips: int = 8, frames_per_clip: int = 20, stride: int = 4
) -> list[CalibrationClip]:
    """Choose clips as `plan_clips` does and decode them.

    Raises:
        QuantizationError: no video given, or one too short to hold two frames.
        VideoError: a video cannot be read.
    """
    return [read_clip(plan) for plan in plan_clips(requests, clips, frames_per_clip, stride)]


def read_clip(plan: ClipPlan) -> CalibrationClip:
    """Decode the calibration frames of a planned clip.

    Raises:
        VideoError: the video cannot be read.
    """
    return CalibrationClip(plan.name, read_frames(plan.path, plan.indices), plan.box_xyxy)


def fingerprint(clips: Sequence[CalibrationClip]) -> str:
    """SHA-256 over all pixels and prompts: which data a bundle was calibrated on."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr((clip.box_xyxy, clip.frames[0].shape)).encode())
        for frame in clip.frames:
            digest.update(frame.tobytes())
    return digest.hexdigest()


@torch.no_grad()
def propose_box(model: Any, rgb_hw3: Rgb) -> Box:
    """A box around something the model segments with confidence: its best answer to a grid of single clicks.

    Answers between 1 % and 50 % of the picture are preferred by the model's own IoU estimate; with none, the
    middle of the picture is taken.
    """
    size, device = model.image_size, next(model.parameters()).device
    height, width = rgb_hw3.shape[:2]
    backbone = model.forward_image(image_tensor(rgb_hw3, size, device))
    _, features, _, feature_sizes = model._prepare_backbone_features(backbone)
    levels = [f.permute(1, 2, 0).reshape(1, -1, *s) for f, s in zip(features, feature_sizes)]
    top = levels[-1] + model.no_mem_embed.reshape(1, -1, 1, 1)
    best: tuple[float, Box] = (-1.0, (width / 4, height / 4, width * 3 / 4, height * 3 / 4))
    for fy in (0.3, 0.5, 0.7):
        for fx in (0.25, 0.5, 0.75):
            clicks = {
                "point_coords": torch.tensor([[[fx * size, fy * size]]], device=device),
                "point_labels": torch.ones(1, 1, dtype=torch.int32, device=device),
            }
            _, _, ious, _, masks, _, _ = model._forward_sam_heads(
                backbone_features=top,
                point_inputs=clicks,
                high_res_features=levels[:-1],
                multimask_output=True,
            )
            mask_hw = (masks[0, 0] > 0).cpu().numpy()
            share, score = float(mask_hw.mean()), float(ious.max())
            if 0.01 <= share <= 0.5 and score > best[0]:
                ys, xs = np.nonzero(mask_hw)
                scale_x, scale_y = width / size, height / size
                best = (
                    score,
                    (
                        float(xs.min() * scale_x),
                        float(ys.min() * scale_y),
                        float((xs.max() + 1) * scale_x),
                        float((ys.max() + 1) * scale_y),
                    ),
                )
    return best[1]


def with_prompts(model: Any, clips: Sequence[CalibrationClip]) -> list[CalibrationClip]:
    """The clips, each with a box: the given one or the model's own proposal."""
    return [
        clip
        if clip.box_xyxy is not None
        else CalibrationClip(clip.name, clip.frames, propose_box(model, clip.frames[0]))
        for clip in clips
    ]
