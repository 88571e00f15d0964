"""What a repair re-tracks: the bad span around a frame, per object, and nothing that is good.

From a corrected frame it goes outward: over the frames that need attention in any case, and then on until the
new masks agree with those stored, for there the mistake ends. It never passes the neighbouring keyframes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from app.engine.plan import ObjectFrames, Run, Span, TrackPlan, gaps, plan_of, sources, within
from qcore.masks import iou
from qcore.tracking.types import Direction, MaskResult, Recall

CALM_FRAMES = 10
"""Doubtful frames at most this far apart belong to one bad span."""
AGREEMENT = 0.97
"""IoU from which a new mask counts as the stored one."""
SETTLED_FRAMES = 5
"""After so many frames in a row on which every object agrees, a repair has reached the good masks."""


def plan_repair(objects: Iterable[ObjectFrames], current: int, frame_count: int) -> TrackPlan:
    """Re-track the bad span around ``current``, inside the keyframes before and after it.

    On a corrected frame: outward from it. On any other frame: from the good masks at both ends of the bad
    span, or, where no frame is doubtful, from both keyframes.
    """
    spans: list[Span] = []
    for item in objects:
        spans += _spans_of(item, current, frame_count)
    return plan_of(spans)


def _spans_of(item: ObjectFrames, current: int, frame_count: int) -> list[Span]:
    low, high = _bounds(item, current, frame_count)
    shown = sources(item)
    if not any(low <= k <= high for k in shown):
        return _from_afar(item, shown, low, high)
    first, last = _bad_span(item, current, low, high, is_shown=current in shown)
    if current in shown:
        return [_outward(item, current, low, first), _outward(item, current, high, last)]
    if len(within(item.keyframes, current, current)):
        return _around_absence(item, current, (low, high), (first, last))
    if first == last and not len(within(item.doubtful, current, current)):
        return gaps(item, low, high)
    return _inward(item, (low, high), (first, last))


def _bounds(item: ObjectFrames, current: int, frame_count: int) -> tuple[int, int]:
    """The keyframes around a frame; without one the last tracked frame on that side, and the end of the clip
    for an object that was never tracked."""
    frames = np.asarray(item.keyframes, np.int64)
    tracked = np.setdiff1d(item.stored, frames)
    outermost = (0, frame_count - 1)
    if len(tracked):
        outermost = (min(current, int(tracked[0])), max(current, int(tracked[-1])))
    behind, ahead = frames[frames < current], frames[frames > current]
    return int(behind[-1] if len(behind) else outermost[0]), int(ahead[0] if len(ahead) else outermost[1])


def _bad_span(item: ObjectFrames, current: int, low: int, high: int, is_shown: bool) -> tuple[int, int]:
    """First and last frame of the doubtful stretch around a frame, keyframes left out; itself without one.

    Where the user shows the object, neighbours on which it was not found are doubtful too.
    """
    doubtful = np.asarray(item.doubtful, np.int64)
    if is_shown:
        doubtful = np.union1d(doubtful, np.setdiff1d(item.stored, item.masked))
    doubtful = np.setdiff1d(within(doubtful, low, high), item.keyframes)
    first = last = current
    for frame in doubtful[doubtful < current][::-1]:
        if first - frame > CALM_FRAMES:
            break
        first = int(frame)
    for frame in doubtful[doubtful > current]:
        if frame - last > CALM_FRAMES:
            break
        last = int(frame)
    return first, last


def _outward(item: ObjectFrames, current: int, bound: int, edge: int) -> Span:
    """From a corrected frame towards one side."""
    low, high = min(current, bound), max(current, bound)
    direction = Direction.BACKWARD if bound < current else Direction.FORWARD
    whole = not _is_complete(item, low, high)
    if bound in sources(item) and (whole or abs(edge - bound) <= 1):
        return Span(
            low, high, Direction.BOTH, item, current
        )  # bad all along: the keyframes meet in the middle
    return Span(current, bound, direction, item, current, None if whole else edge)


def _around_absence(
    item: ObjectFrames, current: int, bounds: tuple[int, int], bad: tuple[int, int]
) -> list[Span]:
    """The corrected frame says "not in view": nothing starts there, but each side goes on knowing it."""
    if not _is_complete(item, *bounds):
        return gaps(item, *bounds)
    shown = sources(item)
    spans: list[Span] = []
    if min(shown) < current:
        spans.append(Span(current, bounds[1], Direction.FORWARD, item, current, bad[1]))
    if max(shown) > current:
        spans.append(Span(current, bounds[0], Direction.BACKWARD, item, current, bad[0]))
    return spans


def _inward(item: ObjectFrames, bounds: tuple[int, int], bad: tuple[int, int]) -> list[Span]:
    """Nothing was corrected: into the bad span from the good masks beside it."""
    good = within(item.masked, *bounds)
    behind, ahead = good[good < bad[0]], good[good > bad[1]]
    if len(behind) and len(ahead):
        left, right = int(behind[-1]), int(ahead[0])
        middle = (left + right) // 2
        return [
            Span(left, middle, Direction.FORWARD, item, left),
            Span(right, middle + 1, Direction.BACKWARD, item, right),
        ]
    if len(behind):
        return [Span(int(behind[-1]), bad[1], Direction.FORWARD, item, int(behind[-1]))]
    if len(ahead):
        return [Span(int(ahead[0]), bad[0], Direction.BACKWARD, item, int(ahead[0]))]
    return gaps(item, *bounds)


def _from_afar(item: ObjectFrames, shown: list[int], low: int, high: int) -> list[Span]:
    """Out of view at the keyframes around here: come from the nearest frame where it was seen."""
    behind, ahead = [k for k in shown if k < low], [k for k in shown if k > high]
    if behind:
        return [Span(behind[-1], high, Direction.FORWARD, item, behind[-1])]
    if ahead:
        return [Span(ahead[0], low, Direction.BACKWARD, item, ahead[0])]
    return []


def _is_complete(item: ObjectFrames, low: int, high: int) -> bool:
    """Whether every frame between two has a mask."""
    return len(within(item.stored, low + 1, high - 1)) == max(0, high - low - 1)


class Settling:
    """Watches a repair's masks and tells when they have met the stored ones."""

    def __init__(self, run: Run, stored: Recall | None) -> None:
        self._run = run
        self._stored = stored
        self._agreeing = dict.fromkeys(run.object_ids, 0)

    def note(self, result: MaskResult) -> None:
        """Compare one mask with the stored one, which must not be replaced yet."""
        run = self._run
        start = run.starts.get(result.object_id, run.start)
        if run.least is None or self._stored is None or result.frame_index == start:
            return
        before = self._stored(result.frame_index, result.object_id)
        agrees = before is not None and iou(before, result.rle) >= AGREEMENT
        self._agreeing[result.object_id] = self._agreeing.get(result.object_id, 0) + 1 if agrees else 0

    def is_reached(self, frame_index: int) -> bool:
        """True when the run may end after this frame."""
        run = self._run
        if run.least is None:
            return False
        beyond = run.least - frame_index if run.stop < run.start else frame_index - run.least
        return beyond >= 0 and min(self._agreeing.values()) >= SETTLED_FRAMES
