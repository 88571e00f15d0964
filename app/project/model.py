"""Plain records of the document. Immutable: a change is a new record in place of the old (see `changes`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qcore.masks import Rle


class MaskSource(StrEnum):
    """Where a mask came from; kept per object and frame, because exports and review need it."""

    PROMPT = "prompt"
    PROPAGATED = "propagated"
    EDITED = "edited"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class LabelClass:
    """A category, e.g. "dog". ``class_id`` starts at 1 and is stable."""

    class_id: int
    name: str
    color: str = "#888888"


@dataclass(frozen=True, slots=True)
class ObjectTrack:
    """One annotated object; its masks over the frames are its masklet."""

    object_id: int
    """From 1, stable, never reused; what tracking and the exporters call the object."""
    name: str
    class_id: int | None = None
    color: str = "#800000"
    """``#rrggbb``; colour means object, DAVIS palette order by default."""
    visible: bool = True
    locked: bool = False
    """A locked object is neither edited nor tracked."""
    z_order: int = 0
    """Higher lies on top where a format holds one object a pixel; ties: the lower id is on top."""


@dataclass(frozen=True, slots=True)
class FrameMask:
    """One mask of one object on one frame."""

    frame_index: int
    object_id: int
    rle: Rle
    score: float = 1.0
    """The model's estimate of the mask's IoU, 0..1."""
    presence: float = 1.0
    """Probability that the object is in view, 0..1."""
    source: MaskSource = MaskSource.PROPAGATED
    reviewed: bool = False
    """Accepted by a person. Reviewed, edited and imported masks are protected: they condition the tracker and
    no propagation overwrites them."""

    @property
    def is_protected(self) -> bool:
        """True when propagation must not replace this mask."""
        return self.reviewed or self.source in (MaskSource.EDITED, MaskSource.IMPORTED)


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The video a project annotates."""

    path: str
    """Absolute path when it was last opened."""
    relative_path: str | None
    """Path relative to the project file, POSIX form; None on another drive."""
    width: int
    height: int
    fps: float
    frame_count: int
    size_bytes: int
    fingerprint: str
    """`FrameSource.fingerprint`: tells the same video in another place from a changed one."""


AUTOMATIC_EPSILON = "auto"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What tracked: kept with the project and written into exports that can hold it."""

    model: str
    """Id of the model or name of the bundle."""
    precision: str
    """E.g. "fp32", "bf16", "w6a6"."""
    mutual_kv_epsilon: float | str | None = None
    """The grouping threshold of Mutual-KV; None = off, `AUTOMATIC_EPSILON` = chosen anew at every frame."""
    tool_version: str = ""
