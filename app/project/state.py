"""What an open project holds in memory: all light records, and a bounded cache of masks. Knows no file."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from app.project.changes import Change, Edit, Key, Kind
from app.project.lanes import MaskIndex
from app.project.model import FrameMask, LabelClass, ObjectTrack
from qcore.tracking.types import Prompt

CACHE_BYTES = 48 << 20
_ENTRY_BYTES = 400
"""What a cached mask costs besides its runs, roughly."""


class MaskCache:
    """Masks used lately, bounded in bytes."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self.size_bytes = 0
        self._limit_bytes = limit_bytes
        self._masks: OrderedDict[Key, FrameMask] = OrderedDict()

    def get(self, key: Key) -> FrameMask | None:
        """The mask, which thereby counts as used."""
        found = self._masks.get(key)
        if found is not None:
            self._masks.move_to_end(key)
        return found

    def put(self, key: Key, mask: FrameMask) -> None:
        """Keep a mask and drop the longest unused ones beyond the limit."""
        self.drop(key)
        self._masks[key] = mask
        self.size_bytes += _cost(mask)
        while self.size_bytes > self._limit_bytes:
            _, oldest = self._masks.popitem(last=False)
            self.size_bytes -= _cost(oldest)

    def drop(self, key: Key) -> None:
        """Forget a mask."""
        old = self._masks.pop(key, None)
        if old is not None:
            self.size_bytes -= _cost(old)


def _cost(mask: FrameMask) -> int:
    return len(mask.rle.counts) + _ENTRY_BYTES


class State:
    """Classes, objects, prompts and the light facts about masks."""

    def __init__(self, frame_count: int) -> None:
        self.frame_count = frame_count
        self.classes: dict[int, LabelClass] = {}
        """By id, ascending."""
        self.objects: dict[int, ObjectTrack] = {}
        """By id, topmost first."""
        self.cache = MaskCache()
        self._prompts: dict[int, dict[int, Prompt]] = {}
        self._index: dict[int, MaskIndex] = {}

    def prompts(self, object_id: int) -> dict[int, Prompt]:
        """An object's prompts by frame."""
        return self._prompts.setdefault(object_id, {})

    def index(self, object_id: int) -> MaskIndex:
        """The light facts about an object's masks; empty for an unknown object."""
        if object_id not in self._index:
            self._index[object_id] = MaskIndex(self.frame_count)
        return self._index[object_id]

    def annotated_frames(self) -> npt.NDArray[np.int64]:
        """Frames with any mask, ascending."""
        any_mask = np.zeros(self.frame_count, np.bool_)
        for index in self._index.values():
            any_mask |= index.source > 0
        return np.flatnonzero(any_mask)

    def last_used_frame(self) -> int:
        """The last frame with a mask or prompt; -1 where there is none."""
        used = [np.flatnonzero((i.source > 0) | i.prompted)[-1:] for i in self._index.values()]
        return max((int(frame) for frames in used for frame in frames), default=-1)

    def resize(self, frame_count: int) -> None:
        """Fit a video of another length."""
        self.frame_count = frame_count
        self._index = {number: index.resized(frame_count) for number, index in self._index.items()}

    def update(self, change: Change) -> None:
        """Take over a change that the file has taken."""
        for edit in change.edits:
            _UPDATERS[edit.key.kind](self, edit)
        if Kind.OBJECT in change.kinds:
            ordered = sorted(self.objects.values(), key=lambda o: (-o.z_order, o.object_id))
            self.objects = {o.object_id: o for o in ordered}

    def _update_class(self, edit: Edit) -> None:
        classes = dict(self.classes)
        classes.pop(edit.key.number, None)
        if isinstance(edit.after, LabelClass):
            classes[edit.key.number] = edit.after
        self.classes = dict(sorted(classes.items()))

    def _update_object(self, edit: Edit) -> None:
        objects = dict(self.objects)
        objects.pop(edit.key.number, None)
        if isinstance(edit.after, ObjectTrack):
            objects[edit.key.number] = edit.after
        self.objects = objects

    def _update_prompt(self, edit: Edit) -> None:
        _, number, frame = edit.key
        prompts = self.prompts(number)
        if isinstance(edit.after, Prompt):
            prompts[frame] = edit.after
        else:
            prompts.pop(frame, None)
        self.index(number).prompted[frame] = edit.after is not None

    def _update_mask(self, edit: Edit) -> None:
        _, number, frame = edit.key
        mask = edit.after if isinstance(edit.after, FrameMask) else None
        self.index(number).set_mask(frame, mask)
        if mask is None:
            self.cache.drop(edit.key)
        else:
            self.cache.put(edit.key, mask)


_UPDATERS = {
    Kind.CLASS: State._update_class,
    Kind.OBJECT: State._update_object,
    Kind.PROMPT: State._update_prompt,
    Kind.MASK: State._update_mask,
}
