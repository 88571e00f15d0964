"""Which frames of a range each object is tracked on, and in which direction: outward from its keyframes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from qcore.tracking.types import Direction


@dataclass(frozen=True, slots=True)
class Sweep:
    """One walk over the range; objects join at their own frames."""

    reverse: bool
    frames_of: dict[int, range]
    """Frames of every object that takes part, as an ascending range."""

    def frames(self) -> Iterator[tuple[int, list[int]]]:
        """(frame index, objects tracked there) in the order of travel."""
        spans = [span for span in self.frames_of.values() if len(span)]
        if not spans:
            return
        low, high = min(span[0] for span in spans), max(span[-1] for span in spans)
        order = range(high, low - 1, -1) if self.reverse else range(low, high + 1)
        for frame_index in order:
            present = [object_id for object_id, span in self.frames_of.items() if frame_index in span]
            if present:
                yield frame_index, present

    def start_of(self, object_id: int) -> int:
        """The object's first frame in the order of travel."""
        span = self.frames_of[object_id]
        return span[-1] if self.reverse else span[0]


def plan_sweeps(
    low: int,
    high: int,
    direction: Direction,
    keyframes: Mapping[int, Collection[int]],
    starts: Mapping[int, int] | None = None,
) -> list[Sweep]:
    """Plan the walks over frames ``low`` .. ``high`` (inclusive).

    Forward, an object is tracked from the first frame of the range that has a keyframe at or before it,
    so that it never appears ahead of its first prompt; backward the mirror image. In both directions
    every frame is tracked once, towards the far side from its nearest keyframe: between two keyframes
    they meet in the middle.

    Args:
        keyframes: prompted frames by object.
        starts: where objects join in one direction, if not at the end of the range or their first keyframe.
    """
    prompted = {object_id: frames for object_id, frames in keyframes.items() if frames}
    if direction is Direction.FORWARD:
        joins = {k: max(low, (starts or {}).get(k, low)) for k in prompted}
        return [Sweep(False, {k: _forward(joins[k], high, frames) for k, frames in prompted.items()})]
    if direction is Direction.BACKWARD:
        joins = {k: min(high, (starts or {}).get(k, high)) for k in prompted}
        return [Sweep(True, {k: _backward(low, joins[k], frames) for k, frames in prompted.items()})]
    sweeps: list[Sweep] = []
    pieces = {k: _outward(low, high, sorted(frames)) for k, frames in prompted.items()}
    for number in range(max((len(spans) for spans in pieces.values()), default=0)):
        for reverse in (False, True):
            spans = {k: both[number][reverse] for k, both in pieces.items() if number < len(both)}
            sweeps.append(Sweep(reverse, {k: span for k, span in spans.items() if len(span)}))
    return [sweep for sweep in sweeps if sweep.frames_of]


def _forward(low: int, high: int, keyframes: Collection[int]) -> range:
    return range(max(low, min(keyframes)), high + 1)


def _backward(low: int, high: int, keyframes: Collection[int]) -> range:
    return range(low, min(high, max(keyframes)) + 1)


def _outward(low: int, high: int, keyframes: list[int]) -> list[tuple[range, range]]:
    """(forward span, backward span) around each keyframe; together they cover the range once."""
    spans: list[tuple[range, range]] = []
    for number, key in enumerate(keyframes):
        first = low if number == 0 else (keyframes[number - 1] + key) // 2 + 1
        last = high if number == len(keyframes) - 1 else (key + keyframes[number + 1]) // 2
        forward = range(max(key, low), min(last, high) + 1)
        backward = range(max(first, low), min(key - 1, high) + 1)
        if len(forward) or len(backward):
            spans.append((forward, backward))
    return spans
