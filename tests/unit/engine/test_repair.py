"""A repair re-tracks what is bad around a frame, between the neighbouring keyframes, and no more."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from fake_tracking import FakeBackend, FakeFrames, true_mask
from hypothesis import given

from app.engine.plan import ObjectFrames, Run
from app.engine.repair import AGREEMENT, SETTLED_FRAMES, Settling, plan_repair
from app.engine.workbench import Condition, Workbench
from qcore.masks import decode, empty, encode
from qcore.tracking.types import Direction, MaskResult

N = 300
BACKWARD, FORWARD, BOTH = Direction.BACKWARD, Direction.FORWARD, Direction.BOTH
frame_sets = st.lists(st.integers(0, 59), unique=True, max_size=6).map(sorted)


def one(keys, masked=None, stored=None, doubtful=()):
    """An object of which every frame is tracked, unless said otherwise."""
    stored = range(N) if stored is None else stored
    masked = stored if masked is None else masked
    return [ObjectFrames(1, sorted(keys), sorted(masked), sorted(stored), sorted(doubtful))]


def untracked(keys, masked):
    """An object with nothing but its keyframes."""
    return one(keys, masked, keys)


def runs(plan):
    return {(r.start, r.stop, r.direction, r.least) for r in plan.runs}


def ends(plan):
    return {(r.start, r.stop, r.direction) for r in plan.runs}


def test_a_correction_reaches_over_the_doubtful_frames_on_both_sides():
    plan = plan_repair(one([0, 100], doubtful=[*range(80, 100), *range(101, 121)]), 100, N)
    assert runs(plan) == {(100, 0, BACKWARD, 80), (100, N - 1, FORWARD, 120)}


def test_doubtful_frames_farther_away_are_another_problem():
    plan = plan_repair(one([0, 100], doubtful=[40, 95, 104, 112, 130]), 100, N)
    assert runs(plan) == {(100, 0, BACKWARD, 95), (100, N - 1, FORWARD, 112)}


def test_without_doubtful_frames_a_correction_may_settle_at_once():
    assert runs(plan_repair(one([0, 100]), 100, N)) == {
        (100, 0, BACKWARD, 100),
        (100, N - 1, FORWARD, 100),
    }


def test_neighbouring_keyframes_bound_it_also_when_all_is_doubtful():
    plan = plan_repair(one([60, 100, 140], doubtful=range(N)), 100, N)
    assert runs(plan) == {(60, 100, BOTH, None), (100, 140, BOTH, None)}


def test_frames_on_which_the_shown_object_was_not_found_belong_to_the_bad_span():
    lost = set(range(90, 116)) - {100}
    plan = plan_repair(one([0, 100], set(range(N)) - lost), 100, N)
    assert runs(plan) == {(100, 0, BACKWARD, 90), (100, N - 1, FORWARD, 115)}


def test_it_does_not_go_on_into_frames_that_were_never_tracked():
    plan = plan_repair(one([0, 100], stored=range(131), doubtful=[105]), 100, N)
    assert runs(plan) == {(100, 0, BACKWARD, 100), (100, 130, FORWARD, 105)}


def test_without_a_correction_it_comes_from_the_good_masks_beside_the_bad_span():
    plan = plan_repair(one([0, 200], doubtful=range(80, 121)), 100, N)
    assert runs(plan) == {(79, 100, FORWARD, None), (121, 101, BACKWARD, None)}
    assert plan.anchors == {(1, 79), (1, 121)}
    assert plan.writes == 41


def test_at_the_end_of_the_clip_a_bad_span_has_one_good_side():
    plan = plan_repair(one([0], doubtful=range(280, N)), 290, N)
    assert runs(plan) == {(279, N - 1, FORWARD, None)}


def test_a_frame_said_to_be_out_of_view_is_carried_on_from_what_was_seen_before():
    seen = set(range(N)) - {100}
    plan = plan_repair(one([0, 100], seen, doubtful=range(101, 111)), 100, N)
    assert runs(plan) == {(100, N - 1, FORWARD, 110)}


# ---- where frames have no mask yet, a repair fills them between the keyframes


def test_around_a_correction_it_stays_between_the_neighbouring_keyframes():
    plan = plan_repair(untracked([3, 10, 22], [3, 10, 22]), 10, 30)
    assert ends(plan) == {(3, 10, BOTH), (10, 22, BOTH)}
    assert plan.writes == 6 + 11


def test_between_keyframes_it_meets_in_the_middle():
    plan = plan_repair(untracked([3, 22], [3, 22]), 10, 30)
    assert ends(plan) == {(3, 22, BOTH)}
    assert plan.writes == 18


def test_beyond_the_last_keyframe_it_goes_to_the_end():
    assert ends(plan_repair(untracked([3], [3]), 10, 30)) == {(3, 29, FORWARD)}


def test_nothing_is_tracked_from_a_frame_on_which_the_object_is_out_of_view():
    assert ends(plan_repair(untracked([0, 10, 20], [0, 20]), 10, 30)) == {
        (0, 10, FORWARD),
        (20, 10, BACKWARD),
    }
    assert ends(plan_repair(untracked([0, 10], [0]), 10, 30)) == {(0, 29, FORWARD)}


def test_between_frames_out_of_view_the_nearest_sight_before_is_the_source():
    assert ends(plan_repair(untracked([0, 10, 14], [0]), 12, 30)) == {(0, 14, FORWARD)}


@given(frame_sets.filter(bool), frame_sets, frame_sets, frame_sets, st.integers(0, 59))
def test_it_never_writes_beyond_the_neighbouring_keyframes(keys, lost, missing, doubtful, current):
    stored = sorted(set(keys) | (set(range(60)) - set(missing)))
    masked = set(keys) | (set(stored) - set(lost))
    plan = plan_repair(one(keys, masked, stored, doubtful), current, 60)
    before = max((k for k in keys if k < current), default=0)
    after = min((k for k in keys if k > current), default=59)
    written = [f for r in plan.runs for f in range(r.low, r.high + 1) if f not in keys]
    written = [f for f in written if (1, f) not in plan.anchors]
    assert all(before <= f <= after for f in written)
    assert len(written) == len(set(written)) == plan.writes
    assert all(r.low <= r.least <= r.high for r in plan.runs if r.least is not None)


# ---- where it ends


@pytest.mark.parametrize("least", [40, 30, 12])
def test_a_repair_ends_where_its_masks_have_met_the_stored_ones(least):
    """The fake tracker follows the nearer keyframe: from frame 20 down, all is as it was."""
    bench = Workbench(FakeBackend())
    bench.set_frames(FakeFrames(60))
    bench.load_model("m", "cpu")
    conditions = {
        (1, 0): Condition(0, 1, None, encode(true_mask(0, 0))),
        (1, 40): Condition(40, 1, None, encode(true_mask(1, 40))),
    }
    item = one([0, 40], stored=range(41), doubtful=range(least, 40))
    plan = plan_repair(item, 40, 60)
    results = bench.track(plan, conditions, {}, lambda frame, _object_id: encode(true_mask(0, frame)))
    visited = [r.frame_index for r in results if r is not None]
    assert visited == list(range(40, min(20 - SETTLED_FRAMES, least - 1), -1))


def mask(pixels):
    picture = true_mask(0, 0) * 0
    picture.flat[:pixels] = 1
    return encode(picture)


def test_agreement_must_last_and_hold_for_every_object():
    stored = {1: mask(1000), 2: empty((64, 96))}
    settling = Settling(Run(10, 50, FORWARD, (1, 2), 12), lambda _frame, object_id: stored[object_id])

    def step(frame, pixels):
        for object_id, count in pixels.items():
            settling.note(MaskResult(frame, object_id, mask(count), 0.9, 0.9))
        return settling.is_reached(frame)

    near = round(1000 * AGREEMENT) + 1
    assert not any(step(f, {1: 1000, 2: 0}) for f in range(10, 10 + SETTLED_FRAMES))
    assert not step(15, {1: near - 20, 2: 0})
    assert not any(step(f, {1: near, 2: 0}) for f in range(16, 15 + SETTLED_FRAMES))
    assert not step(20, {1: near, 2: 5})
    assert not any(step(f, {1: near, 2: 0}) for f in range(21, 20 + SETTLED_FRAMES))
    assert step(25, {1: near, 2: 0})


def test_a_frame_without_a_stored_mask_does_not_agree():
    settling = Settling(Run(10, 50, FORWARD, (1,), 10), lambda _frame, _object_id: None)
    for frame in range(10, 30):
        settling.note(MaskResult(frame, 1, empty((64, 96)), 0.9, 0.9))
        assert not settling.is_reached(frame)
    assert not decode(empty((64, 96))).any()
