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

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_base import SAM2Base

from qcore.masks import Rle
from qcore.tracking.aids import NO_AIDS, Aids
from qcore.tracking.conditioning import Conditioner
from qcore.tracking.encoder import FrameEncoder
from qcore.tracking.errors import TrackingError
from qcore.tracking.feature_cache import DEFAULT_FEATURE_CACHE_BYTES, FeatureCache
from qcore.tracking.feature_store import FeatureStore
from qcore.tracking.memory_bank import ClickHistory, Keyframe, ObjectMemory
from qcore.tracking.memory_plan import ConditioningRule
from qcore.tracking.mutual_kv import MutualKvSettings
from qcore.tracking.mutual_kv_live import MutualKv, MutualKvStatistics
from qcore.tracking.preprocess import Frames, check_frame, check_mask, check_prompt
from qcore.tracking.prompting import PromptDecoder
from qcore.tracking.sweeps import Sweep, plan_sweeps
from qcore.tracking.tracker import ObjectTracker
from qcore.tracking.types import Direction, MaskResult, Prompt, Recall
from qcore.tracking.walk import Walk

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
        with self._tracker.computing():
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
            with self._tracker.computing():
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
        with self._tracker.computing():
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
        yield from Walk(self._tracker, self._objects, self._prompts.recall).results(sweeps)

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
