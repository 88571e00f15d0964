"""An object that left the picture: a key for this frame, a click for the frames that went wrong with it."""

from __future__ import annotations

import numpy as np
import pytest
from fake_tracking import box, true_mask
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton

from app.project.edits import store_results
from app.ui.navigation import run_around
from qcore.masks import encode
from qcore.tracking.types import MaskResult

CTRL = Qt.KeyboardModifier.ControlModifier


@pytest.fixture
def tracked(open_window, engine_backend, clip):
    """Object 1 on all frames, of which 8 to 12 are doubtful."""
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.key(Qt.Key.Key_T)
    d.tracked()
    unsure = [MaskResult(f, 1, encode(true_mask(0, f)), 0.2, 0.6) for f in range(8, 13)]
    d.window.document.do(store_results(d.project, unsure))
    d.window.navigation.jump(10)
    d.at(10)
    return d


def gone(d):
    return [f for f in range(24) if d.project.mask(f, 1).rle.is_empty]


def press_the_offer(d):
    toast = next(t for t in d.window.canvas.findChildren(QPushButton) if t.text().startswith("Also"))
    words = toast.text()
    toast.click()
    return words


def test_a_doubtful_stretch_goes_with_one_click_and_comes_back_with_one_undo(tracked):
    d = tracked
    d.key(Qt.Key.Key_0)
    assert gone(d) == [10]
    assert press_the_offer(d) == "Also frames 8–12"
    assert gone(d) == [8, 9, 10, 11, 12]
    d.key(Qt.Key.Key_Z, CTRL)
    assert gone(d) == [10]


def test_with_markers_the_range_is_offered_without_what_a_person_settled(tracked):
    d = tracked
    d.window.workspace.set_range(0, 15)
    d.key(Qt.Key.Key_0)
    press_the_offer(d)
    assert gone(d) == list(range(1, 16))  # frame 0 was boxed


def test_where_nothing_is_doubtful_nothing_more_is_offered(tracked):
    d = tracked
    d.window.navigation.jump(20)
    d.at(20)
    d.key(Qt.Key.Key_0)
    assert gone(d) == [20]
    assert not any("not in view" in text for text in d.window.toasts.texts)


def test_a_locked_object_stays_and_it_is_said_why(tracked):
    d = tracked
    d.key(Qt.Key.Key_L)
    d.key(Qt.Key.Key_0)
    assert gone(d) == []
    assert "locked" in d.window.toasts.texts[-1]


def test_the_run_around_a_frame_by_hand():
    flags = np.array([0, 1, 1, 0, 1], bool)
    assert [run_around(flags, f) for f in range(5)] == [None, (1, 2), (1, 2), None, (4, 4)]
    assert run_around(np.ones(3, bool), 1) == (0, 2)


def test_the_lane_shows_a_gap_where_it_is_not_in_view(tracked):
    d = tracked
    d.key(Qt.Key.Key_0)
    lanes = d.window.timeline_presenter
    d.until(lambda: 1 in lanes._lanes and lanes._lanes[1].gone[10])
    lane = lanes._lanes[1]
    assert np.flatnonzero(~lane.present).tolist() == [10] == np.flatnonzero(lane.absent).tolist()
