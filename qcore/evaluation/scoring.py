"""From masks and truth to the scores of one sequence, and of several. Pure functions of masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcore.evaluation.datasets import AnnotatedSequence, Mask
from qcore.evaluation.errors import EvaluationError
from qcore.evaluation.metrics import boundary_f, region_similarity
from qcore.masks import Rle, decode


@dataclass(frozen=True, slots=True)
class Identity:
    """Whether objects keep to themselves, over the scored frames where they are visible. All in 0..1."""

    own_iou: float
    """Mean IoU with the object's own truth."""
    other_iou: float
    """Mean IoU with the truths of the other objects: 0 when nothing is mixed up."""
    own_larger: float
    """Share of frames in which the own IoU exceeds that with every other object."""


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """One object of one sequence; J and F in 0..1."""

    object_id: int
    j: float
    f: float
    j_prompt_frame: float
    """J of the mask that the prompt itself gave."""
    scored_frames: int
    identity: Identity | None = None
    """None for the only object of a sequence."""


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """One sequence: its objects, and how fast they were tracked."""

    name: str
    frames: int
    """Frames of the clip."""
    tracked_frames: int
    """Frames that were decoded and tracked, from the first prompt on."""
    seconds: float
    """Wall time from the first prompt to the last mask, decoding the video included."""
    objects: tuple[ObjectScore, ...]

    @property
    def j(self) -> float:
        """Mean J of the objects."""
        return float(np.mean([score.j for score in self.objects]))

    @property
    def f(self) -> float:
        """Mean F of the objects."""
        return float(np.mean([score.f for score in self.objects]))

    @property
    def j_prompt_frame(self) -> float:
        """Mean J of the objects on the frames where they were prompted."""
        return float(np.mean([score.j_prompt_frame for score in self.objects]))

    @property
    def fps(self) -> float:
        """Tracked frames a second."""
        return self.tracked_frames / self.seconds if self.seconds > 0 else 0.0


def score_sequence(
    sequence: AnnotatedSequence,
    masks: Mapping[tuple[int, int], Rle],
    prompt_frames: Mapping[int, int],
    stop: int,
    progress: Callable[[], None] = lambda: None,
) -> tuple[ObjectScore, ...]:
    """Score all objects of a sequence.

    As in DAVIS and SA-V, the first and the last annotated frame of each object do not count.

    Args:
        sequence: the truth.
        masks: (frame, object) -> predicted mask; a missing one is an empty one.
        prompt_frames: object -> frame it was prompted on.
        stop: frames from here on are ignored.
        progress: called after each frame; may raise to cancel.

    Raises:
        EvaluationError: too few annotated frames, or truth of another size than the frames.
    """
    scored = {obj: _scored_frames(sequence, obj, stop) for obj in sequence.objects}
    rows: dict[int, list[tuple[float, float]]] = {obj: [] for obj in sequence.objects}
    overlaps: dict[int, list[tuple[float, float, bool]]] = {obj: [] for obj in sequence.objects}
    on_prompt: dict[int, float] = {}
    appeared: set[int] = set()
    for frame in sorted({*prompt_frames.values(), *(f for frames in scored.values() for f in frames)}):
        truth = sequence.truth(frame)
        predicted = {obj: _mask(masks.get((frame, obj)), truth[obj], sequence.name) for obj in truth}
        for obj, mask in predicted.items():
            if prompt_frames.get(obj) == frame:
                on_prompt[obj] = region_similarity(mask, truth[obj])
            if frame not in scored[obj]:
                continue
            if truth[obj].any() or mask.any():
                appeared.add(obj)
            if obj in appeared or not sequence.counts_from_first_appearance:
                rows[obj].append((region_similarity(mask, truth[obj]), boundary_f(mask, truth[obj])))
            if len(truth) > 1 and truth[obj].any():
                overlaps[obj].append(_overlap(obj, mask, truth))
        progress()
    return tuple(
        ObjectScore(
            obj,
            float(np.mean([j for j, _ in rows[obj]])) if rows[obj] else 1.0,
            float(np.mean([f for _, f in rows[obj]])) if rows[obj] else 1.0,
            on_prompt[obj],
            len(rows[obj]),
            mean_identity([Identity(own, other, float(larger)) for own, other, larger in overlaps[obj]]),
        )
        for obj in sequence.objects
    )


def mean_identity(values: Sequence[Identity | None]) -> Identity | None:
    """The mean of those that are there; None when there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Identity(
        float(np.mean([v.own_iou for v in known])),
        float(np.mean([v.other_iou for v in known])),
        float(np.mean([v.own_larger for v in known])),
    )


def _scored_frames(sequence: AnnotatedSequence, object_id: int, stop: int) -> frozenset[int]:
    frames = [frame for frame in sequence.annotated_frames(object_id) if frame < stop][1:-1]
    if not frames:
        raise EvaluationError(
            f"{sequence.name!r} has too few annotated frames of object {object_id}: three are needed."
        )
    return frozenset(frames)


def _mask(rle: Rle | None, truth: Mask, name: str) -> Mask:
    if rle is None:
        return np.zeros_like(truth)
    if rle.size != truth.shape:
        raise EvaluationError(
            f"The annotations of {name!r} are {truth.shape[1]} x {truth.shape[0]} pixels, "
            f"its frames {rle.size[1]} x {rle.size[0]}."
        )
    return decode(rle).astype(np.bool_)


def _overlap(object_id: int, mask: Mask, truth: Mapping[int, Mask]) -> tuple[float, float, bool]:
    own = region_similarity(mask, truth[object_id])
    others = [region_similarity(mask, other) for obj, other in truth.items() if obj != object_id]
    return own, float(np.mean(others)), own > max(others)
