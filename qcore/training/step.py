"""One training step's forward pass: a batch of clips through `SAM2Base`, prompted like a user would.

Uses SAM 2's own per-frame step, so that training and tracking cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from qcore.training.losses import LossConfig, RawOutput, frame_loss
from qcore.training.prompts import PointPrompt, box_prompt, click_prompt, join, to_device
from qcore.training.synthesis import Clip

_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_DEVIATION = (0.229 * 255, 0.224 * 255, 0.225 * 255)

TIME_CODE_FRAMES = 100
"""Length that object pointers' time codes are scaled by: SAM 2 takes the clip's own, and a clip of five
frames would teach other codes than a video of hundreds uses."""


class ClipBatch(NamedTuple):
    """Clips of one length and size, with all their objects."""

    frames_bthwc: Tensor
    """uint8."""
    owner_n: Tensor
    """int64: which clip each object belongs to."""
    masks_nthw: Tensor
    """uint8, 0..255."""


@dataclass(frozen=True, slots=True)
class PromptMix:
    """How often each kind of prompt starts a clip; weights, not necessarily summing to 1."""

    box: float = 0.45
    click: float = 0.2
    corrected: float = 0.15
    """One click, then one or two that correct the answer."""
    mask: float = 0.2
    """The exact mask; only for clips of more than one frame."""
    later_correction: float = 0.12
    """Share of clips with a correcting click on a later frame too."""


@dataclass(slots=True)
class StepResult:
    """Loss of a batch, and mean IoU by kind of frame (``box``, ``click``, ``corrected``, ``t1``, ...)."""

    loss: Tensor
    iou: dict[str, float] = field(default_factory=dict)


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Put clips of one length and size into a batch."""
    owners = [index for index, clip in enumerate(clips) for _ in clip.masks_kthw]
    return ClipBatch(
        torch.from_numpy(np.stack([clip.frames_thwc for clip in clips])),
        torch.tensor(owners),
        torch.from_numpy(np.concatenate([clip.masks_kthw for clip in clips])),
    )


class ClipRunner:
    """Runs a model over batches.

    Args:
        model: any `SAM2Base`, in train mode.
        device: where it is.
        half_precision: run in bfloat16 where that is safe.
    """

    def __init__(self, model: SAM2Base, device: torch.device, half_precision: bool = False) -> None:
        self.model = model
        self.device = device
        self.half_precision = half_precision
        self._raw: RawOutput | None = None
        model.sam_mask_decoder.register_forward_hook(self._remember)

    def __call__(
        self, batch: ClipBatch, prompts: PromptMix, loss: LossConfig, rng: np.random.Generator
    ) -> StepResult:
        """Forward pass over a batch; the result's loss has gradients."""
        # one context for all frames: the weights are brought to half precision once
        with self.autocast():
            return self._run(_Pass(self, batch, loss, rng), batch, prompts, rng)

    def _run(
        self, pass_: _Pass, batch: ClipBatch, prompts: PromptMix, rng: np.random.Generator
    ) -> StepResult:
        clip_length = batch.frames_bthwc.shape[1]
        correct_at = -1
        if clip_length > 2 and rng.random() < prompts.later_correction:
            correct_at = int(rng.integers(1, clip_length - 1))
        for t in range(clip_length):
            if t == 0:
                pass_.first_frame(_pick_kind(prompts, clip_length, rng))
            else:
                pass_.next_frame(t, corrected=t == correct_at)
        return pass_.result()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision context to compute in."""
        if not self.half_precision:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def take_raw(self) -> RawOutput:
        """The mask decoder's last answer."""
        assert self._raw is not None
        raw, self._raw = self._raw, None
        return raw

    def _remember(self, _module: Any, _inputs: Any, output: Any) -> None:
        masks, iou, _tokens, presence = output
        self._raw = RawOutput(masks, iou, presence[:, 0])


def _pick_kind(prompts: PromptMix, clip_length: int, rng: np.random.Generator) -> str:
    names = ["box", "click", "corrected", "mask"]
    weights = np.array([prompts.box, prompts.click, prompts.corrected, prompts.mask])
    if clip_length == 1:
        # a mask prompt is its own answer: nothing to learn without a next frame
        weights[3] = 0
    return names[int(rng.choice(4, p=weights / weights.sum()))]


class _Pass:
    """State of one forward pass: features of all frames, memories so far, losses so far."""

    def __init__(
        self, runner: ClipRunner, batch: ClipBatch, loss: LossConfig, rng: np.random.Generator
    ) -> None:
        self.runner, self.model, self.loss_config, self.rng = runner, runner.model, loss, rng
        device = runner.device
        frames = batch.frames_bthwc.to(device, non_blocking=True)
        self.owner_n = batch.owner_n.to(device)
        self.truth_nthw = batch.masks_nthw.to(device, non_blocking=True).float() / 255
        self.half_truth_nthw = F.avg_pool2d(self.truth_nthw, 2)
        self.hard_nthw = batch.masks_nthw.numpy() > 127
        count, length = frames.shape[:2]
        mean = torch.tensor(_MEAN, device=device).view(1, 3, 1, 1)
        deviation = torch.tensor(_DEVIATION, device=device).view(1, 3, 1, 1)
        images = (frames.flatten(0, 1).permute(0, 3, 1, 2).float() - mean) / deviation
        encoded = self.model.forward_image(images)
        self.features = [level.view(count, length, *level.shape[1:]) for level in encoded["backbone_fpn"]]
        self.sizes = [(level.shape[-2], level.shape[-1]) for level in encoded["backbone_fpn"]]
        objects = len(self.owner_n)
        self.positions = [
            level[:1].expand(objects, -1, -1, -1).flatten(2).permute(2, 0, 1)
            for level in encoded["vision_pos_enc"]
        ]
        self.memories: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        self.losses: list[Tensor] = []
        self.iou: dict[str, list[Tensor]] = {}

    def first_frame(self, kind: str) -> None:
        hard = self.hard_nthw[:, 0]
        features = self._features_at(0)
        if kind == "mask":
            current, outputs = self._step(0, True, features, None, self.truth_nthw[:, :1] > 0.5)
            self._keep(0, current, outputs, features, is_prompted=True)
            return
        nothing = np.zeros_like(hard)
        prompt = box_prompt(hard, self.rng) if kind == "box" else click_prompt(hard, nothing, self.rng)
        current, outputs = self._step(0, True, features, prompt)
        self._learn(0, "box" if kind == "box" else "click")
        if kind == "corrected":
            for _ in range(int(self.rng.integers(1, 3))):
                prompt = join(prompt, self._correction(0, outputs))
                current, outputs = self._step(0, True, features, prompt, previous=_logits(outputs))
                self._learn(0, "corrected")
        self._keep(0, current, outputs, features, is_prompted=True)

    def next_frame(self, t: int, corrected: bool) -> None:
        features = self._features_at(t)
        current, outputs = self._step(t, False, features, None)
        self._learn(t, f"t{t}")
        if corrected:
            prompt = self._correction(t, outputs)
            current, outputs = self._step(t, False, features, prompt, previous=_logits(outputs))
            self._learn(t, "later")
        self._keep(t, current, outputs, features, is_prompted=corrected)

    def result(self) -> StepResult:
        if not self.losses:
            # a mask prompt on a clip of one frame
            return StepResult(sum((level.sum() * 0 for level in self.features), torch.zeros(())))
        total = torch.stack(self.losses).mean()
        return StepResult(total, {name: float(torch.stack(v).mean()) for name, v in self.iou.items()})

    def _features_at(self, t: int) -> list[Tensor]:
        """Features of one frame for every object, (H*W, N, C) a level."""
        return [
            level[:, t].index_select(0, self.owner_n).flatten(2).permute(2, 0, 1) for level in self.features
        ]

    def _step(
        self,
        t: int,
        is_first: bool,
        features: list[Tensor],
        prompt: PointPrompt | None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> tuple[dict[str, Any], tuple[Any, ...]]:
        points = None if prompt is None else to_device(prompt, self.runner.device)
        current, outputs, _, _ = self.model._track_step(
            t,
            is_first,
            features,
            self.positions,
            self.sizes,
            points,
            None if mask is None else mask.float(),
            self.memories,
            TIME_CODE_FRAMES,
            False,
            previous,
        )
        return current, outputs

    def _learn(self, t: int, name: str) -> None:
        part = frame_loss(self.runner.take_raw(), self.half_truth_nthw[:, t], self.loss_config)
        self.losses.append(part.loss)
        self.iou.setdefault(name, []).append(part.iou)

    def _correction(self, t: int, outputs: tuple[Any, ...]) -> PointPrompt:
        predicted = (outputs[4][:, 0].detach() > 0).cpu().numpy()
        truth = self.hard_nthw[:, t]
        return click_prompt(truth & ~predicted, predicted & ~truth, self.rng)

    def _keep(
        self,
        t: int,
        current: dict[str, Any],
        outputs: tuple[Any, ...],
        features: list[Tensor],
        is_prompted: bool,
    ) -> None:
        """Turn a frame's answer into a memory."""
        if t == self.truth_nthw.shape[1] - 1:
            return
        current["obj_ptr"] = outputs[5]
        self.model._encode_memory_in_output(
            features, self.sizes, current["point_inputs"], True, outputs[4], outputs[6], current
        )
        kind = "cond_frame_outputs" if is_prompted else "non_cond_frame_outputs"
        self.memories[kind][t] = current


def _logits(outputs: tuple[Any, ...]) -> Tensor:
    """Mask logits to give back to the decoder with the next click, as the session does."""
    logits: Tensor = outputs[3].detach().clamp(-32, 32)
    return logits
