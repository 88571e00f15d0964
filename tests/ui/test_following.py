"""Following a pass: which of its frames are shown, without a window."""

from __future__ import annotations

import numpy as np
import pytest

from app.ui.following import EVERY_MS, Following
from app.ui.playback import Playback
from app.ui.state import Workspace


@pytest.fixture
def workspace(qtbot):
    workspace = Workspace()
    workspace.set_clip(np.arange(100) / 25, 25.0)
    workspace.went = []
    workspace.frame_changed.connect(workspace.went.append)
    return workspace


@pytest.fixture
def playback(qtbot, workspace):
    playback = Playback()
    playback.set_clip(workspace.timestamps_s)
    yield playback
    playback.stop()


@pytest.fixture
def following(workspace, settings, playback):
    following = Following(workspace, settings, playback)
    following.set_running(True)
    return following


def after_the_pause(qtbot, workspace, frame):
    qtbot.waitUntil(lambda: workspace.frame == frame, timeout=20 * EVERY_MS)


def test_the_first_frame_shows_at_once_and_then_the_newest_when_it_is_time(qtbot, following, workspace):
    for frame in range(1, 9):
        following.tracked(frame)
    assert workspace.went == [1]
    after_the_pause(qtbot, workspace, 8)
    following.tracked(9)
    following.tracked(10)
    assert workspace.went == [1, 8]
    after_the_pause(qtbot, workspace, 10)


def test_a_frame_after_a_long_time_shows_at_once(qtbot, following, workspace):
    following.tracked(1)
    qtbot.waitUntil(lambda: not following._pause.isActive(), timeout=20 * EVERY_MS)
    following.tracked(2)
    assert workspace.went == [1, 2]


def test_the_last_frame_shows_when_the_pass_ends(following, workspace):
    for frame in (1, 2, 3):
        following.tracked(frame)
    following.set_running(False)
    following.set_running(False)
    assert workspace.went == [1, 3]
    following.set_running(True)
    following.tracked(20)
    assert workspace.went == [1, 3, 20]


def test_who_looks_elsewhere_stays_there(qtbot, following, workspace):
    following.tracked(1)
    workspace.go_to(50)
    following.tracked(2)
    qtbot.wait(2 * EVERY_MS)
    following.tracked(3)
    following.set_running(False)
    assert workspace.frame == 50


def test_who_works_on_a_frame_stays_there_until_the_next_pass(qtbot, following, workspace):
    following.tracked(1)
    following.leave()
    following.tracked(2)
    qtbot.wait(2 * EVERY_MS)
    following.set_running(False)
    assert workspace.frame == 1
    following.set_running(True)
    following.tracked(30)
    assert workspace.frame == 30


def test_work_right_before_a_pass_does_not_keep_the_user_there(following, workspace):
    following.set_running(False)
    following.leave()  # a box was drawn
    following.set_running(True)
    following.tracked(1)
    assert workspace.frame == 1


def test_nothing_is_followed_when_switched_off_or_playing(following, workspace, settings, playback):
    playback.start(0)
    following.tracked(1)
    playback.stop()
    settings.set("tracking.follow", False)
    following.tracked(2)
    following.set_running(False)
    assert workspace.went == []


def test_another_clip_does_not_go_to_the_old_ones_frame(following, workspace):
    following.tracked(1)
    following.tracked(2)
    following.clear()
    assert workspace.went == [1]
