"""Playback by the clock, and where the jump keys go; both without a window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.project.lanes import LaneArrays, LaneCell
from app.ui.i18n import clock, duration_phrase
from app.ui.navigation import attention, attention_frames, next_in, starts_of_runs, unreviewed_frames
from app.ui.playback import Playback, frame_at
from app.ui.state import Workspace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time():
    return Clock()


@pytest.fixture
def playback(qtbot, time):
    playback = Playback(clock=time)
    playback.set_clip(np.arange(30) / 10)  # 10 frames a second
    playback.shown = []
    playback.frame_due.connect(playback.shown.append)
    yield playback
    playback.stop()


def run(playback, time, seconds, show=True):
    time.now += seconds
    playback.tick()
    if show:
        playback.frame_shown()


def test_the_clock_decides_the_frame_and_late_frames_are_skipped(playback, time):
    playback.start(0)
    run(playback, time, 0.11)
    run(playback, time, 0.5)
    assert playback.shown == [1, 6]


def test_no_frame_is_asked_for_while_one_is_on_its_way(playback, time):
    playback.start(0)
    run(playback, time, 0.11, show=False)
    run(playback, time, 0.5, show=False)
    assert playback.shown == [1]
    playback.frame_shown()
    run(playback, time, 0.0)
    assert playback.shown == [1, 6]


def test_the_last_frame_is_shown_as_long_as_any_other_then_it_loops_or_stops(playback, time):
    playback.start(28)
    run(playback, time, 0.15)
    assert playback.shown == [29]
    run(playback, time, 0.04)
    assert playback.is_playing
    run(playback, time, 0.06)
    assert playback.shown[-1] == 0
    playback.set_loop(False)
    run(playback, time, 5.0)
    assert not playback.is_playing and playback.shown[-1] == 29


def test_a_range_and_a_speed_are_kept(playback, time):
    playback.set_range(5, 9)
    playback.start(20)
    run(playback, time, 0.11)
    assert playback.shown == [6]
    playback.set_speed(2.0)
    run(playback, time, 0.11)
    assert playback.shown == [6, 8]


@given(st.lists(st.floats(0.001, 0.2), min_size=1, max_size=40), st.floats(-1, 10))
def test_the_frame_at_a_time_is_the_last_one_that_began(gaps, seconds):
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    expected = max((i for i, t in enumerate(times) if t <= seconds), default=0)
    assert frame_at(times, seconds) == expected


def lane(cells, confidence=None, area=None, protected=()):
    n = len(cells)
    cells = np.asarray(cells, np.uint8)
    flags = np.zeros(n, np.bool_)
    flags[list(protected)] = True
    conf = np.full(n, 0.9, np.float32) if confidence is None else np.asarray(confidence, np.float32)
    conf[cells == LaneCell.NONE] = np.nan
    sizes = (
        np.where(np.isin(cells, (LaneCell.NONE, LaneCell.ABSENT)), 0, 100)
        if area is None
        else np.asarray(area)
    )
    return LaneArrays(1, cells, conf, np.zeros(n, np.bool_), flags, sizes.astype(np.int32))


T, A, P, NONE = LaneCell.TRACKED, LaneCell.ABSENT, LaneCell.PROMPTED, LaneCell.NONE


def test_low_confidence_needs_attention_unless_a_person_made_the_mask():
    assert attention_frames([lane([P, T, T, T, NONE], [0.1, 0.9, 0.2, 0.2, 0.9], protected=[3])], 0.5) == [2]


def test_the_first_frame_after_losing_the_object_needs_attention_and_the_rest_does_not():
    assert list(np.flatnonzero(attention(lane([P, T, A, A, T]), 0.5))) == [2]


def test_a_sudden_change_of_size_needs_attention():
    assert attention_frames([lane([P, T, T, T], area=[100, 110, 400, 410])], 0.5) == [2]


def test_one_stop_per_stretch_and_no_stop_beyond_the_last():
    frames = [3, 4, 5, 9, 12, 13]
    assert starts_of_runs(frames) == [3, 9, 12]
    assert next_in(frames, 5, True) == 9 and next_in(frames, 3, False) is None


def test_unreviewed_frames_are_the_tracked_ones():
    assert unreviewed_frames([lane([P, T, NONE, T])]) == [1, 3]
    assert unreviewed_frames([]) == []


def test_the_range_markers_give_way_to_the_newer_one(qtbot):
    workspace = Workspace()
    workspace.set_clip(np.arange(50) / 10, 10.0)
    assert workspace.span == (0, 49)
    workspace.set_range(10, None)
    workspace.set_range(10, 20)
    assert workspace.span == (10, 20)
    workspace.set_range(30, 20)
    assert workspace.marks == (30, None)
    workspace.set_range(30, 5)
    assert workspace.marks == (None, 5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59, "59 s"), (130, "2 min 10 s"), (3900, "1 h 5 min")]
)
def test_durations_read_as_one_would_say_them(seconds, text):
    assert duration_phrase(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.27, "00:04.27"), (59.999, "01:00.00"), (3725.5, "1:02:05.50")]
)
def test_positions_are_minutes_seconds_hundredths(seconds, text):
    assert clock(seconds) == text
