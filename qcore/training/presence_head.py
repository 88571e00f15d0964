"""Fits the presence head to what it sees while the model itself tracks objects that leave and return.

Whole clips are too dear to train on for long, and a head that learns beside everything else sees few frames
without its object. Here the rest of the model stays as it is: it tracks many clips once, the decoder's
presence token of every frame is kept, and the head alone (three small layers) learns to tell them apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.evaluation.trackers import SessionTracker
from qcore.runtime.recorded_calls import call_plainly
from qcore.tracking.aids import Aids
from qcore.training.errors import TrainingError
from qcore.training.presence import CLEARLY_PRESENT, ExitClip, SeenFrame, exit_clips, tracked_frames
from qcore.training.sources import davis_sequence, davis_sequence_names

LEARNING_RATE = 3e-4
WEIGHT_DECAY = 1e-2
BATCH = 1024
KNOWN_IOU = 0.3
"""A frame with the object counts only where the model follows it, or thinks that it is gone: a token that
looks at something else says nothing about either."""


@dataclass(frozen=True, slots=True)
class PresenceSamples:
    """Presence tokens of tracked frames."""

    tokens_nc: Tensor
    """float32 (n, C)."""
    in_view_n: Tensor
    """bool (n,)."""


def training_clips(davis_root: Path, length: int, rounds: int) -> Iterator[ExitClip]:
    """The clips of a labelled data set as they are, then in each round one with an exit for each of them.

    Pasted objects alone would teach the head to doubt whatever looks real.

    Args:
        davis_root: a data set in DAVIS layout; the object is all that is labelled on the first frame.
        length: of the clips with exits, in frames.
        rounds: other objects, mirrored in every second round.
    """
    yield from whole_clips(davis_root)
    for number in range(1, rounds + 1):
        yield from exit_round(davis_root, length, number)


def whole_clips(davis_root: Path) -> Iterator[ExitClip]:
    """The clips of a labelled data set as they are."""
    for name in davis_sequence_names(davis_root):
        frames, alphas = davis_sequence(davis_root, name)
        truth_thw = np.stack(alphas) > 127
        if truth_thw[0].any():
            in_view_t = np.array([float(mask_hw.any()) for mask_hw in truth_thw])
            yield ExitClip(name, np.stack(frames), truth_thw, in_view_t)


def exit_round(davis_root: Path, length: int, number: int) -> Iterator[ExitClip]:
    """One clip for each labelled sequence, whose picture another one's object leaves.

    Args:
        davis_root: see `training_clips`.
        length: of the clips, in frames.
        number: of the round, from 1 on: other objects in each, and every second one mirrored.
    """
    yield from exit_clips(davis_root, length, number, mirrored=number % 2 == 0)


def is_telling(share: float, seen: SeenFrame) -> bool:
    """Whether what the model thinks of a frame can be called right or wrong.

    Args:
        share: of the object that is in view, 0..1.
        seen: what the model made of it.
    """
    if 0 < share < CLEARLY_PRESENT:
        return False
    return share == 0 or seen.iou > KNOWN_IOU or seen.says_absent


def judged_inputs(
    model: SAM2Base, head: nn.Module, clips: Iterable[ExitClip]
) -> Iterator[tuple[Tensor, bool]]:
    """What a head is given on the telling frames of tracked clips, and whether the object is in view there.

    Frames on which the head is not called are left out.

    Args:
        model: does the tracking.
        head: a part of it.
        clips: to track.

    Yields:
        float32 (C,) on the CPU, and the truth.
    """
    given: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0].detach()))
    try:
        # searches would ask the head too, and take its word
        aids = dataclasses.replace(Aids.for_model(model), search=False)
        for clip, seen in tracked_frames(SessionTracker(model, aids=aids), clips):
            last, given[:] = given[-1:], []
            share = float(clip.in_view_t[seen.frame_index])
            if last and is_telling(share, seen):
                yield last[0].reshape(-1).float().cpu(), share > 0
    finally:
        hook.remove()


def collect(model: SAM2Base, clips: Iterable[ExitClip]) -> PresenceSamples:
    """Track all clips and keep what the presence head was given.

    Args:
        model: in eval mode; kernels of `qcore.runtime.lower` are fine.
        clips: of `training_clips`.

    Raises:
        TrainingError: no object leaves.
    """
    call_plainly(model)  # recordings know no hooks
    tokens: list[Tensor] = []
    in_view: list[bool] = []
    for token, is_in_view in judged_inputs(model, model.sam_mask_decoder.pred_obj_score_head, clips):
        tokens.append(token)
        in_view.append(is_in_view)
    if not any(in_view) or all(in_view):
        raise TrainingError("The clips show no object that leaves the picture.")
    return PresenceSamples(torch.stack(tokens), torch.tensor(in_view))


def fit_head(head: nn.Module, samples: PresenceSamples, steps: int, seed: int = 0) -> None:
    """Train the head in place; both kinds of frames have equal weight, however many there are.

    Args:
        head: the decoder's ``pred_obj_score_head``.
        samples: of many clips.
        steps: of AdamW. More of them fit clips that the model was trained on ever better, and others no more:
            measure on those.
        seed: of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    head.requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    wanted_n = samples.in_view_n.float()
    share = wanted_n.mean()
    weight_n = torch.where(samples.in_view_n, 0.5 / share, 0.5 / (1 - share))
    for _ in range(steps):
        index = torch.randint(len(wanted_n), (BATCH,), generator=generator)
        logits = head(samples.tokens_nc[index]).flatten()
        loss = F.binary_cross_entropy_with_logits(logits, wanted_n[index], weight_n[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.requires_grad_(False)
