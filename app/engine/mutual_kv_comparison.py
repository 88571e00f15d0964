"""The same frames tracked without and with Mutual-KV, so that its price and its gain can be seen.

It has a session of its own: what the user's session remembers stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from app.engine.backend import Backend, LoadedModel, TrackingSession
from app.engine.plan import TrackPlan
from app.engine.records import EngineError, MutualKvChoice, MutualKvComparison
from qcore.masks import Rle, iou
from qcore.tracking.types import Prompt

Key = tuple[int, int]
"""(object id, frame index)."""
Progress = Generator[tuple[int, int], None, MutualKvComparison]
"""Yields (steps done, steps in all) and returns the comparison."""


def compare_mutual_kv(
    backend: Backend,
    loaded: LoadedModel,
    frames: Any,
    plan: TrackPlan,
    prompts: Sequence[Prompt],
    choice: MutualKvChoice,
) -> Progress:
    """Encode the plan's frames, then track them twice.

    Args:
        backend: makes the session.
        loaded: the model.
        frames: the engine's frame source.
        plan: what to track.
        prompts: what is known about its objects: keyframes as masks or prompts.
        choice: the sharing to compare with none.

    Raises:
        EngineError: the plan visits nothing but prompted frames.
    """
    session = backend.open_session(loaded, frames, lambda _frame, _object: None)
    visited = sorted({i for run in plan.runs for i in range(run.low, run.high + 1)})
    total = len(visited) + 2 * sum(run.steps for run in plan.runs)
    done = 0
    for index in visited:
        session.encode(index)
        done += 1
        yield done, total
    passes: list[tuple[dict[Key, Rle], float]] = []
    for sharing in (MutualKvChoice(False), choice):
        for object_id in plan.object_ids:
            session.remove_object(object_id)
        for prompt in prompts:
            session.set_prompt(prompt)
        backend.set_mutual_kv(loaded, session, sharing)
        masks: dict[Key, Rle] = {}
        spent_s = yield from _track(session, plan, masks, done, total)
        done += (total - len(visited)) // 2
        passes.append((masks, spent_s))
    facts = backend.mutual_kv_facts(session)
    given = {(prompt.object_id, prompt.frame_index) for prompt in prompts}
    (plain, plain_s), (shared, shared_s) = passes
    ious = {key: iou(rle, shared[key]) for key, rle in plain.items() if key not in given}
    if not ious:
        raise EngineError("There is nothing to compare: every frame there is a keyframe.")
    count = len({frame for _, frame in ious})
    worst = min(ious, key=lambda key: ious[key])
    return MutualKvComparison(
        frames=count,
        masks=len(ious),
        iou_mean=sum(ious.values()) / len(ious),
        iou_lowest=ious[worst],
        lowest_frame=worst[1],
        ms_without=1000 * plain_s / count,
        ms_with=1000 * shared_s / count,
        memory_frames=0.0 if facts is None else facts.memory_frames,
        groups=0.0 if facts is None else facts.groups,
        epsilon=1.0 if facts is None else facts.epsilon,
    )


def _track(
    session: TrackingSession, plan: TrackPlan, masks: dict[Key, Rle], done: int, total: int
) -> Generator[tuple[int, int], None, float]:
    """Fill ``masks``; returns the seconds spent, without what others do between two steps."""
    spent_s = 0.0
    for run in plan.runs:
        steps = session.propagate(run.start, run.stop, run.direction, run.object_ids, run.starts)
        while True:
            began = time.perf_counter()
            result = next(steps, None)
            spent_s += time.perf_counter() - began
            if result is None:
                break
            masks[(result.object_id, result.frame_index)] = result.rle
            done += 1
            yield done, total
    return spent_s
