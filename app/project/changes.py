"""A change to the document: a sparse list of records before and after. Applying its inverse undoes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from app.project.model import FrameMask, LabelClass, ObjectTrack
from qcore.tracking.types import Prompt

Record = LabelClass | ObjectTrack | Prompt | FrameMask


class Kind(IntEnum):
    """What a record is. The order is the one in which records must be written."""

    CLASS = 1
    OBJECT = 2
    PROMPT = 3
    MASK = 4


class Key(NamedTuple):
    """Which record: ``frame_index`` is -1 for classes and objects, ``number`` the class or object id."""

    kind: Kind
    number: int
    frame_index: int = -1


def key_of(record: Record) -> Key:
    """The key under which a record is stored."""
    if isinstance(record, LabelClass):
        return Key(Kind.CLASS, record.class_id)
    if isinstance(record, ObjectTrack):
        return Key(Kind.OBJECT, record.object_id)
    if isinstance(record, Prompt):
        return Key(Kind.PROMPT, record.object_id, record.frame_index)
    return Key(Kind.MASK, record.object_id, record.frame_index)


@dataclass(frozen=True, slots=True)
class Edit:
    """One record before and after; None means that it does not exist."""

    key: Key
    before: Record | None
    after: Record | None


@dataclass(frozen=True, slots=True)
class Change:
    """Edits that belong together: one step of undo."""

    title: str
    """What happened, for the undo menu, e.g. "Paint dog"."""
    edits: tuple[Edit, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when applying it does nothing."""
        return not self.edits

    def __len__(self) -> int:
        return len(self.edits)

    def inverted(self) -> Change:
        """The change that takes this one back."""
        return Change(self.title, tuple(Edit(e.key, e.after, e.before) for e in reversed(self.edits)))

    def followed_by(self, other: Change) -> Change:
        """One change with the effect of this one and then ``other``; keeps this title."""
        return Change(self.title, _squeeze((*self.edits, *other.edits)))

    @property
    def object_ids(self) -> set[int]:
        """Objects whose record, prompts or masks it touches."""
        return {e.key.number for e in self.edits if e.key.kind is not Kind.CLASS}

    @property
    def frames(self) -> set[int]:
        """Frames whose prompts or masks it touches."""
        return {e.key.frame_index for e in self.edits if e.key.frame_index >= 0}

    @property
    def kinds(self) -> set[Kind]:
        """Kinds of record it touches."""
        return {e.key.kind for e in self.edits}

    def records(self, kind: Kind) -> list[Record]:
        """The records of one kind as they are afterwards, in the order of the edits."""
        return [e.after for e in self.edits if e.key.kind is kind and e.after is not None]


def make_change(title: str, edits: Iterable[Edit]) -> Change:
    """A change without the edits that do nothing, each record at most once."""
    return Change(title, _squeeze(edits))


def _squeeze(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    merged: dict[Key, Edit] = {}
    for edit in edits:
        earlier = merged.get(edit.key)
        merged[edit.key] = Edit(edit.key, earlier.before, edit.after) if earlier else edit
    return tuple(e for e in merged.values() if e.before != e.after)
