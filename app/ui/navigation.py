"""Where the jump keys go: keyframes, and frames that need attention. Pure functions over lane arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from app.project.lanes import LaneArrays, LaneCell

AREA_JUMP = 2.5
"""A tracked mask that grows or shrinks by this factor from one frame to the next is suspicious."""


def next_in(frames: Sequence[int], current: int, forward: bool) -> int | None:
    """The nearest of some ascending frames beyond the current one; None at the end."""
    if forward:
        return next((f for f in frames if f > current), None)
    return next((f for f in reversed(frames) if f < current), None)


def attention(lane: LaneArrays, threshold: float) -> npt.NDArray[np.bool_]:
    """Frames of one object worth a look: unsure, just lost, or suddenly of another size.

    Frames that a person prompted, edited or accepted are fine by definition.
    """
    settled = lane.protected | lane.reviewed | (lane.cells == LaneCell.PROMPTED)
    tracked = np.isin(lane.cells, (LaneCell.TRACKED, LaneCell.ABSENT))
    low = np.nan_to_num(lane.confidence, nan=1.0) < threshold
    suspicious = low & tracked
    area = lane.area.astype(np.float64)
    both = (area[1:] > 0) & (area[:-1] > 0)
    ratio = np.ones_like(area)
    np.divide(area[1:], area[:-1], out=ratio[1:], where=both)
    suspicious |= tracked & ((ratio > AREA_JUMP) | (ratio < 1 / AREA_JUMP))
    lost = np.zeros_like(suspicious)
    lost[1:] = (lane.cells[1:] == LaneCell.ABSENT) & (area[:-1] > 0)
    flags: npt.NDArray[np.bool_] = (suspicious | lost) & ~settled
    return flags


def run_around(flags: npt.NDArray[np.bool_], frame: int) -> tuple[int, int] | None:
    """First and last frame of the unbroken run of flagged frames around one; None where it has no flag."""
    if not flags[frame]:
        return None
    clear = np.flatnonzero(~flags)
    behind, ahead = clear[clear < frame], clear[clear > frame]
    return int(behind[-1]) + 1 if len(behind) else 0, int(ahead[0]) - 1 if len(ahead) else len(flags) - 1


def attention_frames(lanes: Iterable[LaneArrays], threshold: float) -> list[int]:
    """Frames on which any of the objects needs attention, ascending."""
    flags = [attention(lane, threshold) for lane in lanes]
    return [int(f) for f in np.flatnonzero(np.logical_or.reduce(flags))] if flags else []


def starts_of_runs(frames: Sequence[int]) -> list[int]:
    """The first frame of each uninterrupted run: one stop per problem, not one per frame."""
    return [f for i, f in enumerate(frames) if i == 0 or frames[i - 1] != f - 1]


def unreviewed_frames(lanes: Iterable[LaneArrays]) -> list[int]:
    """Frames with a tracked mask that nobody has accepted, ascending."""
    flags = [(lane.cells == LaneCell.TRACKED) & ~lane.reviewed for lane in lanes]
    return [int(f) for f in np.flatnonzero(np.logical_or.reduce(flags))] if flags else []
