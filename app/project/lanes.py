"""What is known of one object's masks without reading them: one small array per property over the frames.

The timeline draws from these, edits look up here what is protected, and exporters what exists. Updated one
frame at a time, so that a propagation costs the same at frame 18,000 as at frame 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.project.model import FrameMask, MaskSource


class LaneCell(IntEnum):
    """What a lane shows at one frame; values as in the timeline's `Cell` (tested)."""

    NONE = 0
    ABSENT = 1
    TRACKED = 2
    IMPORTED = 3
    EDITED = 4
    PROMPTED = 5


_CELL_OF_SOURCE = {
    MaskSource.PROMPT: LaneCell.PROMPTED,
    MaskSource.PROPAGATED: LaneCell.TRACKED,
    MaskSource.EDITED: LaneCell.EDITED,
    MaskSource.IMPORTED: LaneCell.IMPORTED,
}
SOURCES = tuple(MaskSource)
_CODE_OF_SOURCE = {source: code for code, source in enumerate(SOURCES, start=1)}
_CELL_OF_CODE = np.array([LaneCell.NONE, *(_CELL_OF_SOURCE[s] for s in SOURCES)], np.uint8)
_PROTECTED_CODES = (_CODE_OF_SOURCE[MaskSource.EDITED], _CODE_OF_SOURCE[MaskSource.IMPORTED])


class MaskFacts(NamedTuple):
    """What the project file says of a mask besides its pixels."""

    frame_index: int
    source_code: int
    """0 = no mask, else 1 + position in `SOURCES`."""
    reviewed: bool
    score: float
    presence: float
    area: int


@dataclass(frozen=True, slots=True, eq=False)
class LaneArrays:
    """One object's row of the timeline; every array has one entry per frame and is the caller's own copy."""

    object_id: int
    cells: npt.NDArray[np.uint8]
    """`LaneCell` values."""
    confidence: npt.NDArray[np.float32]
    """0..1, NaN where there is no mask: the model's IoU estimate times its belief that the object is in view;
    for an empty mask its belief that it is not; 1 for masks made or accepted by a person."""
    reviewed: npt.NDArray[np.bool_]
    protected: npt.NDArray[np.bool_]
    area: npt.NDArray[np.int32]
    """Pixels of the mask, 0 where it is empty or missing."""


class MaskIndex:
    """The light facts about one object's masks and prompts."""

    def __init__(self, frame_count: int) -> None:
        self.source = np.zeros(frame_count, np.uint8)
        """0 = no mask, else 1 + position in `SOURCES`."""
        self.prompted = np.zeros(frame_count, np.bool_)
        self.reviewed = np.zeros(frame_count, np.bool_)
        self.score = np.zeros(frame_count, np.float32)
        self.presence = np.zeros(frame_count, np.float32)
        self.area = np.zeros(frame_count, np.int32)

    def set_mask(self, frame_index: int, mask: FrameMask | None) -> None:
        """Note that a mask was stored or removed."""
        if mask is None:
            self.note(MaskFacts(frame_index, 0, False, 0.0, 0.0, 0))
            return
        code = _CODE_OF_SOURCE[mask.source]
        self.note(MaskFacts(frame_index, code, mask.reviewed, mask.score, mask.presence, mask.rle.area))

    def note(self, facts: MaskFacts) -> None:
        """Write down one frame's facts."""
        frame = facts.frame_index
        self.source[frame] = facts.source_code
        self.reviewed[frame] = facts.reviewed
        self.score[frame] = facts.score
        self.presence[frame] = facts.presence
        self.area[frame] = facts.area

    def has_mask(self, frame_index: int) -> bool:
        """True where a mask is stored, empty or not."""
        return bool(self.source[frame_index])

    def frames(self) -> npt.NDArray[np.int64]:
        """Frames with a mask, ascending."""
        return np.flatnonzero(self.source)

    def protected(self) -> npt.NDArray[np.bool_]:
        """Frames whose mask no propagation may replace."""
        return self.reviewed | np.isin(self.source, _PROTECTED_CODES)

    def is_kept(self, frame_index: int) -> bool:
        """True where propagation must leave the mask: protected, or the answer to a prompt of that frame."""
        code = self.source[frame_index]
        if not code:
            return False
        return bool(self.reviewed[frame_index] or self.prompted[frame_index] or code in _PROTECTED_CODES)

    def resized(self, frame_count: int) -> MaskIndex:
        """A copy for a video of another length; facts beyond its end are dropped."""
        other = MaskIndex(frame_count)
        n = min(frame_count, len(self.source))
        for name in ("source", "prompted", "reviewed", "score", "presence", "area"):
            getattr(other, name)[:n] = getattr(self, name)[:n]
        return other

    def lane(self, object_id: int) -> LaneArrays:
        """The arrays for the timeline."""
        cells = _CELL_OF_CODE[self.source]
        has_mask = self.source > 0
        empty = has_mask & (self.area == 0)
        cells[empty & (cells == LaneCell.TRACKED)] = LaneCell.ABSENT
        cells[self.prompted] = LaneCell.PROMPTED
        confidence = np.where(empty, 1.0 - self.presence, self.score * self.presence).astype(np.float32)
        protected = self.protected()
        confidence[protected] = 1.0
        confidence[~has_mask] = np.nan
        return LaneArrays(object_id, cells, confidence, self.reviewed.copy(), protected, self.area.copy())


def source_code(source: MaskSource) -> int:
    """The number under which a source is kept in arrays and files."""
    return _CODE_OF_SOURCE[source]
