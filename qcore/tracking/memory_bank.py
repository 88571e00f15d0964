"""What a session remembers of one object: keyframes, recent memories, recent mask logits.

Bounded by construction: ordinary memories live only as long as some frame can still attend to them, mask
logits only for the last few frames, and of many keyframes only the last-used ones hold a memory map (the
others can be encoded again when they are needed).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch

from qcore.masks import Rle
from qcore.tracking.appearance import Evidence
from qcore.tracking.memory_plan import MemoryGeometry
from qcore.tracking.silhouette import Silhouette
from qcore.tracking.types import MaskResult, Prompt
from qcore.tracking.workers import Later

MAX_RECENT_LOGITS = 16
"""Tracked frames whose mask logits are kept, so that a click refines the mask instead of starting anew."""

MAX_RESIDENT_KEYFRAMES = 16
"""Keyframes of one object that hold a memory map at the same time."""

MAX_CLICK_STEPS = 32
"""Successive prompts of one frame whose logits are kept, so that taking back a click restores its mask."""

MEMORY_DTYPE = torch.bfloat16
"""Upstream's dtype for stored memory maps; equal storage keeps equal masks."""

_ids = count()


@dataclass(slots=True)
class MemoryEntry:
    """What other frames attend to of one frame of one object."""

    map_bchw: torch.Tensor | None
    """Memory encoder output (1, C, H, W) in `MEMORY_DTYPE`; None once no frame can reach it any more."""
    pointer_bc: torch.Tensor
    """Object pointer (1, C)."""
    is_present: bool
    """Whether the object was in view."""
    evidence: Later[Evidence] | None = None
    """What the frame, and those tracked before it, taught about the object's looks; None where nothing did,
    and where no session asks for it."""
    last_seen: Silhouette | None = None
    """The object's mask on the frame or, where it was not in view, on the last one before with a mask; None
    where there was none, and where no session asks for it."""
    uid: int = field(default_factory=_ids.__next__)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor held."""
        yield self.pointer_bc
        if self.last_seen is not None:
            yield self.last_seen.mask_hw
        if self.map_bchw is not None:
            yield self.map_bchw
        if self.evidence is not None:
            yield self.evidence.get().moments_ck


@dataclass(slots=True)
class Keyframe:
    """A frame of one object that the user spoke about; it conditions, and no propagation overwrites it."""

    result: MaskResult
    prompt: Prompt | None
    """None for a protected frame."""
    given_mask: Rle | None
    """The mask as given (mask prompts and protected frames); None where the model made it from clicks or
    a box."""
    logits_b1hw: torch.Tensor | None = None
    """Low-resolution mask logits of a decoded prompt."""
    pointer_bc: torch.Tensor | None = None
    presence_logit_b1: torch.Tensor | None = None
    entry: MemoryEntry | None = None
    """Encoded on first use."""
    uid: int = field(default_factory=_ids.__next__)

    @property
    def is_absent(self) -> bool:
        """True for a frame on which the object is said not to be in view."""
        return self.given_mask is not None and self.given_mask.is_empty

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor held."""
        for tensor in (self.logits_b1hw, self.pointer_bc, self.presence_logit_b1):
            if tensor is not None:
                yield tensor
        if self.entry is not None:
            yield from self.entry.tensors()


@dataclass(slots=True)
class ClickHistory:
    """The prompts given to one frame one after the other, with the mask logits each led to."""

    frame_index: int
    steps: list[tuple[Prompt, torch.Tensor]] = field(default_factory=list)

    def record(self, prompt: Prompt, logits_b1hw: torch.Tensor) -> None:
        """Add a step; a prompt given before is replaced."""
        self.steps = [step for step in self.steps if step[0] != prompt][-(MAX_CLICK_STEPS - 1) :]
        self.steps.append((prompt, logits_b1hw))

    def before(self, prompt: Prompt) -> torch.Tensor | None:
        """Logits of the longest recorded prompt that ``prompt`` continues; None when it continues none."""
        earlier = [step for step in self.steps if continues(prompt, step[0])]
        return max(earlier, key=lambda step: len(step[0].points_xy))[1] if earlier else None


def continues(prompt: Prompt, earlier: Prompt) -> bool:
    """Whether ``prompt`` is ``earlier`` plus further clicks."""
    n = len(earlier.points_xy)
    return (
        prompt.mask is None
        and earlier.mask is None
        and prompt.box_xyxy == earlier.box_xyxy
        and len(prompt.points_xy) > n
        and prompt.points_xy[:n] == earlier.points_xy
        and prompt.labels[:n] == earlier.labels
    )


class ObjectMemory:
    """Everything a session knows about one object."""

    def __init__(self, geometry: MemoryGeometry, frame_count: int) -> None:
        self._geometry = geometry
        self._anchor: int | None = None
        self.keyframes: dict[int, Keyframe] = {}
        self.recent: dict[int, MemoryEntry] = {}
        self.logits: OrderedDict[int, torch.Tensor] = OrderedDict()
        self.tracked = np.zeros(frame_count, np.int8)
        """1 where a forward pass left a mask, -1 where a backward pass did."""
        self.clicks: ClickHistory | None = None

    def begin_pass(self, start: int) -> None:
        """Prepare for a pass from ``start``: forget memories that no frame of it can attend to.

        Both sides of the start stay: a backward pass attends to what the forward pass from the same frame
        left.
        """
        self._anchor = start
        self._prune(start)

    def remember(
        self, frame_index: int, entry: MemoryEntry, logits_b1hw: torch.Tensor, reverse: bool
    ) -> None:
        """Store a tracked frame's memory and forget what can no longer be attended to."""
        self.recent[frame_index] = entry
        self.logits[frame_index] = logits_b1hw
        self.logits.move_to_end(frame_index)
        while len(self.logits) > MAX_RECENT_LOGITS:
            self.logits.popitem(last=False)
        self.tracked[frame_index] = -1 if reverse else 1
        self._prune(frame_index)

    def is_lost(self, frames: Collection[int]) -> bool:
        """Whether the object was in view on none of these frames, as far as they were tracked."""
        seen = [self.recent[t].is_present for t in frames if t in self.recent]
        return bool(seen) and not any(seen)

    def set_keyframe(self, frame_index: int, keyframe: Keyframe) -> None:
        """Replace what is known about a frame; memories around it told the old story and go."""
        self.keyframes[frame_index] = keyframe
        self.forget_around(frame_index)

    def forget_around(self, frame_index: int) -> None:
        """Drop the ordinary memories that lie within reach of a frame."""
        for t in [t for t in self.recent if abs(t - frame_index) <= self._geometry.reach]:
            del self.recent[t]

    def drop_keyframe(self, frame_index: int) -> None:
        """Forget a keyframe and what was known around it."""
        if self.keyframes.pop(frame_index, None) is not None:
            self.forget_around(frame_index)

    def touch_keyframe(self, frame_index: int) -> None:
        """Mark a keyframe's memory map as used now and let the oldest-used one beyond the limit go."""
        self.keyframes[frame_index] = self.keyframes.pop(frame_index)
        resident = [key for key in self.keyframes.values() if key.entry is not None]
        for keyframe in resident[:-MAX_RESIDENT_KEYFRAMES]:
            keyframe.entry = None

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor held."""
        for keyframe in self.keyframes.values():
            yield from keyframe.tensors()
        for entry in self.recent.values():
            yield from entry.tensors()
        yield from self.logits.values()
        if self.clicks is not None:
            yield from (logits for _, logits in self.clicks.steps)

    def _prune(self, head: int) -> None:
        anchor = head if self._anchor is None else self._anchor
        for t, entry in list(self.recent.items()):
            distance = min(abs(t - head), abs(t - anchor))
            if distance > self._geometry.reach:
                del self.recent[t]
            elif distance > self._geometry.map_reach:
                entry.map_bchw = entry.evidence = entry.last_seen = None
