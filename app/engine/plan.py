"""Which frames a propagation visits: outward from keyframes, per object.

Pure functions over frame numbers. A *keyframe* of an object is a frame with a prompt or a protected mask; it
conditions the tracker and keeps its mask. An *anchor* is the frame a run starts from: a keyframe, or a frame
that merely has a mask when the user asks to go on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from qcore.tracking.types import Direction


@dataclass(frozen=True, slots=True)
class Run:
    """Some objects tracked together; for both directions ``start`` is the lower end. Ends are inclusive."""

    start: int
    stop: int
    direction: Direction
    object_ids: tuple[int, ...]
    least: int | None = None
    """A repair goes this far in any case, and ends early beyond it, where its masks agree with those stored;
    None: it goes to ``stop``."""
    starts: Mapping[int, int] = field(default_factory=dict)
    """Frames at which objects join on the way, forward or backward; the others do at ``start``."""

    @property
    def low(self) -> int:
        """Lowest frame."""
        return min(self.start, self.stop)

    @property
    def high(self) -> int:
        """Highest frame."""
        return max(self.start, self.stop)

    @property
    def steps(self) -> int:
        """Object-frames visited, both ends included."""
        return sum(abs(self.stop - self.starts.get(i, self.start)) + 1 for i in self.object_ids)


@dataclass(frozen=True, slots=True)
class TrackPlan:
    """What one press of the primary button does."""

    runs: tuple[Run, ...]
    object_ids: tuple[int, ...]
    writes: int
    """Masks that will be written (object-frames; keyframes and anchors keep theirs)."""
    anchors: frozenset[tuple[int, int]] = frozenset()
    """(object, frame) pairs that a run starts from without being keyframes; their masks stay."""

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to track."""
        return self.writes == 0

    @property
    def low(self) -> int:
        """Lowest frame visited."""
        return min(run.low for run in self.runs)

    @property
    def high(self) -> int:
        """Highest frame visited."""
        return max(run.high for run in self.runs)

    def visited(self, frame_count: int) -> npt.NDArray[np.bool_]:
        """One flag for every frame of the clip: it is visited."""
        flags = np.zeros(frame_count, np.bool_)
        for run in self.runs:
            flags[run.low : run.high + 1] = True
        return flags


@dataclass(frozen=True, slots=True, eq=False)
class ObjectFrames:
    """What the project knows about one object, as ascending frame numbers."""

    object_id: int
    keyframes: Sequence[int] | npt.NDArray[np.int64]
    masked: Sequence[int] | npt.NDArray[np.int64] = ()
    """Frames with a non-empty mask of any source; a run may start from one of them."""
    stored: Sequence[int] | npt.NDArray[np.int64] = ()
    """Frames with a mask of any source, also an empty one (for `plan_missing` and repairs)."""
    doubtful: Sequence[int] | npt.NDArray[np.int64] = ()
    """Frames that need attention (for repairs)."""


def plan_tracking(
    objects: Iterable[ObjectFrames], direction: Direction, current: int, low: int, high: int
) -> TrackPlan:
    """Plan a propagation inside ``low..high`` (inclusive).

    Forward starts, for each object, at the last frame at or before ``current`` that has a mask (so that
    pressing T on a good frame goes on from it) or else at its first keyframe; backward is the mirror image;
    both goes outward from all the object's keyframes.
    """
    spans: list[Span] = []
    for item in objects:
        keys = within(item.keyframes, low, high)
        masked = within(item.masked, low, high)
        if not len(keys) and not len(masked):
            continue
        if direction is Direction.BOTH:
            if not len(keys):
                anchor = int(masked[np.abs(masked - current).argmin()])
                spans.append(Span(low, high, direction, item, anchor))
            elif any(low <= k <= high for k in sources(item)):
                spans += gaps(item, low, high)
        elif direction is Direction.FORWARD:
            behind = [int(f[i - 1]) for f in (keys, masked) if (i := _count_to(f, current))]
            anchor = max(behind) if behind else min(int(f[0]) for f in (keys, masked) if len(f))
            spans.append(Span(anchor, high, direction, item, anchor))
        else:
            ahead = [int(f[i]) for f in (keys, masked) if (i := _count_to(f, current - 1)) < len(f)]
            anchor = min(ahead) if ahead else max(int(f[-1]) for f in (keys, masked) if len(f))
            spans.append(Span(anchor, low, direction, item, anchor))
    return plan_of(spans)


def plan_missing(objects: Iterable[ObjectFrames], low: int, high: int) -> TrackPlan:
    """Fill the frames of ``low..high`` that have no mask, from the nearest frames there that show the object.

    Between two of those both sides meet in the middle.
    """
    spans: list[Span] = []
    for item in objects:
        masked = within(item.masked, low, high)
        missing = np.setdiff1d(np.arange(low, high + 1), item.stored)
        for stretch in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1):
            if not len(stretch):
                continue
            first, last = int(stretch[0]), int(stretch[-1])
            behind, ahead = masked[masked < first], masked[masked > last]
            if len(behind) and len(ahead):
                left, right = int(behind[-1]), int(ahead[0])
                middle = (left + right) // 2
                spans.append(Span(left, middle, Direction.FORWARD, item, left))
                spans.append(Span(right, middle + 1, Direction.BACKWARD, item, right))
            elif len(behind):
                spans.append(Span(int(behind[-1]), last, Direction.FORWARD, item, int(behind[-1])))
            elif len(ahead):
                spans.append(Span(int(ahead[0]), first, Direction.BACKWARD, item, int(ahead[0])))
    return plan_of(spans)


def within(frames: Sequence[int] | npt.NDArray[np.int64], low: int, high: int) -> npt.NDArray[np.int64]:
    """Those of some ascending frames that lie in ``low..high`` (inclusive)."""
    found = np.asarray(frames, np.int64)
    return found[np.searchsorted(found, low) : np.searchsorted(found, high, side="right")]


def _count_to(frames: npt.NDArray[np.int64], frame: int) -> int:
    """How many of the ascending frames are at or before one."""
    return int(np.searchsorted(frames, frame, side="right"))


def sources(item: ObjectFrames) -> list[int]:
    """Keyframes that show the object; one that says "not in view" is no place to track from."""
    seen = np.isin(np.asarray(item.keyframes, np.int64), np.asarray(item.masked, np.int64))
    shown = [int(k) for k in np.asarray(item.keyframes, np.int64)[seen]]
    return shown or [int(k) for k in item.keyframes]


def gaps(item: ObjectFrames, low: int, high: int) -> list[Span]:
    """Fill ``low..high`` outward from the object's keyframes there; at least one of them is a source.

    Between two that show the object both sides meet in the middle. Where it is said to be out of view in
    between, each side comes up to the last such frame.
    """
    keys = [int(k) for k in within(item.keyframes, low, high)]
    shown = set(sources(item))
    good = [k for k in keys if k in shown]
    spans = [
        Span(good[0], low, Direction.BACKWARD, item, good[0]),
        Span(good[-1], high, Direction.FORWARD, item, good[-1]),
    ]
    for left, right in pairwise(good):
        absent = [k for k in keys if left < k < right]
        if absent:
            spans.append(Span(left, absent[-1], Direction.FORWARD, item, left))
            spans.append(Span(right, absent[-1], Direction.BACKWARD, item, right))
        else:
            spans.append(Span(left, right, Direction.BOTH, item, left))
    return spans


@dataclass(frozen=True, slots=True)
class Span:
    """One object's share of a run; ends are inclusive."""

    start: int
    stop: int
    direction: Direction
    item: ObjectFrames
    anchor: int
    """The frame whose mask it starts from."""
    least: int | None = None
    """See `Run.least`."""


def plan_of(spans: Iterable[Span]) -> TrackPlan:
    """Objects that go to the same end share a run, and with it the image encoder."""
    groups: dict[tuple[int, int | None, Direction, int | None], list[Span]] = {}
    anchors: set[tuple[int, int]] = set()
    writes = 0
    for span in spans:
        low, high = min(span.start, span.stop), max(span.start, span.stop)
        keys = within(span.item.keyframes, low, high)
        from_keyframe = bool((keys == span.anchor).any())
        count = high - low + 1 - len(keys) - (not from_keyframe)
        if count <= 0:
            continue
        writes += count
        start = span.start if span.direction is Direction.BOTH else None
        groups.setdefault((span.stop, start, span.direction, span.least), []).append(span)
        if not from_keyframe:
            anchors.add((span.item.object_id, span.anchor))
    runs = tuple(_run_of(members) for members in groups.values())
    everybody = tuple(sorted({object_id for run in runs for object_id in run.object_ids}))
    return TrackPlan(runs, everybody, writes, frozenset(anchors))


def _run_of(spans: Sequence[Span]) -> Run:
    """Spans of one direction and end as one run: the farthest begins, the others join on the way."""
    stop, direction, least = spans[0].stop, spans[0].direction, spans[0].least
    start = max((span.start for span in spans), key=lambda frame: abs(stop - frame))
    ids = tuple(span.item.object_id for span in spans)
    starts = {span.item.object_id: span.start for span in spans if span.start != start}
    return Run(start, stop, direction, ids, least, starts)
