"""The engine's thread's own state: model, frames, session, and how the session is kept equal to the project.

The project is the truth. Every request brings the *conditions* that hold at that moment (one per keyframe of
an object); the session is brought to them before the work starts, so opening, undo and a change of the model
need no special case. Nothing here may be touched from another thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.backend import Backend, LoadedModel, Recall, TrackingSession
from app.engine.mutual_kv_comparison import compare_mutual_kv
from app.engine.plan import TrackPlan
from app.engine.records import EngineError, MutualKvChoice, MutualKvComparison, MutualKvFacts
from app.engine.repair import Settling
from qcore.masks import Rle
from qcore.tracking.types import MaskResult, Prompt

log = logging.getLogger(__name__)

Key = tuple[int, int]
"""(object id, frame index)."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What is known for certain about one object on one frame.

    The mask the user saw conditions the tracker when there is one, so that a rebuilt session behaves like the
    one in which the mask was made; a prompt alone does when its mask was never computed.
    """

    frame_index: int
    object_id: int
    prompt: Prompt | None = None
    mask: Rle | None = None

    def as_prompt(self) -> Prompt | None:
        """The prompt a fresh session is given for it."""
        if self.mask is not None:
            return Prompt(self.frame_index, self.object_id, mask=self.mask)
        return self.prompt


Conditions = Mapping[Key, Condition]


@dataclass(slots=True)
class Timing:
    """Running means of what frames cost, for estimates."""

    encode_s: float | None = None
    track_s: float | None = None
    """One object on one encoded frame."""
    _encodes: int = 0

    def note_encode(self, seconds: float) -> None:
        """One frame was encoded; the first one also warmed the model up and counts only until the second."""
        self.encode_s = seconds if self._encodes < 2 else _mean(self.encode_s, seconds)
        self._encodes += 1

    def note_frame(self, seconds: float, objects: int, was_encoded: bool) -> None:
        """Some objects were tracked on one frame, which had to be encoded first or not."""
        if was_encoded:
            self.track_s = _mean(self.track_s, seconds / objects)
        elif self.track_s is not None:
            self.note_encode(max(0.0, seconds - objects * self.track_s))
        elif self.encode_s is not None and seconds > self.encode_s:
            self.track_s = (seconds - self.encode_s) / objects


def _with_anchors(conditions: Conditions, anchors: Mapping[Key, Rle]) -> dict[Key, Condition]:
    """The conditions, and masks that are started from without being keyframes."""
    starts = dict(conditions)
    for (object_id, frame), rle in anchors.items():
        starts.setdefault((object_id, frame), Condition(frame, object_id, mask=rle))
    return starts


def _mean(old: float | None, new: float) -> float:
    return new if old is None else 0.8 * old + 0.2 * new


class Workbench:
    """Model, frames and session with the operations the engine's jobs are made of."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._loaded: LoadedModel | None = None
        self._frames: Any = None
        self._session: TrackingSession | None = None
        self._applied: dict[Key, tuple[Prompt, Rle]] = {}
        self._prior: tuple[Key, Rle | None] | None = None
        """While a click is answered: what it refines."""
        self._track_recall: Recall | None = None
        self._mutual_kv = MutualKvChoice()
        self.timing = Timing()

    @property
    def can_track(self) -> bool:
        """True when there is a model and a video."""
        return self._session is not None

    def load_model(self, model_id: str, device: str) -> LoadedModel:
        """Replace the model; on failure the old one stays."""
        loaded = self._backend.load_model(model_id, device)
        previous, self._loaded = self._loaded, loaded
        self.timing = Timing()
        self._renew_session()
        if previous is not None:
            self._backend.release_memory(previous)
        return loaded

    def set_frames(self, frames: Any) -> None:
        """Take over a frame source (or None); the previous one is closed."""
        self._session = None
        self._track_recall = None  # it belongs to the previous project
        self._applied.clear()
        if self._frames is not None:
            self._frames.close()
        self._frames = frames
        self._renew_session()

    def close(self) -> None:
        """Release everything."""
        self._session = None
        if self._frames is not None:
            self._frames.close()
        self._frames = None
        self._loaded = None

    def _renew_session(self) -> None:
        self._session = None
        self._applied.clear()
        if self._loaded is not None and self._frames is not None:
            self._session = self._backend.open_session(self._loaded, self._frames, self._recall)
            self._backend.set_mutual_kv(self._loaded, self._session, self._mutual_kv)

    def _need_session(self) -> TrackingSession:
        if self._loaded is None:
            raise EngineError("There is no model yet: choose one under Tools, Model.")
        if self._session is None:
            raise EngineError("There is no video yet: open one first.")
        return self._session

    def set_mutual_kv(self, choice: MutualKvChoice) -> None:
        """Change how memory frames share keys and values, also between two frames of a propagation."""
        self._mutual_kv = choice
        if self._session is not None and self._loaded is not None:
            self._backend.set_mutual_kv(self._loaded, self._session, choice)

    def mutual_kv_facts(self) -> MutualKvFacts | None:
        """What sharing did since it was last changed."""
        return None if self._session is None else self._backend.mutual_kv_facts(self._session)

    # ---- prompts ---------------------------------------------------------------------------------------

    def click(
        self, prompt: Prompt, conditions: Conditions, prior: Rle | None, by_hand: bool = False
    ) -> MaskResult:
        """Answer a prompt.

        ``prior`` is the mask the object has on that frame now, refined by the prompt; ``by_hand`` says that
        it was painted or imported, so that the session's own idea of the frame is out of date.
        """
        session = self._need_session()
        key = (prompt.object_id, prompt.frame_index)
        self._bring({k: c for k, c in conditions.items() if k != key}, {prompt.object_id}, leave=key)
        if by_hand and key in self._applied:
            session.clear_prompts(prompt.object_id, prompt.frame_index)
            del self._applied[key]
        self._prior = (key, prior)
        try:
            result = session.set_prompt(prompt)
        finally:
            self._prior = None
        self._applied[key] = (prompt, result.rle)
        return result

    def preview(self, prompt: Prompt) -> MaskResult:
        """The mask a prompt would give."""
        return self._need_session().preview(prompt)

    def _recall(self, frame_index: int, object_id: int) -> Rle | None:
        if self._prior is not None and self._prior[0] == (object_id, frame_index):
            return self._prior[1]
        if self._prior is None and self._track_recall is not None:
            return self._track_recall(frame_index, object_id)
        return None

    def _bring(self, wanted: Conditions, object_ids: set[int], leave: Key | None = None) -> None:
        """Make the session's prompts of some objects agree with the project's conditions.

        Masks cost the session nothing until a frame is tracked, so all of them are given.
        """
        session = self._need_session()
        for key in [k for k in self._applied if k[0] in object_ids and k != leave]:
            if not self._agrees(key, wanted.get(key)):
                session.clear_prompts(key[0], key[1])
                del self._applied[key]
        for key, condition in wanted.items():
            if key[0] not in object_ids or key in self._applied:
                continue
            prompt = condition.as_prompt()
            if prompt is None:
                continue
            result = session.set_prompt(prompt)
            self._applied[key] = (prompt, condition.mask if condition.mask is not None else result.rle)

    def _agrees(self, key: Key, condition: Condition | None) -> bool:
        if condition is None:
            return False
        prompt, rle = self._applied[key]
        return rle == condition.mask if condition.mask is not None else prompt == condition.prompt

    # ---- tracking --------------------------------------------------------------------------------------

    def track(
        self,
        plan: TrackPlan,
        conditions: Conditions,
        anchors: Mapping[Key, Rle],
        recall: Recall | None = None,
    ) -> Generator[MaskResult | None]:
        """Do a plan step by step; None is yielded after a step that made no mask (preparation).

        ``anchors`` are masks to start from on frames that are not keyframes. ``recall`` gives the stored
        masks; a repair compares its own with them before it yields, so that replacing them then is no race.
        """
        session = self._need_session()
        starts = _with_anchors(conditions, anchors)
        self._track_recall = recall
        self._bring(starts, set(plan.object_ids))
        yield None
        for run in plan.runs:
            encoded = session.encoded_frames().copy()
            began = time.perf_counter()
            steps = session.propagate(run.start, run.stop, run.direction, run.object_ids, run.starts)
            settling = Settling(run, recall)
            shown, spent_s, objects = -1, 0.0, 0
            try:
                for result in steps:
                    frame = result.frame_index
                    if frame != shown and objects:
                        self.timing.note_frame(spent_s, objects, bool(encoded[shown]))
                        spent_s, objects = 0.0, 0
                    # the objects of a frame are tracked side by side: the first result takes the time of all
                    shown, spent_s, objects = frame, spent_s + time.perf_counter() - began, objects + 1
                    settling.note(result)
                    yield result
                    if settling.is_reached(frame):
                        break
                    began = time.perf_counter()
            finally:
                close = getattr(steps, "close", None)
                if close is not None:
                    close()

    def compare_mutual_kv(
        self, plan: TrackPlan, conditions: Conditions, anchors: Mapping[Key, Rle]
    ) -> Generator[tuple[int, int], None, MutualKvComparison]:
        """Track a plan without and with sharing, beside the session; see `compare_mutual_kv`."""
        self._need_session()
        assert self._loaded is not None
        starts = _with_anchors(conditions, anchors)
        prompts = [prompt for prompt in (c.as_prompt() for c in starts.values()) if prompt is not None]
        choice = MutualKvChoice(True, self._mutual_kv.epsilon)
        return compare_mutual_kv(self._backend, self._loaded, self._frames, plan, prompts, choice)

    # ---- idle ------------------------------------------------------------------------------------------

    def encode(self, frame_index: int) -> bool:
        """Encode a frame unless it is; False when there was nothing to do."""
        session = self._session
        if session is None or session.encoded_frames()[frame_index]:
            return False
        began = time.perf_counter()
        session.encode(frame_index)
        self.timing.note_encode(time.perf_counter() - began)
        return True

    def encoded_frames(self) -> npt.NDArray[np.bool_] | None:
        """A copy of the session's flags; None without a session."""
        return None if self._session is None else self._session.encoded_frames().copy()
