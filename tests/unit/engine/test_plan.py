"""What a propagation visits, against a brute-force reading of the rules."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from app.engine.plan import ObjectFrames, plan_missing, plan_tracking
from qcore.tracking.types import Direction

N = 30
frame_sets = st.lists(st.integers(0, N - 1), unique=True, max_size=6).map(sorted)


def one(keys, masked=()):
    return [ObjectFrames(1, sorted(keys), sorted(masked))]


def test_forward_from_the_prompt_covers_the_rest_of_the_clip():
    plan = plan_tracking(one([0]), Direction.FORWARD, 0, 0, N - 1)
    assert [(r.start, r.stop, r.direction) for r in plan.runs] == [(0, N - 1, Direction.FORWARD)]
    assert plan.writes == N - 1
    assert not plan.anchors


def test_forward_goes_on_from_a_tracked_frame_and_keeps_its_mask():
    plan = plan_tracking(one([0], range(12)), Direction.FORWARD, 8, 0, N - 1)
    assert (plan.low, plan.high) == (8, N - 1)
    assert plan.anchors == {(1, 8)}
    assert plan.writes == N - 1 - 8


def test_backward_from_a_later_keyframe_reaches_the_first_frame():
    plan = plan_tracking(one([20]), Direction.BACKWARD, 25, 0, N - 1)
    assert [(r.start, r.stop, r.direction) for r in plan.runs] == [(20, 0, Direction.BACKWARD)]


def test_a_range_limits_it_and_a_range_without_keyframe_is_nothing_to_do():
    assert plan_tracking(one([5]), Direction.FORWARD, 5, 3, 9).high == 9
    assert plan_tracking(one([5]), Direction.FORWARD, 12, 10, 20).is_empty


def test_objects_that_go_to_the_same_end_share_a_run_and_join_it_on_the_way():
    objects = [ObjectFrames(1, [0]), ObjectFrames(2, [0]), ObjectFrames(3, [4])]
    (forward,) = plan_tracking(objects, Direction.FORWARD, 4, 0, 9).runs
    assert (forward.start, forward.stop, forward.object_ids) == (0, 9, (1, 2, 3))
    assert forward.starts == {3: 4}
    assert forward.steps == 10 + 10 + 6
    (backward,) = plan_tracking(objects, Direction.BACKWARD, 9, 0, 9).runs
    assert (backward.start, backward.stop, backward.starts) == (4, 0, {})
    assert plan_tracking(objects, Direction.FORWARD, 4, 0, 9).object_ids == (1, 2, 3)


def filled(keys, stored, low=0, high=N - 1, masked=None):
    """Frames that filling what is missing writes, by run."""
    item = ObjectFrames(1, keys, sorted(stored if masked is None else masked), sorted(stored))
    plan = plan_missing([item], low, high)
    return plan, {(r.start, r.stop, r.direction) for r in plan.runs}


def test_what_is_missing_before_the_prompt_is_filled_backwards_and_the_rest_stays():
    plan, found = filled([12], range(12, N))
    assert found == {(12, 0, Direction.BACKWARD)}
    assert plan.writes == 12


def test_a_missing_stretch_between_masks_is_filled_from_both_sides():
    plan, found = filled([0], {*range(10), *range(20, N)})
    assert found == {(9, 14, Direction.FORWARD), (20, 15, Direction.BACKWARD)}
    assert plan.anchors == {(1, 9), (1, 20)}
    assert plan.writes == 10


def test_missing_frames_behind_an_absence_are_reached_from_the_last_sight():
    _, found = filled([0], range(20), masked=range(15))
    assert found == {(14, N - 1, Direction.FORWARD)}


def test_missing_frames_outside_the_range_are_left_alone():
    assert filled([0], range(11), 0, 10)[0].is_empty
    assert filled([0], range(11), 0, 15)[1] == {(10, 15, Direction.FORWARD)}


@given(frame_sets.filter(bool), frame_sets, st.integers(0, N - 1), st.integers(0, N - 1))
def test_filling_reaches_every_missing_frame_of_the_range(keys, other, a, b):
    low, high = min(a, b), max(a, b)
    stored = {*keys, *other}
    plan, _ = filled(keys, stored, low, high)
    visited = {f for r in plan.runs for f in range(r.low, r.high + 1)}
    missing = set(range(low, high + 1)) - stored
    if not stored & set(range(low, high + 1)):  # nothing in the range to start from
        missing = set()
    assert missing <= visited <= set(range(low, high + 1))
    assert plan.writes == len(missing)


def ends(plan):
    return {(r.start, r.stop, r.direction) for r in plan.runs}


def test_nothing_is_tracked_from_a_frame_on_which_the_object_is_out_of_view():
    assert ends(plan_tracking(one([10, 20], [20]), Direction.BOTH, 10, 0, N - 1)) == {
        (20, 0, Direction.BACKWARD),
        (20, N - 1, Direction.FORWARD),
    }


@given(frame_sets, frame_sets, st.integers(0, N - 1), st.sampled_from(list(Direction)))
def test_a_plan_writes_exactly_the_visited_frames_that_are_no_keyframes(keys, masked, current, direction):
    plan = plan_tracking(one(keys, masked), direction, current, 0, N - 1)
    visited = set()
    for run in plan.runs:
        visited |= set(range(run.low, run.high + 1))
    anchors = {frame for _, frame in plan.anchors}
    assert plan.writes == len(visited - set(keys) - anchors)
    assert anchors.isdisjoint(keys)
    if plan.runs:
        starts = {run.start for run in plan.runs}
        if direction is not Direction.BOTH:
            assert starts <= set(keys) | set(masked)
            beyond = [f for f in visited if (f < min(starts)) == (direction is Direction.FORWARD)]
            assert direction is Direction.BACKWARD or not beyond


@given(frame_sets, frame_sets, st.integers(0, N - 1), st.sampled_from(list(Direction)))
def test_no_mask_is_written_twice_and_both_ways_reaches_every_frame(keys, masked, current, direction):
    plan = plan_tracking(one(keys, masked), direction, current, 0, N - 1)
    anchors = {frame for _, frame in plan.anchors}
    free = [f for run in plan.runs for f in range(run.low, run.high + 1) if f not in {*keys, *anchors}]
    assert len(free) == len(set(free))
    if direction is Direction.BOTH and (keys or masked):
        assert set(free) | set(keys) | anchors == set(range(N))
