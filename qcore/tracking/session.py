"""`VideoSession`: streaming video segmentation over `SAM2Base`, one object at a time, any object at any time.

What upstream's predictor gets wrong is settled by construction here. A prompted frame always conditions
and is never overwritten (corrections survive a second propagation). Memories that told the old story are
dropped when a frame is corrected. Memory use does not grow with the video: frames are read when they are
needed, only memories that can still be attended to are kept, masks leave as RLE. Encoded frames are
cached within a budget. A prompt never changes frames behind it in the direction of travel.

A session is disposable: the project holds prompts and masks, and a new session is built from them with
`VideoSession.set_prompt` and `VideoSession.protect`, at no cost until a frame is tracked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_base import SAM2Base

from qcore.masks import Rle
from qcore.models.loading import autocast_of
from qcore.runtime.recorded_calls import trials
from qcore.tracking.aids import NO_AIDS, Aids
from qcore.tracking.conditioning import Conditioner
from qcore.tracking.decoding import Decoded
from qcore.tracking.encoder import LOOK_AHEAD_FRAMES, FrameEncoder, LookAhead
from qcore.tracking.errors import TrackingError
from qcore.tracking.feature_cache import DEFAULT_FEATURE_CACHE_BYTES, FeatureCache
from qcore.tracking.feature_store import FeatureStore
from qcore.tracking.memory_bank import ClickHistory, Keyframe, ObjectMemory
from qcore.tracking.memory_plan import ConditioningRule
from qcore.tracking.mutual_kv import MutualKvSettings
from qcore.tracking.mutual_kv_live import MutualKv, MutualKvStatistics
from qcore.tracking.preprocess import Frames, check_frame, check_mask, check_prompt
from qcore.tracking.prompting import PromptDecoder
from qcore.tracking.rivalry import NESTING_KEYFRAMES, Nesting, settle
from qcore.tracking.sweeps import Sweep, plan_sweeps
from qcore.tracking.tracker import ObjectTracker, Step, Tracked
from qcore.tracking.types import Direction, MaskResult, Prompt, Recall
from qcore.tracking.workers import Workers

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class VideoSession:
    """Prompts in, masks out, for one video and one model. Used by one thread at a time.

    Args:
        model: a `SAM2Base` in eval mode, from `qcore.models.load_model`.
        source: the video.
        feature_cache_bytes: budget for encoded frames.
        mutual_kv: how memory frames share keys and values; None for exact attention.
        feature_dtype: dtype to keep encoded frames in (float16 halves them); None keeps them exactly.
        feature_store: keeps encoded frames on disk for later sessions too; None for not.
        conditioning: which prompted frames a frame may attend to.
        recall: asks the project for masks of earlier work. A click on a frame that was tracked in an earlier
            session then refines its mask instead of starting anew, and a pass that starts between keyframes
            remembers the masks behind its start.
        aids: what to do beyond SAM 2 for better masks than a small model's own; `Aids.for_model` chooses.
    """

    def __init__(
        self,
        model: SAM2Base,
        source: Frames,
        *,
        feature_cache_bytes: int = DEFAULT_FEATURE_CACHE_BYTES,
        mutual_kv: MutualKvSettings | None = None,
        feature_dtype: torch.dtype | None = None,
        feature_store: FeatureStore | None = None,
        conditioning: ConditioningRule | None = None,
        recall: Recall | None = None,
        aids: Aids = NO_AIDS,
    ) -> None:
        self._frame_count = len(source)
        self._size_hw = source.size
        self._encoder = FrameEncoder(
            model, source, FeatureCache(feature_cache_bytes), feature_dtype, feature_store, aids
        )
        self._mutual_kv = MutualKv(mutual_kv, model.num_maskmem)
        self._tracker = ObjectTracker(
            model,
            self._encoder,
            Conditioner(model, self._mutual_kv),
            conditioning or ConditioningRule(),
            self._frame_count,
            self._size_hw,
        )
        self._prompts = PromptDecoder(self._tracker, recall, aids.close_look)
        self._objects: dict[int, ObjectMemory] = {}
        self._rivalry = aids.rivalry
        self._nesting = Nesting()

    # ---- state of the session

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of the objects with at least one prompt, in the order they were first prompted."""
        return tuple(self._objects)

    def keyframes(self, object_id: int) -> tuple[int, ...]:
        """Prompted and protected frames of an object, ascending; empty for an unknown object."""
        memory = self._objects.get(object_id)
        return tuple(sorted(memory.keyframes)) if memory else ()

    def encoded_frames(self) -> npt.NDArray[np.bool_]:
        """Which frames are encoded and cached: bool (frame count,)."""
        encoded = np.zeros(self._frame_count, np.bool_)
        encoded[list(self._encoder.cache)] = True
        return encoded

    @property
    def feature_cache(self) -> FeatureCache:
        """The cache of encoded frames; its budget may be changed at any time."""
        return self._encoder.cache

    @property
    def mutual_kv(self) -> MutualKvSettings | None:
        """How memory frames share keys and values; may be changed between frames."""
        return self._mutual_kv.settings

    @mutual_kv.setter
    def mutual_kv(self, settings: MutualKvSettings | None) -> None:
        self._mutual_kv.settings = settings

    @property
    def statistics(self) -> MutualKvStatistics:
        """Memory frames, groups, keys and time of memory attention since `reset_statistics`, live."""
        return self._mutual_kv.statistics

    def reset_statistics(self) -> None:
        """Start counting anew."""
        self._mutual_kv.reset_statistics()

    def state_bytes(self) -> int:
        """Bytes of tensors held for all objects, without the feature cache."""
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for memory in self._objects.values()
            for tensor in memory.tensors()
        }
        return sum(storages.values())

    def encode(self, frame_index: int) -> None:
        """Make sure a frame is encoded, so that a later click on it is instant."""
        check_frame(frame_index, self._frame_count)
        with self._computing():
            self._encoder[frame_index]

    # ---- prompts

    def set_prompt(self, prompt: Prompt) -> MaskResult:
        """Replace everything said about one object on one frame, and return its mask there.

        The frame becomes a keyframe of the object. A given mask is returned exactly as it is and costs
        nothing now. Clicks that continue the previous prompt of the frame refine its mask; so do clicks
        on a frame that was tracked before. Taking a click back (the shorter prompt again) restores the
        earlier mask.

        Raises:
            TrackingError: the prompt is empty or does not fit the video.
        """
        check_prompt(prompt, self._frame_count, self._size_hw)
        frame_index, object_id = prompt.frame_index, prompt.object_id
        memory = self._objects.get(object_id)
        if prompt.mask is not None:
            keyframe = self._given_keyframe(frame_index, object_id, prompt.mask, prompt)
        else:
            with self._computing():
                keyframe = self._prompts.keyframe(prompt, memory)
        memory = self._memory_of(object_id)
        self._record_click(memory, prompt, keyframe)
        memory.set_keyframe(frame_index, keyframe)
        return keyframe.result

    def add_points(
        self,
        frame_index: int,
        object_id: int,
        points_xy: Collection[tuple[float, float]],
        labels: Collection[int],
    ) -> MaskResult:
        """Add clicks (pixels of the video; 1 = object, 0 = not) to what was said about the frame."""
        before = self._prompt_at(frame_index, object_id)
        return self.set_prompt(
            Prompt(
                frame_index,
                object_id,
                before.points_xy + tuple(points_xy),
                before.labels + tuple(labels),
                before.box_xyxy,
            )
        )

    def add_box(
        self, frame_index: int, object_id: int, box_xyxy: tuple[float, float, float, float]
    ) -> MaskResult:
        """Set the box (pixels of the video) of an object on a frame; its clicks stay."""
        before = self._prompt_at(frame_index, object_id)
        return self.set_prompt(Prompt(frame_index, object_id, before.points_xy, before.labels, box_xyxy))

    def add_mask(self, frame_index: int, object_id: int, rle: Rle) -> MaskResult:
        """Give the object's mask on a frame; clicks and box of the frame are replaced."""
        return self.set_prompt(Prompt(frame_index, object_id, mask=rle))

    def protect(self, frame_index: int, object_id: int, rle: Rle) -> MaskResult:
        """Make a frame with an accepted mask condition the object, exactly as it is, prompt or none."""
        check_frame(frame_index, self._frame_count)
        check_mask(rle, self._size_hw)
        memory = self._memory_of(object_id)
        keyframe = self._given_keyframe(frame_index, object_id, rle, None)
        memory.set_keyframe(frame_index, keyframe)
        return keyframe.result

    def clear_prompts(self, object_id: int, frame_index: int | None = None) -> None:
        """Forget what was said about an object on one frame, or on all frames; unknown ones are ignored."""
        memory = self._objects.get(object_id)
        if memory is None:
            return
        for t in list(memory.keyframes) if frame_index is None else [frame_index]:
            memory.drop_keyframe(t)
        if not memory.keyframes:
            del self._objects[object_id]

    def remove_object(self, object_id: int) -> None:
        """Forget an object; the others are not touched. An unknown id is ignored."""
        self._objects.pop(object_id, None)

    def preview(self, prompt: Prompt) -> MaskResult:
        """The mask `set_prompt` would return, without changing anything (for hovering).

        A first click is not looked at closely, see `close_look.py`: its own mask may be better.
        """
        check_prompt(prompt, self._frame_count, self._size_hw)
        if prompt.mask is not None:
            return self._given_keyframe(prompt.frame_index, prompt.object_id, prompt.mask, prompt).result
        with self._computing():
            memory = self._objects.get(prompt.object_id)
            return self._prompts.keyframe(prompt, memory, is_hovering=True).result

    # ---- propagation

    def propagate(
        self,
        start: int | None = None,
        stop: int | None = None,
        direction: Direction = Direction.FORWARD,
        objects: Collection[int] | None = None,
        starts: Mapping[int, int] | None = None,
    ) -> Iterator[MaskResult]:
        """Track objects over the frames from ``start`` to ``stop``, both included.

        Keyframes are yielded as they are and never changed. Close the iterator to cancel: what was yielded
        stays valid, and the session can go on from there.

        Args:
            start: first frame in the direction of travel; None takes the objects' first keyframe (forward),
                their last (backward), or the whole video (both).
            stop: last frame in the direction of travel; None goes to the end of the video.
            direction: forward, backward, or both: outward from the keyframes, every frame once.
            objects: ids to track; None for all.
            starts: frames at which objects join on the way (forward or backward only); the others do at
                ``start``, or at their first keyframe after it. Objects that share a walk share the encoder.

        Raises:
            TrackingError: an object without prompts, nothing to track, or frames outside the video.
        """
        ids = list(self._objects) if objects is None else list(objects)
        if not ids:
            raise TrackingError("Nothing to track: click, box or paint an object first.")
        for object_id in ids:
            if object_id not in self._objects:
                raise TrackingError(f"Object {object_id} has no prompt to track from.")
        low, high = self._span(start, stop, direction, ids)
        keyframes = {object_id: tuple(self._objects[object_id].keyframes) for object_id in ids}
        return self._run(plan_sweeps(low, high, direction, keyframes, starts))

    def _run(self, sweeps: Collection[Sweep]) -> Iterator[MaskResult]:
        self._prompts.forget_features()
        together = max((len(sweep.frames_of) for sweep in sweeps), default=0)
        if self._rivalry and together > 1:
            self._nesting = self._nesting_of({k for sweep in sweeps for k in sweep.frames_of})
        with contextlib.ExitStack() as stack:
            workers = Workers.for_tasks(together + 1, self._tracker.model.device)
            if workers is not None:
                stack.enter_context(workers)
            ahead = stack.enter_context(self._encoder.look_ahead(workers, self._tracking))
            for sweep in sweeps:
                yield from self._walk(sweep, workers, ahead)

    def _walk(self, sweep: Sweep, workers: Workers | None, ahead: LookAhead | None) -> Iterator[MaskResult]:
        for object_id in sweep.frames_of:
            self._begin(object_id, sweep.start_of(object_id), sweep.reverse)
        walk = list(sweep.frames())
        for position, (frame_index, present) in enumerate(walk):
            near = walk[position : position + 1 + LOOK_AHEAD_FRAMES]
            coming = [t for t, ids in near if self._needs_encoding(t, ids)]
            missing = [] if ahead is None else ahead.missing(coming)
            if ahead is not None and frame_index in coming:
                ahead.demand(frame_index)
            # with nothing else to do, one object is faster on all threads than on a worker's share
            idle = len(present) == 1 and not missing
            with workers.team() if idle and workers is not None else contextlib.nullcontext():
                share = None if idle else workers
                tracked = self._track(frame_index, present, sweep.reverse, share, ahead, missing)
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
        with self._tracking():
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
        outcomes = _begin_each(self._compute, list(zip(steps, found, strict=True)), workers, ahead, missing)
        shown = [self._tracker.show(step, one.result()) for step, one in zip(steps, found, strict=True)]
        return shown, [outcome.result() for outcome in outcomes]

    def _compete(
        self, steps: Sequence[Step], decoded: Sequence[Decoded], workers: Workers | None
    ) -> tuple[list[MaskResult], list[Tracked]]:
        """Settle which pixels of a frame belong to which object, then keep the masks."""
        settled = settle([step.object_id for step in steps], decoded, self._nesting)
        calls = [partial(self._finish, step, one) for step, one in zip(steps, settled, strict=True)]
        both = [call() for call in calls] if workers is None else workers.share(calls)
        return [shown for shown, _ in both], [outcome for _, outcome in both]

    def _nesting_of(self, object_ids: Collection[int]) -> Nesting:
        """Which of the objects may overlap, by their last keyframes and what the project knows about them."""
        memories = {k: self._objects[k] for k in object_ids if k in self._objects}
        shown = {
            k: {t: key.result.rle for t, key in list(memory.keyframes.items())[-NESTING_KEYFRAMES:]}
            for k, memory in memories.items()
        }
        recall = self._prompts.recall
        return Nesting.of(shown, (lambda _t, _k: None) if recall is None else recall)

    def _decode(self, step: Step) -> Decoded:
        with self._tracking():
            return self._tracker.decode(step)

    def _finish(self, step: Step, decoded: Decoded) -> tuple[MaskResult, Tracked]:
        with self._tracking():
            return self._tracker.show(step, decoded), self._tracker.finish(step, decoded)

    def _compute(self, task: tuple[Step, Future[Decoded]]) -> Tracked:
        """Track an object; its mask is handed out as soon as it is there."""
        step, found = task
        with self._tracking():
            try:
                decoded = self._tracker.decode(step)
            except BaseException as error:
                found.set_exception(error)  # else who waits for it would wait forever
                raise
            found.set_result(decoded)
            return self._tracker.finish(step, decoded)

    def _begin(self, object_id: int, start: int, reverse: bool) -> None:
        """Prepare an object's memories for a pass from ``start``."""
        memory = self._objects.get(object_id)
        if memory is None:
            return
        memory.begin_pass(start)
        if self._prompts.recall is not None and memory.keyframes:
            with self._computing():
                self._tracker.prime(start, object_id, memory, reverse, self._prompts.recall)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, and autocast for half-precision models; never around a yield to the caller."""
        with torch.no_grad(), autocast_of(self._tracker.model):
            yield

    @contextlib.contextmanager
    def _tracking(self) -> Iterator[None]:
        """The same for what comes again on every frame."""
        with self._computing(), trials():
            yield

    def _span(
        self, start: int | None, stop: int | None, direction: Direction, ids: list[int]
    ) -> tuple[int, int]:
        last = self._frame_count - 1
        keys = [t for object_id in ids for t in self._objects[object_id].keyframes]
        if direction is Direction.FORWARD:
            start, stop = min(keys) if start is None else start, last if stop is None else stop
        elif direction is Direction.BACKWARD:
            start, stop = max(keys) if start is None else start, 0 if stop is None else stop
        else:
            start, stop = 0 if start is None else start, last if stop is None else stop
        check_frame(start, self._frame_count)
        check_frame(stop, self._frame_count)
        return min(start, stop), max(start, stop)

    def _record_click(self, memory: ObjectMemory, prompt: Prompt, keyframe: Keyframe) -> None:
        if keyframe.logits_b1hw is None:
            return
        if memory.clicks is None or memory.clicks.frame_index != prompt.frame_index:
            memory.clicks = ClickHistory(prompt.frame_index)
        memory.clicks.record(prompt, keyframe.logits_b1hw)

    def _given_keyframe(self, frame_index: int, object_id: int, rle: Rle, prompt: Prompt | None) -> Keyframe:
        presence = 0.0 if rle.is_empty else 1.0
        return Keyframe(MaskResult(frame_index, object_id, rle, 1.0, presence), prompt, rle)

    def _prompt_at(self, frame_index: int, object_id: int) -> Prompt:
        """What was said about the frame so far, without a mask (clicks replace it)."""
        memory = self._objects.get(object_id)
        keyframe = memory.keyframes.get(frame_index) if memory is not None else None
        prompt = keyframe.prompt if keyframe is not None else None
        if prompt is None or prompt.mask is not None:
            return Prompt(frame_index, object_id)
        return prompt

    def _memory_of(self, object_id: int) -> ObjectMemory:
        memory = self._objects.get(object_id)
        if memory is None:
            memory = self._objects[object_id] = ObjectMemory(self._tracker.geometry, self._frame_count)
        return memory


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
