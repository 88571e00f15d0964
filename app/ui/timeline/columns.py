"""Per-frame arrays reduced to one value a pixel column: clips of any length paint alike fast. No Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.ui.timeline.time_axis import TimeAxis
from app.ui.timeline.view_model import Lane


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Which frames fall into each pixel column."""

    starts: npt.NDArray[np.intp]
    """First frame of each column, never falling."""
    stop: int
    """End (exclusive) of the last column."""
    is_gather: bool
    """True where columns are narrower than frames: each column shows exactly one frame."""

    @property
    def count(self) -> int:
        """Number of columns."""
        return len(self.starts)

    def maximum(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Largest value of each column's frames."""
        if self.is_gather or self.count == 0:
            return values[self.starts]
        return np.asarray(np.maximum.reduceat(values[: self.stop], self.starts))

    def minimum(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Smallest value of each column's frames; NaN only where all are."""
        if self.is_gather or self.count == 0:
            return values[self.starts]
        return np.asarray(np.fmin.reduceat(values[: self.stop], self.starts))

    def share(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Part of each column's frames that are set, 0..1."""
        if self.is_gather or self.count == 0:
            return flags[self.starts].astype(np.float32)
        sums = np.add.reduceat(flags[: self.stop].astype(np.float32), self.starts)
        lengths = np.diff(np.append(self.starts, self.stop))
        return np.asarray(sums / lengths, np.float32)


def bins(axis: TimeAxis, ratio: float) -> Bins:
    """The columns of an axis up to the end of the clip; ``ratio`` is the device pixel ratio."""
    per_frame = axis.px_per_frame * ratio
    # The last column may reach beyond the edge: without it the last frames would be nowhere.
    columns = math.ceil(min(axis.width * ratio, (axis.frame_count - axis.first) * per_frame) - 1e-6)
    if axis.frame_count == 0 or columns <= 0:
        return Bins(np.zeros(0, np.intp), 0, True)
    is_gather = per_frame >= 1.0
    offset = 0.5 if is_gather else 0.0
    starts = np.floor(axis.first + (np.arange(columns + 1) + offset) / per_frame + 1e-9).astype(np.intp)
    starts = np.clip(starts, 0, axis.frame_count - 1)
    if is_gather:
        return Bins(starts[:-1], int(starts[-2]) + 1, True)
    kept = np.unique(starts[:-1])  # rounding may repeat the last frame
    stop = min(max(int(starts[-1]), int(kept[-1]) + 1), axis.frame_count)
    return Bins(kept, stop, False)


@dataclass(frozen=True, slots=True, eq=False)
class LaneColumns:
    """One lane reduced to columns."""

    kind: npt.NDArray[np.uint8]
    """The most telling `Cell` of the column."""
    present: npt.NDArray[np.float32]
    """Share of frames with a mask, 0..1."""
    absent: npt.NDArray[np.float32]
    """Share of frames where the object is out of view."""
    reviewed: npt.NDArray[np.float32]
    low: npt.NDArray[np.bool_]
    """Some frame's confidence is below the threshold."""


def lane_columns(lane: Lane, columns: Bins, low_confidence: float) -> LaneColumns:
    """Reduce a lane; arrays of another length than the clip are read as far as they go."""
    with np.errstate(invalid="ignore"):
        low = lane.confidence < low_confidence
    return LaneColumns(
        kind=columns.maximum(lane.cells),
        present=columns.share(lane.present),
        absent=columns.share(lane.absent),
        reviewed=columns.share(lane.reviewed),
        low=columns.maximum(low),
    )


def thinned(frames: npt.NDArray[np.intp], axis: TimeAxis, spacing: float) -> npt.NDArray[np.intp]:
    """The frames in view, at most one per ``spacing`` pixels, so that marks do not cover each other."""
    start, stop = axis.visible_range()
    seen = frames[(frames >= start) & (frames < stop)]
    if seen.size == 0:
        return seen
    slots = np.floor(seen * (axis.px_per_frame / spacing)).astype(np.int64)
    first_of_slot = np.ones(len(seen), np.bool_)
    first_of_slot[1:] = slots[1:] != slots[:-1]
    return np.asarray(seen[first_of_slot])
