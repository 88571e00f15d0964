"""Tracks one object on one frame: plans which memories to attend to, encodes what is missing, decodes.

Stateless but for the model, the encoded frames and the object memories it is handed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from sam2.modeling.sam2_base import SAM2Base

from qcore import masks
from qcore.models.doubt_head import doubt_head_of
from qcore.models.loading import autocast_of
from qcore.runtime.recorded_calls import trials
from qcore.tracking.appearance import Appearance, mean_evidence, observe
from qcore.tracking.conditioning import Conditioner, MemoryTokens
from qcore.tracking.decoding import (
    Decoded,
    decode,
    decode_given_mask,
    encode_memory,
    mask_result,
    upsample_logits,
)
from qcore.tracking.doubt import is_back, trust
from qcore.tracking.edges import Guide
from qcore.tracking.encoder import FrameEncoder
from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.memory_bank import Keyframe, MemoryEntry, ObjectMemory
from qcore.tracking.memory_plan import ConditioningRule, MemoryGeometry, MemoryPlan, plan_memory
from qcore.tracking.preprocess import mask_input
from qcore.tracking.silhouette import Silhouette, silhouette_of
from qcore.tracking.types import MaskResult, Recall
from qcore.tracking.workers import Later, Workers

SEARCH_EVERY = 4
"""One frame in so many is searched for objects that are out of view: it costs as much as
tracking them once more."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Step:
    """One object on one frame, ready to be computed: everything that depends on the session is in here."""

    frame_index: int
    object_id: int
    frame: EncodedFrame
    tokens: MemoryTokens | None
    """None where there is no memory to attend to."""
    self_attended_bnc: torch.Tensor | None
    """What all objects of the frame share of memory attention, see `FrameEncoder.self_attended`."""
    looks_nc: torch.Tensor | None
    """What a model of looks sees of the frame, see `FrameEncoder.looks`."""
    appearance: Appearance | None
    """What is known of the object's looks; None where nothing is, or nobody asks for it."""
    last_seen: Silhouette | None
    """The object's last mask before; None where there was none, or nobody asks for it."""
    guide: Guide | None
    """What outlines follow, see `FrameEncoder.guide`."""
    search_tokens: MemoryTokens | None
    """The memories of the frames that show the object, where it is searched for: see `SEARCH_EVERY`."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """What a step leaves for the frames to come."""

    entry: MemoryEntry
    logits_b1hw: torch.Tensor


class ObjectTracker:
    """Model, encoded frames and rules, shared by all objects of a session."""

    def __init__(
        self,
        model: SAM2Base,
        encoder: FrameEncoder,
        conditioner: Conditioner,
        rule: ConditioningRule,
        frame_count: int,
        size_hw: tuple[int, int],
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.conditioner = conditioner
        self.rule = rule
        self.geometry = MemoryGeometry.of(model)
        self.frame_count = frame_count
        self.size_hw = size_hw

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients, and autocast for half-precision models; never around a yield to a caller."""
        with torch.no_grad(), autocast_of(self.model):
            yield

    @contextlib.contextmanager
    def tracking(self) -> Iterator[None]:
        """The same for what comes again on every frame."""
        with self.computing(), trials():
            yield

    def prepare(self, frame_index: int, object_id: int, memory: ObjectMemory, reverse: bool) -> Step:
        """Gather what tracking an object on a frame takes; for one thread, in the order of frames."""
        plan = self.plan(frame_index, memory, reverse)
        # first what is to be remembered: meanwhile a worker may be encoding the frame
        entries = self._entries(plan, memory)
        frame = self.encoder[frame_index]
        tokens = self._tokens(frame, plan, entries)
        attended_bnc = None if tokens is None else self.encoder.self_attended(frame_index, frame)
        appearance = self._appearance(frame_index, plan, memory, entries)
        looks_nc = None if appearance is None else self.encoder.looks(frame_index, frame)
        return Step(
            frame_index,
            object_id,
            frame,
            tokens,
            attended_bnc,
            looks_nc,
            appearance,
            self._last_seen(frame_index, plan, entries),
            self.encoder.guide(frame_index, frame),
            self._search_tokens(frame, frame_index, memory, reverse),
        )

    def decode(self, step: Step) -> Decoded:
        """The object's mask. This and what follows changes nothing, and several threads may do it."""
        decoded = self._decode_by(step, step.tokens)
        if step.search_tokens is None or decoded.is_present:
            return decoded
        found = self._decode_by(step, step.search_tokens)
        is_found = is_back(self.model, found, step.looks_nc, step.appearance, step.last_seen)
        return found if is_found else decoded

    def _decode_by(self, step: Step, tokens: MemoryTokens | None) -> Decoded:
        position_1chw = self.encoder.position_1chw
        if tokens is None:
            features_bchw = self.conditioner.without_memory(step.frame, position_1chw)
        else:
            features_bchw = self.conditioner.with_memory(
                step.frame, position_1chw, tokens, step.self_attended_bnc
            )
        return decode(self.model, features_bchw, step.frame, None)

    def finish(self, step: Step, decoded: Decoded, workers: Workers | None) -> Tracked:
        """What is kept of a mask; the workers learn from it what the next frame needs last."""
        remembered, evidence = decoded, None
        if step.appearance is not None:
            evidence = step.appearance.tracked
            if decoded.is_present:
                assert step.looks_nc is not None
                logits_b1ss = step.appearance.advise(step.looks_nc, decoded.high_res_b1ss)
                remembered = dataclasses.replace(decoded, high_res_b1ss=logits_b1ss)
                evidence = self._later(partial(step.appearance.learn, step.looks_nc, logits_b1ss), workers)
        map_bchw = encode_memory(self.model, step.frame, remembered, is_prompted=False)
        seen = self._silhouette(decoded, step.last_seen)
        entry = MemoryEntry(map_bchw, decoded.pointer_bc, decoded.is_present, evidence, seen)
        return Tracked(entry, decoded.logits_b1hw)

    def _later(self, call: Callable[[], _Value], workers: Workers | None) -> Later[_Value]:
        """A value that the workers compute when they have time; now without workers."""

        def tracking() -> _Value:
            with self.tracking():
                return call()

        value = Later(tracking)
        if workers is None:
            value.get()
        else:
            workers.submit(value.get)
        return value

    def show(self, step: Step, decoded: Decoded, has_rivals: bool = False) -> MaskResult:
        """What is shown of a mask; the frames to come need not wait for it.

        Args:
            step: the object on the frame.
            decoded: its mask.
            has_rivals: whether it competed with other objects for its pixels.
        """
        if self.encoder.aids.doubt and decoded.is_present:
            with self.computing():
                logit = trust(self.model, decoded, step.looks_nc, step.appearance, step.last_seen, has_rivals)
            trusted = float(torch.sigmoid(torch.tensor(logit)))
            if trusted < 0.5:
                nothing = masks.empty(self.size_hw)
                return MaskResult(step.frame_index, step.object_id, nothing, decoded.score, trusted)
        return mask_result(decoded, step.frame_index, step.object_id, self.size_hw, step.guide)

    def prime(
        self, frame_index: int, object_id: int, memory: ObjectMemory, reverse: bool, recall: Recall
    ) -> None:
        """Before a pass that starts between keyframes: remember the masks the project holds behind its start.

        With a keyframe in reach nothing is recalled: it is context enough, and the masks behind it may be the
        ones it corrects.
        """
        behind = self._behind(frame_index, reverse)
        if any(t in memory.keyframes for t in (frame_index, *behind)):
            return
        for t in behind:
            known = memory.recent.get(t)
            if not 0 <= t < self.frame_count or (known is not None and known.map_bchw is not None):
                continue
            rle = recall(t, object_id)
            if rle is not None:
                frame = self.encoder[t]
                mask_11ss = mask_input(rle, self.model.image_size, self.model.device)
                decoded = decode_given_mask(self.model, frame, mask_11ss)
                memory.recent[t] = self._remember(t, frame, decoded, is_prompted=False)

    def plan(
        self, frame_index: int, memory: ObjectMemory, reverse: bool, only_in_view: bool = False
    ) -> MemoryPlan:
        """The memories a frame attends to; never its own, so that a corrected mask cannot hold on to
        itself.

        Args:
            only_in_view: leave tracked frames out on which the object was not in view.
        """
        others = [t for t in memory.keyframes if t != frame_index]
        known = {t: e for t, e in memory.recent.items() if e.is_present or not only_in_view}
        return plan_memory(
            self.geometry,
            self.rule,
            frame_index,
            self.frame_count,
            others,
            {t for t, entry in known.items() if entry.map_bchw is not None},
            known.keys(),
            reverse,
            {t for t in others if memory.keyframes[t].is_absent},
        )

    def conditioned(self, frame_index: int, memory: ObjectMemory, reverse: bool) -> torch.Tensor | None:
        """Features (1, C, H, W) of a frame conditioned on an object's memories; None where it has none."""
        frame = self.encoder[frame_index]
        plan = self.plan(frame_index, memory, reverse)
        tokens = self._tokens(frame, plan, self._entries(plan, memory))
        if tokens is None:
            return None
        attended_bnc = self.encoder.self_attended(frame_index, frame)
        return self.conditioner.with_memory(frame, self.encoder.position_1chw, tokens, attended_bnc)

    def unconditioned(self, frame_index: int) -> torch.Tensor:
        """Features (1, C, H, W) of a frame seen without any other."""
        frame = self.encoder[frame_index]
        return self.conditioner.without_memory(frame, self.encoder.position_1chw)

    def _behind(self, frame_index: int, reverse: bool) -> list[int]:
        """The frames behind one, nearest first, whose memory maps it can attend to; some before the first."""
        sign = -1 if reverse else 1
        return [frame_index - distance * sign for distance in range(1, self.geometry.map_reach + 1)]

    def _entries(self, plan: MemoryPlan, memory: ObjectMemory) -> dict[int, MemoryEntry]:
        """The planned memories by frame; none without maps."""
        planned = (*plan.maps, *plan.pointers) if plan.maps else ()
        return {t: self._entry(t, memory) for _, t in planned}

    def _tokens(
        self, frame: EncodedFrame, plan: MemoryPlan, entries: dict[int, MemoryEntry]
    ) -> MemoryTokens | None:
        if not plan.maps:
            return None
        return self.conditioner.gather(plan, entries.__getitem__, self.frame_count, frame.top_bchw.dtype)

    def _search_tokens(
        self, frame: EncodedFrame, frame_index: int, memory: ObjectMemory, reverse: bool
    ) -> MemoryTokens | None:
        """Memories without those that say "not in view", where there are only such of the frames behind."""
        if not self.encoder.aids.search or frame_index % SEARCH_EVERY:
            return None
        if not memory.is_lost(self._behind(frame_index, reverse)):
            return None
        plan = self.plan(frame_index, memory, reverse, only_in_view=True)
        return self._tokens(frame, plan, self._entries(plan, memory))

    def _appearance(
        self, frame_index: int, plan: MemoryPlan, memory: ObjectMemory, entries: dict[int, MemoryEntry]
    ) -> Appearance | None:
        """What the planned memories teach: the keyframes, and the nearest, which knows of those before it."""
        maps = [t for _, t in plan.maps] if self.encoder.aids.appearance else []
        known = {t: evidence for t in maps if (evidence := entries[t].evidence) is not None}
        keyframes = tuple(evidence.get() for t, evidence in known.items() if t in memory.keyframes)
        if not keyframes:
            return None
        nearest = min(known, key=lambda t: abs(t - frame_index))
        return Appearance(mean_evidence(keyframes), known[nearest])

    def _last_seen(
        self, frame_index: int, plan: MemoryPlan, entries: dict[int, MemoryEntry]
    ) -> Silhouette | None:
        """What the nearest of the planned memories knows of the object's last mask."""
        seen = {t: last for _, t in plan.maps if (last := entries[t].last_seen) is not None}
        return seen[min(seen, key=lambda t: abs(t - frame_index))] if seen else None

    def _silhouette(self, decoded: Decoded, last_seen: Silhouette | None) -> Silhouette | None:
        """What the next frames compare their masks with, where there is a doubt head to be told."""
        if not self.encoder.aids.doubt or doubt_head_of(self.model) is None:
            return None
        now = silhouette_of(decoded.logits_b1hw, last_seen) if decoded.is_present else None
        return now if now is not None or last_seen is None else last_seen.lost()

    def _entry(self, frame_index: int, memory: ObjectMemory) -> MemoryEntry:
        """The memory of a keyframe (encoded on first use) or of a tracked frame."""
        keyframe = memory.keyframes.get(frame_index)
        if keyframe is None:
            return memory.recent[frame_index]
        entry = keyframe.entry
        if entry is None:
            entry = keyframe.entry = self._encode_keyframe(frame_index, keyframe)
        memory.touch_keyframe(frame_index)
        return entry

    def _encode_keyframe(self, frame_index: int, keyframe: Keyframe) -> MemoryEntry:
        frame = self.encoder[frame_index]
        if keyframe.given_mask is not None:
            mask_11ss = mask_input(keyframe.given_mask, self.model.image_size, self.model.device)
            decoded = decode_given_mask(self.model, frame, mask_11ss)
        else:
            assert keyframe.logits_b1hw is not None
            assert keyframe.pointer_bc is not None
            assert keyframe.presence_logit_b1 is not None
            decoded = Decoded(
                keyframe.logits_b1hw,
                upsample_logits(keyframe.logits_b1hw, self.model.image_size),
                keyframe.pointer_bc,
                keyframe.presence_logit_b1,
                keyframe.result.score,
            )
        return self._remember(frame_index, frame, decoded, is_prompted=True)

    def _remember(
        self, frame_index: int, frame: EncodedFrame, decoded: Decoded, is_prompted: bool
    ) -> MemoryEntry:
        """The memory of a mask that was not tracked in this pass."""
        map_bchw = encode_memory(self.model, frame, decoded, is_prompted)
        looks_nc = self.encoder.looks(frame_index, frame)
        evidence = None if looks_nc is None else observe(looks_nc, decoded.logits_b1hw)
        known = None if evidence is None else Later.known(evidence)
        seen = self._silhouette(decoded, None)
        return MemoryEntry(map_bchw, decoded.pointer_bc, decoded.is_present, known, seen)
