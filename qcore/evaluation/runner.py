"""`evaluate`: one model (or baseline) on one benchmark folder, for the command line and for calibration."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcore.evaluation.coco import coco_images, score_images
from qcore.evaluation.datasets import AnnotatedSequence, davis_sequences, sav_sequences
from qcore.evaluation.errors import EvaluationError
from qcore.evaluation.memory import peak_rss_bytes
from qcore.evaluation.prompts import PromptKind, make_prompt
from qcore.evaluation.report import EvaluationReport
from qcore.evaluation.scoring import SequenceScore, score_sequence
from qcore.evaluation.trackers import BASELINES, SessionTracker, Tracker
from qcore.masks import Rle
from qcore.video import open_source

log = logging.getLogger(__name__)

DATASETS = ("davis", "sav", "coco")


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """How far an evaluation is. For image benchmarks a "sequence" is one image."""

    sequence: str
    sequence_index: int
    sequence_count: int
    frame: int
    frame_count: int

    @property
    def fraction(self) -> float:
        """Share done, 0..1, counting every sequence alike."""
        return (self.sequence_index + self.frame / max(1, self.frame_count)) / self.sequence_count


ProgressCallback = Callable[[EvaluationProgress], None]


def evaluate(
    model: Any,
    dataset: str,
    root: str | Path,
    *,
    sequences: Sequence[str] | None = None,
    prompt: PromptKind | str = PromptKind.BOX,
    mutual_kv: Any = None,
    device: str = "cpu",
    image_size: int | None = None,
    max_frames: int | None = None,
    model_name: str | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationReport:
    """Prompt every object once from its true mask, follow it forward, score it.

    Args:
        model: an id or file for `qcore.models.load_model`, a baseline (``static-mask``, ``optical-flow``:
            these always start from the true mask), or a loaded `SAM2Base`.
        dataset: ``davis``, ``sav`` or ``coco``.
        root: the benchmark's folder, see `qcore.evaluation.datasets` and `qcore.evaluation.coco`.
        sequences: names to restrict it to (images for coco); None for all.
        prompt: ``box``, ``click`` or ``mask``.
        mutual_kv: the session's `MutualKvSettings`; None for off.
        device: where a model given by id or file runs.
        image_size: input side in pixels for a model given by id or file; None for its own.
        max_frames: cut every clip to so many frames; None for all. Not comparable with published figures.
        model_name: what the report calls the model; None for its id.
        progress: called after each tracked frame, in this thread; raise from it to cancel.

    Raises:
        EvaluationError: the folder, the prompt or the combination cannot be used.
        ModelError: the model cannot be loaded.
    """
    if dataset not in DATASETS:
        raise EvaluationError(f"There is no benchmark {dataset!r}: choose {', '.join(DATASETS)}.")
    try:
        kind = PromptKind(prompt)
    except ValueError as error:
        raise EvaluationError(
            f"There is no prompt {str(prompt)!r}: choose {', '.join(PromptKind)}."
        ) from error
    if max_frames is not None and max_frames < 3:
        raise EvaluationError("At least three frames of a clip are needed to score it.")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise EvaluationError(f"There is no folder {str(folder)!r}.")
    report = progress or (lambda _: None)
    baseline = isinstance(model, str) and model in BASELINES
    if dataset == "coco":
        if baseline:
            raise EvaluationError(f"The baseline {model!r} needs video; coco holds single images.")
        images = coco_images(folder, sequences)
        tracker = SessionTracker(*_loaded(model, device, image_size), mutual_kv=mutual_kv)
        scores, precision = score_images(
            tracker.session,
            images,
            kind,
            lambda name, i: report(EvaluationProgress(name, i, len(images), 1, 1)),
        )
        return EvaluationReport(
            model_name or _name(model),
            dataset,
            kind.value,
            scores,
            peak_rss_bytes() / 2**20,
            _settings(tracker.model, device, mutual_kv, None),
            precision,
        )
    reader = davis_sequences if dataset == "davis" else sav_sequences
    clips = reader(folder, sequences)
    if baseline:
        kind = PromptKind.MASK
        follower: Tracker = BASELINES[model]()
        settings = _settings(None, "cpu", None, max_frames)
    else:
        session_tracker = SessionTracker(*_loaded(model, device, image_size), mutual_kv=mutual_kv)
        settings = _settings(session_tracker.model, device, mutual_kv, max_frames)
        follower = session_tracker
    scored = []
    for index, clip in enumerate(clips):

        def on_frame(frame: int, count: int, index: int = index, clip: AnnotatedSequence = clip) -> None:
            report(EvaluationProgress(clip.name, index, len(clips), frame, count))

        scored.append(evaluate_sequence(follower, clip, kind, max_frames, on_frame))
    return EvaluationReport(
        model_name or _name(model), dataset, kind.value, tuple(scored), peak_rss_bytes() / 2**20, settings
    )


def evaluate_sequence(
    tracker: Tracker,
    sequence: AnnotatedSequence,
    kind: PromptKind,
    max_frames: int | None = None,
    progress: Callable[[int, int], None] = lambda frame, count: None,
) -> SequenceScore:
    """Track and score one clip; ``progress`` gets (frames tracked, frames of the clip).

    The clock runs from the first prompt to the last mask, with the decoding of the video in it and the making
    of prompts, scoring and progress out of it.

    Raises:
        EvaluationError: the annotations do not fit the frames.
    """
    stop = sequence.frame_count if max_frames is None else min(sequence.frame_count, max_frames)
    prompt_frames = {obj: sequence.prompt_frame(obj, stop) for obj in sequence.objects}
    prompts = [
        make_prompt(kind, sequence.truth(frame)[obj], frame, obj) for obj, frame in prompt_frames.items()
    ]
    masks: dict[tuple[int, int], Rle] = {}
    seconds = 0.0
    frames_seen: set[int] = set()
    with open_source(sequence.frames) as source:
        started = time.perf_counter()
        results = tracker.track(source, prompts)
        while True:
            result = next(results, None)
            seconds += time.perf_counter() - started
            if result is None or result.frame_index >= stop:
                break
            masks[result.frame_index, result.object_id] = result.rle
            frames_seen.add(result.frame_index)
            progress(len(frames_seen), stop)
            started = time.perf_counter()
    scores = score_sequence(sequence, masks, prompt_frames, stop)
    return SequenceScore(sequence.name, stop, len(frames_seen), seconds, scores)


def _loaded(model: Any, device: str, image_size: int | None) -> tuple[Any]:
    if not isinstance(model, str | Path):
        return (model,)
    from qcore.models import load_model  # imports torch: not needed for baselines

    return (load_model(model, device=device, image_size=image_size),)


def _name(model: Any) -> str:
    if isinstance(model, str | Path):
        return str(model)
    return type(model).__name__


def _settings(model: Any, device: str, mutual_kv: Any, max_frames: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"device": device}
    if model is not None:
        import torch

        settings["device"] = str(next(model.parameters()).device)
        settings["image_size"] = int(model.image_size)
        settings["threads"] = torch.get_num_threads()
        settings["mutual_kv"] = "off" if mutual_kv is None else repr(mutual_kv)
    if max_frames is not None:
        settings["max_frames"] = max_frames
    return settings
