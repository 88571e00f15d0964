"""A pass over the frames: what is computed when, by which thread, and in which order masks come out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from qcore.masks import Rle
from qcore.tracking.decoding import Decoded
from qcore.tracking.encoder import LOOK_AHEAD_FRAMES, LookAhead
from qcore.tracking.memory_bank import ObjectMemory
from qcore.tracking.rivalry import NESTING_KEYFRAMES, Nesting, settle
from qcore.tracking.sweeps import Sweep
from qcore.tracking.tracker import ObjectTracker, Step, Tracked
from qcore.tracking.types import MaskResult, Recall
from qcore.tracking.workers import Workers

TEAM_FRAMES = 8
"""Frames for which another number of threads is worth it: the first few take several times as long, because
kernels lay their weights down again."""

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class Walk:
    """One pass over the objects of a session, whose memories it fills.

    Args:
        tracker: computes one object on one frame.
        objects: memories by object id. The caller may change them between two masks: what it did counts from
            the next mask on.
        recall: asks the project for masks of earlier work, see `VideoSession`.
    """

    def __init__(
        self, tracker: ObjectTracker, objects: dict[int, ObjectMemory], recall: Recall | None
    ) -> None:
        self._tracker = tracker
        self._objects = objects
        self._recall = recall
        self._rivalry = tracker.encoder.aids.rivalry
        self._nesting = Nesting()

    def results(self, sweeps: Collection[Sweep]) -> Iterator[MaskResult]:
        """The masks, frame by frame, one sweep after the other; closing the iterator ends the pass."""
        together = max((len(sweep.frames_of) for sweep in sweeps), default=0)
        if self._rivalry and together > 1:
            self._nesting = self._nesting_of({k for sweep in sweeps for k in sweep.frames_of})
        with contextlib.ExitStack() as stack:
            workers = Workers.for_tasks(together + 1, self._tracker.model.device)
            if workers is not None:
                stack.enter_context(workers)
            look_ahead = self._tracker.encoder.look_ahead(
                workers, self._tracker.tracking, any(sweep.reverse for sweep in sweeps)
            )
            ahead = stack.enter_context(look_ahead)
            for sweep in sweeps:
                yield from self._sweep(sweep, workers, ahead)

    def _sweep(self, sweep: Sweep, workers: Workers | None, ahead: LookAhead | None) -> Iterator[MaskResult]:
        for object_id in sweep.frames_of:
            self._begin(object_id, sweep.start_of(object_id), sweep.reverse)
        frames, idle = list(sweep.frames()), False
        for position, (frame_index, present) in enumerate(frames):
            near = frames[position : position + TEAM_FRAMES]
            coming = [t for t, ids in near if self._needs_encoding(t, ids)]
            missing = [] if ahead is None else ahead.missing(coming)
            if ahead is not None and frame_index in coming:
                ahead.demand(frame_index)
            # with nothing else to do, one object is faster on all threads than on a worker's share
            idle = len(present) == 1 and not missing and (idle or len(near) == TEAM_FRAMES)
            soon = [t for t, _ in near[: 1 + LOOK_AHEAD_FRAMES] if t in missing]
            with workers.team() if idle and workers is not None else contextlib.nullcontext():
                share = None if idle else workers
                tracked = self._track(frame_index, present, sweep.reverse, share, ahead, soon)
            for object_id in present:
                memory = self._objects.get(object_id)
                if memory is not None and memory.keyframes:
                    # what the caller did between two objects of the frame counts
                    keyframe = memory.keyframes.get(frame_index)
                    result = tracked.get(object_id) if keyframe is None else keyframe.result
                    if result is not None:
                        yield result

    def _needs_encoding(self, frame_index: int, object_ids: Collection[int]) -> bool:
        memories = [self._objects[k] for k in object_ids if k in self._objects]
        return any(memory.keyframes and frame_index not in memory.keyframes for memory in memories)

    def _track(
        self,
        frame_index: int,
        object_ids: Collection[int],
        reverse: bool,
        workers: Workers | None,
        ahead: LookAhead | None,
        missing: Collection[int],
    ) -> dict[int, MaskResult]:
        """Masks of those objects that have no keyframe here, each by a worker of its own.

        The workers get ``missing`` frames to encode after the objects, for which the next frame waits.
        """
        steps: list[Step] = []
        given: dict[int, Rle] = {}
        with self._tracker.tracking():
            for object_id in object_ids:
                memory = self._objects.get(object_id)
                if memory is None or not memory.keyframes:
                    continue
                if frame_index in memory.keyframes:
                    memory.tracked[frame_index] = -1 if reverse else 1
                    given[object_id] = memory.keyframes[frame_index].result.rle
                else:
                    steps.append(self._tracker.prepare(frame_index, object_id, memory, reverse))
        if self._rivalry and len(steps) > 1:
            decoded = _each(self._decode, steps, workers, ahead, missing)
            shown, outcomes = self._compete(steps, decoded, workers)
        else:
            shown, outcomes = self._track_apart(steps, workers, ahead, missing)
        for step, outcome in zip(steps, outcomes, strict=True):
            memory = self._objects[step.object_id]
            memory.remember(frame_index, outcome.entry, outcome.logits_b1hw, reverse)
        results = {result.object_id: result for result in shown}
        if self._rivalry and given:
            self._nesting.look(given, {k: result.rle for k, result in results.items()})
        return results

    def _track_apart(
        self,
        steps: Sequence[Step],
        workers: Workers | None,
        ahead: LookAhead | None,
        missing: Collection[int],
    ) -> tuple[list[MaskResult], list[Tracked]]:
        """Objects that do not mind each other; the masks to show are made while the workers go on."""
        found: list[Future[Decoded]] = [Future() for _ in steps]
        tasks = list(zip(steps, found, strict=True))
        outcomes = _begin_each(partial(self._compute, workers), tasks, workers, ahead, missing)
        shown = [self._tracker.show(step, one.result()) for step, one in zip(steps, found, strict=True)]
        return shown, [outcome.result() for outcome in outcomes]

    def _compete(
        self, steps: Sequence[Step], decoded: Sequence[Decoded], workers: Workers | None
    ) -> tuple[list[MaskResult], list[Tracked]]:
        """Settle which pixels of a frame belong to which object, then keep the masks."""
        settled = settle([step.object_id for step in steps], decoded, self._nesting)
        calls = [partial(self._finish, step, one, workers) for step, one in zip(steps, settled, strict=True)]
        both = [call() for call in calls] if workers is None else workers.share(calls)
        return [shown for shown, _ in both], [outcome for _, outcome in both]

    def _nesting_of(self, object_ids: Collection[int]) -> Nesting:
        """Which of the objects may overlap, by their last keyframes and what the project knows about them."""
        memories = {k: self._objects[k] for k in object_ids if k in self._objects}
        shown = {
            k: {t: key.result.rle for t, key in list(memory.keyframes.items())[-NESTING_KEYFRAMES:]}
            for k, memory in memories.items()
        }
        return Nesting.of(shown, self._recall or (lambda _t, _k: None))

    def _decode(self, step: Step) -> Decoded:
        with self._tracker.tracking():
            return self._tracker.decode(step)

    def _finish(self, step: Step, decoded: Decoded, workers: Workers | None) -> tuple[MaskResult, Tracked]:
        with self._tracker.tracking():
            shown = self._tracker.show(step, decoded, has_rivals=True)
            return shown, self._tracker.finish(step, decoded, workers)

    def _compute(self, workers: Workers | None, task: tuple[Step, Future[Decoded]]) -> Tracked:
        """Track an object; its mask is handed out as soon as it is there."""
        step, found = task
        with self._tracker.tracking():
            try:
                decoded = self._tracker.decode(step)
            except BaseException as error:
                found.set_exception(error)  # else who waits for it would wait forever
                raise
            found.set_result(decoded)
            return self._tracker.finish(step, decoded, workers)

    def _begin(self, object_id: int, start: int, reverse: bool) -> None:
        """Prepare an object's memories for a pass from ``start``."""
        memory = self._objects.get(object_id)
        if memory is None:
            return
        memory.begin_pass(start)
        if self._recall is not None and memory.keyframes:
            with self._tracker.computing():
                self._tracker.prime(start, object_id, memory, reverse, self._recall)


def _each(
    call: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    workers: Workers | None,
    ahead: LookAhead | None,
    missing: Collection[int],
) -> list[_Result]:
    """Have a call made for every task, by the workers if there are any; they encode ``missing`` after it."""
    return [done.result() for done in _begin_each(call, tasks, workers, ahead, missing)]


def _begin_each(
    call: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    workers: Workers | None,
    ahead: LookAhead | None,
    missing: Collection[int],
) -> list[Future[_Result]]:
    """The same without waiting for the workers; without workers all is done at the end."""
    if workers is None:
        return [_done(call(task)) for task in tasks]
    running = [workers.submit(call, task) for task in tasks]
    if ahead is not None:
        ahead.begin(missing)
    return running


def _done(value: _Result) -> Future[_Result]:
    future: Future[_Result] = Future()
    future.set_result(value)
    return future
