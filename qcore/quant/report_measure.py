"""Measures a finished calibration: both models on frames that it did not see, layers, parts, speed.

Both models run as the program runs them, through `VideoSession` on this device's kernels; the original stays
in float32, so that it is the same reference everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import cv2
import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from qcore.evaluation.metrics import boundary_f, region_similarity
from qcore.evaluation.model_speed import ClipFrames
from qcore.masks import Rle, decode, encode
from qcore.models import load_model
from qcore.quant.calibration_data import CalibrationClip, propose_box
from qcore.quant.clip_selection import AcceptedObject, Box, ClipPlan, ClipRequest, Rgb, read_frames
from qcore.quant.layers import QuantizedLayer
from qcore.quant.report import AcceptedScore, FlipFrame, FrameScore, LayerQuality, PartCost
from qcore.quant.sensitivity import mask_distance, mask_logits
from qcore.quant.sqnr import measure_sqnr
from qcore.runtime import Precision, lower
from qcore.tracking.mutual_kv import MutualKvSettings
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Prompt
from qcore.video import open_source

MAX_CHECKED_CLIPS = 6
MAX_FLIPS = 12
PICTURE_WIDTH = 640
ACCEPTED_SPAN = 60
"""Frames that are tracked at most for one accepted object."""
PART_FRAMES = 4

Step = Callable[[str, float], None]
"""Called with what is measured and the share done, 0..1; raise from it to stop."""


@dataclass(frozen=True)
class Checked:
    """One clip's frames for the comparison, and the prompt on the first."""

    name: str
    indices: tuple[int, ...]
    frames: tuple[Rgb, ...]
    box_xyxy: Box


@dataclass(frozen=True)
class Comparison:
    """Both models on the checked frames."""

    scores: tuple[FrameScore, ...]
    flips: tuple[FlipFrame, ...]
    jf_mutual_kv: float | None
    held_out: bool


def reference_of(model: SAM2Base) -> SAM2Base:
    """A copy of the original on float32 kernels; the model itself stays as it is."""
    reference = copy.deepcopy(model)
    lower(reference, Precision.FP32)
    return reference


def checked_clips(model: SAM2Base, plans: Sequence[ClipPlan]) -> tuple[list[Checked], bool]:
    """The frames to compare on: those no clip uses, or the calibration's own where there are none."""
    chosen = [plan for plan in plans if plan.held_out][:MAX_CHECKED_CLIPS]
    held_out = bool(chosen)
    found = []
    for plan in chosen or list(plans)[:MAX_CHECKED_CLIPS]:
        indices = plan.held_out if held_out else plan.indices
        frames = read_frames(plan.path, indices)
        box = None
        if plan.box_xyxy is not None:
            box = _follow(model, plan, frames[0]) if held_out else plan.box_xyxy
        found.append(Checked(plan.name, indices, frames, box or propose_box(model, frames[0])))
    return found, held_out


def _follow(model: SAM2Base, plan: ClipPlan, first: Rgb) -> Box | None:
    """Where the user's object is on the first checked frame, by the original; None when it is out of view."""
    frames = (*read_frames(plan.path, plan.indices), first)
    assert plan.box_xyxy is not None
    *_, last = track(model, frames, plan.box_xyxy)
    ys, xs = np.nonzero(decode(last))
    if len(xs) < 16:
        return None
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def track(
    model: SAM2Base, frames: Sequence[Rgb], prompt: Box | Rle, mutual_kv: MutualKvSettings | None = None
) -> Iterator[Rle]:
    """Masks of one object on all frames, prompted on the first."""
    session = VideoSession(model, ClipFrames(frames), mutual_kv=mutual_kv)
    if isinstance(prompt, Rle):
        session.set_prompt(Prompt(0, 1, mask=prompt))
    else:
        session.add_box(0, 1, prompt)
    for result in session.propagate(0, len(frames) - 1):
        yield result.rle


def compare(
    original: SAM2Base,
    quantized: SAM2Base,
    clips: Sequence[Checked],
    held_out: bool,
    epsilon: float | None,
    step: Step = lambda what, share: None,
) -> Comparison:
    """Track every clip's object with both models; the prompted frame does not count.

    Args:
        original: see `reference_of`.
        quantized: on this device's kernels.
        clips: see `checked_clips`.
        held_out: as `checked_clips` said.
        epsilon: a threshold to compare with Mutual-KV too; None for not.
        step: told of every frame.
    """
    scored: list[tuple[FrameScore, Rgb, Rle, Rle]] = []
    shared: list[float] = []
    mutual_kv = None if epsilon is None else MutualKvSettings(epsilon=epsilon)
    total = sum(len(clip.frames) for clip in clips)
    done = 0
    for clip in clips:
        theirs = track(original, clip.frames, clip.box_xyxy)
        ours = track(quantized, clip.frames, clip.box_xyxy)
        sharing = None if mutual_kv is None else track(quantized, clip.frames, clip.box_xyxy, mutual_kv)
        for position, (index, full, small) in enumerate(zip(clip.indices, theirs, ours)):
            merged = None if sharing is None else next(sharing)
            if position:
                j, f = _agreement(full, small)
                scored.append((FrameScore(clip.name, index, j, f), clip.frames[position], full, small))
                if merged is not None:
                    shared.append(float(np.mean(_agreement(full, merged))))
            done += 1
            step("compare", done / total)
    worst = sorted(scored, key=lambda item: item[0].jf)
    return Comparison(
        tuple(score for score, *_ in scored),
        tuple(_flip(*item) for item in worst[:MAX_FLIPS]),
        float(np.mean(shared)) if shared else None,
        held_out,
    )


def _agreement(full: Rle, small: Rle) -> tuple[float, float]:
    a, b = decode(small), decode(full)
    return region_similarity(a, b), boundary_f(a, b)


def _flip(score: FrameScore, frame: Rgb, full: Rle, small: Rle) -> FlipFrame:
    height, width = frame.shape[:2]
    scale = min(1.0, PICTURE_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
    ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert ok

    def shrink(rle: Rle) -> Rle:
        return encode(cv2.resize(decode(rle), size, interpolation=cv2.INTER_AREA) > 0)

    return FlipFrame(score, jpeg.tobytes(), shrink(full), shrink(small))


def score_accepted(
    original: SAM2Base,
    quantized: SAM2Base,
    requests: Sequence[ClipRequest],
    step: Step = lambda what, share: None,
) -> list[AcceptedScore]:
    """Both models against the user's own masks: from the first accepted one of an object to its others."""
    found: list[AcceptedScore] = []
    jobs = [(request, entry) for request in requests for entry in request.accepted]
    for number, (request, entry) in enumerate(jobs):
        step("accepted", number / len(jobs))
        score = _score_object(original, quantized, request, entry)
        if score is not None:
            found.append(score)
    return found


def _score_object(
    original: SAM2Base, quantized: SAM2Base, request: ClipRequest, entry: AcceptedObject
) -> AcceptedScore | None:
    visible = [frame for frame in sorted(entry.masks) if not entry.masks[frame].is_empty]
    if not visible:
        return None
    start = visible[0]
    wanted = [frame for frame in sorted(entry.masks) if start < frame < start + ACCEPTED_SPAN]
    if not wanted:
        return None
    with open_source(request.path) as source:
        stop = min(wanted[-1] + 1, len(source))
        frames = [np.ascontiguousarray(source[i]) for i in range(start, stop)]
    totals = []
    for model in (original, quantized):
        masks = list(track(model, frames, entry.masks[start]))
        pairs = [(masks[i - start], entry.masks[i]) for i in wanted if i < stop]
        totals.append(float(np.mean([np.mean(_agreement(truth, mask)) for mask, truth in pairs])))
    return AcceptedScore(f"{request.path.name}: {entry.name}", len(wanted), totals[0], totals[1])


def layer_quality(model: SAM2Base, quantized: SAM2Base, clips: Sequence[Checked]) -> list[LayerQuality]:
    """SQNR of every quantized layer on the first checked clip."""
    rows = measure_sqnr(model, quantized, [_as_clip(clips[0])])
    return [
        LayerQuality(row.name, row.weight_bits, row.activation_bits, row.weight_db, row.output_db)
        for row in rows
    ]


def _as_clip(clip: Checked) -> CalibrationClip:
    return CalibrationClip(clip.name, clip.frames[:PART_FRAMES], clip.box_xyxy)


@torch.no_grad()
def part_costs(
    model: SAM2Base,
    quantized: SAM2Base,
    clips: Sequence[Checked],
    step: Step = lambda what, share: None,
) -> list[PartCost]:
    """Put each part of the original back into the quantized model alone, and see how much error goes away.

    Args:
        model: full precision, as loaded.
        quantized: as `quantize_model` returned it, on plain modules.
        clips: the first two are used.
        step: told of every part.
    """
    short = [_as_clip(clip) for clip in clips[:2]]
    reference = mask_logits(model, short)
    whole = mask_distance(mask_logits(quantized, short), reference)
    parts = [(title, patterns) for title, patterns in model_parts(model) if _layers(quantized, patterns)]
    found: list[PartCost] = []
    for number, (title, patterns) in enumerate(parts):
        step("parts", number / len(parts))
        swapped = _swapped(model, quantized, patterns)
        error = mask_distance(mask_logits(swapped, short), reference)
        share = 0.0 if whole <= 0 else 1 - error / whole
        layers = _layers(quantized, patterns)
        extra = sum(x.weight.numel() * (16 - x.weight_quantizer.bits) // 8 for x in layers)
        found.append(PartCost(title, patterns, share, extra))
    return sorted(found, key=lambda part: -part.error_share)


def model_parts(model: SAM2Base) -> list[tuple[str, tuple[str, ...]]]:
    """Title and globs of the parts of any SAM 2: what a person could name."""
    parts: list[tuple[str, tuple[str, ...]]] = []
    blocks = [name for name, _ in model.image_encoder.trunk.get_submodule("blocks").named_children()]
    third = max(1, (len(blocks) + 2) // 3)
    for title, start in (("early", 0), ("middle", third), ("late", 2 * third)):
        names = blocks[start : start + third]
        if names:
            globs = tuple(f"image_encoder.trunk.blocks.{name}.*" for name in names)
            parts.append((f"image encoder, {title} blocks", globs))
    parts.append(("image encoder, neck", ("image_encoder.neck.*",)))
    for name, _ in model.memory_attention.layers.named_children():
        title = f"memory attention, layer {int(name) + 1}"
        parts.append((title, (f"memory_attention.layers.{name}.*",)))
    parts.append(("mask decoder", ("sam_mask_decoder.*",)))
    parts.append(("memory encoder", ("memory_encoder.*",)))
    return parts


def _layers(quantized: nn.Module, patterns: Sequence[str]) -> list[QuantizedLayer]:
    return [
        module
        for name, module in quantized.named_modules()
        if isinstance(module, QuantizedLayer) and any(fnmatchcase(name, p) for p in patterns)
    ]


def _swapped(model: Any, quantized: Any, patterns: Sequence[str]) -> Any:
    """A copy of the quantized model with some modules of the original; weights are shared, not copied."""
    memo = {id(tensor): tensor for tensor in (*quantized.parameters(), *quantized.buffers())}
    mixed = copy.deepcopy(quantized, memo)
    for pattern in patterns:
        name = pattern.removesuffix(".*")
        parent, _, child = name.rpartition(".")
        setattr(mixed.get_submodule(parent), child, model.get_submodule(name))
    return mixed


def load_quantized(path: Any, device: str) -> SAM2Base:
    """The bundle as the program runs it."""
    model = load_model(path, device=device)
    lower(model)
    return model
