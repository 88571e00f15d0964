"""Propagation goes outward from keyframes and visits every frame once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qcore.tracking.sweeps import plan_sweeps
from qcore.tracking.types import Direction

FRAMES = st.integers(0, 60)


@given(FRAMES, FRAMES, st.dictionaries(st.integers(1, 3), st.sets(FRAMES, min_size=1), min_size=1))
def test_both_directions_reach_every_frame_once_from_its_nearest_keyframe(
    a: int, b: int, keyframes: dict[int, set[int]]
) -> None:
    low, high = min(a, b), max(a, b)
    visits: dict[int, list[int]] = {object_id: [] for object_id in keyframes}
    for sweep in plan_sweeps(low, high, Direction.BOTH, keyframes):
        for frame_index, objects in sweep.frames():
            for object_id in objects:
                visits[object_id].append(frame_index)
                keys = keyframes[object_id]
                behind = [k for k in keys if (k >= frame_index if sweep.reverse else k <= frame_index)]
                nearest = min(abs(k - frame_index) for k in keys)
                assert min(abs(k - frame_index) for k in behind) == nearest
    for frames in visits.values():
        assert sorted(frames) == list(range(low, high + 1))


@given(FRAMES, FRAMES, st.sets(FRAMES, min_size=1))
def test_one_direction_starts_at_the_first_keyframe_it_meets(a: int, b: int, keys: set[int]) -> None:
    low, high = min(a, b), max(a, b)
    forward = [t for sweep in plan_sweeps(low, high, Direction.FORWARD, {1: keys}) for t, _ in sweep.frames()]
    backward = [
        t for sweep in plan_sweeps(low, high, Direction.BACKWARD, {1: keys}) for t, _ in sweep.frames()
    ]
    assert forward == [t for t in range(low, high + 1) if any(k <= t for k in keys)]
    assert backward == [t for t in range(high, low - 1, -1) if any(k >= t for k in keys)]


@given(FRAMES, FRAMES, st.sets(FRAMES, min_size=1), FRAMES)
def test_an_object_may_join_later_but_never_before_its_first_keyframe(
    a: int, b: int, keys: set[int], join: int
) -> None:
    low, high = min(a, b), max(a, b)

    def frames_of(direction: Direction) -> list[int]:
        (sweep,) = plan_sweeps(low, high, direction, {1: keys, 2: {low, high}}, {1: join})
        return [t for t, present in sweep.frames() if 1 in present]

    assert frames_of(Direction.FORWARD) == [
        t for t in range(low, high + 1) if t >= join and any(k <= t for k in keys)
    ]
    assert frames_of(Direction.BACKWARD) == [
        t for t in range(high, low - 1, -1) if t <= join and any(k >= t for k in keys)
    ]
