"""What an importer hands over: objects with masks that fit the project's video, not yet part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.project.model import FrameMask


@dataclass(frozen=True, slots=True)
class ImportedObject:
    """One object of an imported file; ``object_id`` of its masks is ignored."""

    name: str
    masks: tuple[FrameMask, ...]
    class_name: str | None = None
    color: str | None = None
    """``#rrggbb``; None = the next free one of the palette."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """Facts that only its format knows, kept with the project under ``KEY:OBJECT_ID`` for the way back."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A checked file."""

    format_id: str
    objects: tuple[ImportedObject, ...]
    notes: tuple[str, ...] = ()
    """What was left out or guessed, one sentence each."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """Facts about the whole file, kept with the project."""

    @property
    def mask_count(self) -> int:
        """Masks over all objects, empty ones included."""
        return sum(len(track.masks) for track in self.objects)
