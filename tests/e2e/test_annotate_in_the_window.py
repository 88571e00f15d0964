"""A person annotates a clip through the real window; what counts is what the project file holds then."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from fake_tracking import HEIGHT, WIDTH, FakeSession, box, centre, true_mask
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLineEdit

from app.project.model import MaskSource
from app.project.project import Project
from qcore.masks import decode, encode
from qcore.tracking.types import MaskResult

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


def saved(driver):
    """The project as another program would find it on the disk."""
    path = driver.project.path
    driver.close()
    return Project.open(path)


def assert_follows(project, object_id, square, frames):
    for frame in frames:
        mask = project.mask(frame, object_id)
        assert mask is not None, f"frame {frame} has no mask"
        union = (decode(mask.rle) | true_mask(square, frame)).sum()
        assert (decode(mask.rle) & true_mask(square, frame)).sum() / union > 0.95


def test_box_track_quit_and_everything_is_there(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    assert d.window.workspace.selection == (1,)
    d.until(d.window.transport.primary.isEnabled)
    d.qtbot.mouseClick(d.window.transport.primary, Qt.MouseButton.LeftButton)
    d.tracked()
    with saved(d) as project:
        assert project.path == clip.with_suffix(".qmsproj")
        assert project.prompt(0, 1).box_xyxy is not None
        assert project.mask(0, 1).source is MaskSource.PROMPT
        assert_follows(project, 1, 0, range(24))
        assert {project.mask(f, 1).source for f in range(1, 24)} == {MaskSource.PROPAGATED}


def test_two_objects_by_click_and_box_are_tracked_together(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.click(*centre(0, 0))
    d.answered()
    d.key(Qt.Key.Key_Return)
    d.drag(*box(1, 0))
    d.answered()
    d.until(lambda: "2 objects" in d.window.transport.primary.text())
    assert "0–23" in d.window.transport.primary.text()
    d.key(Qt.Key.Key_T)
    d.tracked()
    with saved(d) as project:
        assert sorted(project.objects) == [1, 2]
        assert_follows(project, 1, 0, range(24))
        assert_follows(project, 2, 1, range(24))


def test_the_primary_button_fills_what_is_missing(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.window.navigation.jump(12)
    d.at(12)
    d.drag(*box(0, 12))
    d.answered()
    primary = d.window.transport.primary
    for frame, words in ((12, "Track 1 object, frames 12–23"), (17, "Track 1 object, frames 0–12")):
        d.window.navigation.jump(frame)
        d.until(lambda words=words: primary.text().startswith(words))
        d.qtbot.mouseClick(primary, Qt.MouseButton.LeftButton)
        d.tracked()
    d.until(lambda: primary.text() == "Everything is tracked" or primary.text().startswith("Track again"))
    walks = [entry[:2] for name, entry in engine_backend.session.log if name == "propagate"]
    assert walks == [(12, 23), (12, 0)]
    with saved(d) as project:
        assert_follows(project, 1, 0, range(24))


def test_negative_click_needs_something_to_refine(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.click(*centre(0, 0), Qt.MouseButton.RightButton)
    assert not d.project.objects
    assert d.window.toasts.texts
    d.click(*centre(0, 0))
    d.answered()
    d.click(*centre(1, 0), Qt.MouseButton.RightButton)
    d.answered()
    with saved(d) as project:
        assert project.prompt(0, 1).labels == (1, 0)


def test_one_propagation_is_one_undo_step_and_redo_brings_it_back(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.key(Qt.Key.Key_T)
    d.tracked()
    assert d.window.document.undo_stack.count() == 2
    d.key(Qt.Key.Key_Z, CTRL)
    assert list(d.project.frames_with_mask(1)) == [0]
    d.key(Qt.Key.Key_Z, CTRL)
    assert not d.project.objects
    d.key(Qt.Key.Key_Z, CTRL | SHIFT)
    d.key(Qt.Key.Key_Y, CTRL)
    with saved(d) as project:
        assert_follows(project, 1, 0, range(24))


def test_undo_and_redo_go_to_the_frame_they_change(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.window.navigation.jump(9)
    d.at(9)
    d.click(*centre(0, 9))
    d.answered()
    frames = []
    for modifier in (CTRL, CTRL, CTRL | SHIFT, CTRL | SHIFT):
        d.window.navigation.jump(20)
        d.key(Qt.Key.Key_Z, modifier)
        frames.append(d.window.workspace.frame)
    assert frames == [9, 0, 0, 9]


def test_undo_while_tracking_stops_it_and_takes_it_back(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    engine_backend.hold_at = 6
    engine_backend.gate.clear()
    d.key(Qt.Key.Key_T)
    d.until(lambda: len(d.project.frames_with_mask(1)) == 6)
    d.key(Qt.Key.Key_Z, CTRL)
    assert not d.window.tracking.is_running
    engine_backend.gate.set()
    d.until(lambda: not d.window.engine.running_tasks)
    with saved(d) as project:
        assert list(project.frames_with_mask(1)) == [0]


def test_quitting_in_the_middle_of_tracking_keeps_the_finished_frames(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    engine_backend.hold_at = 9
    engine_backend.gate.clear()
    d.key(Qt.Key.Key_T)
    d.until(lambda: len(d.project.frames_with_mask(1)) == 9)
    engine_backend.gate.set()
    with saved(d) as project:
        assert_follows(project, 1, 0, range(9))


def test_a_correction_is_kept_and_repair_stays_between_the_keyframes(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.key(Qt.Key.Key_T)
    d.tracked()
    d.key(Qt.Key.Key_End)
    d.at(23)
    d.key(Qt.Key.Key_Return, CTRL)  # accept the last frame
    d.window.navigation.jump(10)
    d.at(10)
    d.drag(*box(1, 10))  # the object is the other square from here on
    d.answered()
    before = {f: d.project.mask(f, 1).rle for f in (0, 10, 23)}
    d.key(Qt.Key.Key_R)
    d.tracked()
    visited = [entry for name, entry in engine_backend.session.log if name == "propagate"][-2:]
    assert {(start, stop) for start, stop, _, _ in visited} == {(10, 0), (10, 23)}
    with saved(d) as project:
        assert {f: project.mask(f, 1).rle for f in (0, 10, 23)} == before
        assert project.mask(23, 1).reviewed
        assert_follows(project, 1, 1, [8, 9, 10, 11, 12])


def test_repair_leaves_alone_what_was_good(open_window, engine_backend, clip):
    engine_backend.unsure = {14, 15}
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.key(Qt.Key.Key_T)
    d.tracked()
    d.window.navigation.jump(16)
    d.at(16)
    d.drag(*box(1, 16))  # the tracker follows the nearer keyframe: down to frame 9 it changes its mind
    d.answered()
    d.until(lambda: d.window.transport.primary.text() == "Repair 1 object around frame 16")
    d.qtbot.mouseClick(d.window.transport.primary, Qt.MouseButton.LeftButton)
    d.tracked()
    assert d.window.workspace.frame == 16
    assert d.window.toasts.texts[-1] == "Repaired frames 9–23."
    with saved(d) as project:
        assert_follows(project, 1, 0, range(9))
        assert_follows(project, 1, 1, range(9, 24))


def test_tracking_both_ways_and_backwards_and_inside_a_range(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.window.navigation.jump(12)
    d.at(12)
    d.drag(*box(0, 12))
    d.answered()
    for frame, key in ((8, Qt.Key.Key_I), (15, Qt.Key.Key_O)):
        d.window.navigation.jump(frame)
        d.key(key)
    d.window.navigation.jump(12)
    d.key(Qt.Key.Key_T, CTRL)
    d.tracked()
    assert list(d.project.frames_with_mask(1)) == list(range(8, 16))
    d.window.actions_table["track.clear_range"].trigger()
    d.window.navigation.jump(8)
    d.key(Qt.Key.Key_T, SHIFT)
    d.tracked()
    with saved(d) as project:
        assert list(project.frames_with_mask(1)) == list(range(16))
        assert_follows(project, 1, 0, range(16))


def test_the_brush_makes_a_protected_mask_that_tracking_keeps(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.window.navigation.jump(5)
    d.at(5)
    d.key(Qt.Key.Key_P)
    d.window.canvas.brush_radius = 4
    x, y = centre(1, 5)
    d.drag(x - 6, y, x + 6, y)
    painted = d.project.mask(5, 1)
    assert painted.source is MaskSource.EDITED and painted.is_protected
    assert decode(painted.rle)[int(y), int(x)] == 1
    d.window.navigation.jump(0)
    d.key(Qt.Key.Key_T)
    d.tracked()
    with saved(d) as project:
        assert project.mask(5, 1).rle == painted.rle
        assert np.asarray(project.frames_with_mask(1)).size == 24


def test_a_copied_mask_is_pasted_on_another_frame_as_a_keyframe(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.key(Qt.Key.Key_V, CTRL)
    assert "No mask was copied" in d.window.toasts.texts[-1]
    d.drag(*box(1, 0))
    d.answered()
    d.key(Qt.Key.Key_C, CTRL)
    d.window.navigation.jump(7)
    d.at(7)
    d.key(Qt.Key.Key_V, CTRL)
    assert d.project.mask(7, 1).rle == d.project.mask(0, 1).rle
    d.key(Qt.Key.Key_Z, CTRL)
    assert d.project.mask(7, 1) is None
    d.key(Qt.Key.Key_Z, CTRL | SHIFT)
    with saved(d) as project:
        assert project.mask(7, 1).is_protected
        assert_follows(project, 1, 1, [7])


def test_a_second_window_session_goes_on_where_the_first_one_ended(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.window.navigation.jump(7)
    d.close()
    again = open_window(engine_backend, clip)
    assert again.window.workspace.frame == 7
    assert list(again.project.objects) == [1]
    again.window.navigation.jump(0)
    again.at(0)
    again.window.workspace.select([1])
    again.key(Qt.Key.Key_T)
    again.tracked()
    with saved(again) as project:
        assert_follows(project, 1, 0, range(24))


def test_objects_are_named_hidden_locked_and_deleted_with_undo(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    panel = d.window.objects_panel
    d.key(Qt.Key.Key_F2)
    d.until(lambda: panel.view.viewport().findChild(QLineEdit) is not None)
    editor = panel.view.viewport().findChild(QLineEdit)
    assert editor.selectedText() == "Object 1"
    d.qtbot.keyClicks(editor, "the d")
    d.qtbot.keyClick(editor, Qt.Key.Key_Return)
    d.until(lambda: d.project.objects[1].name == "the d")
    assert d.window.workspace.frame == 0  # letters typed into the field are no shortcuts
    d.window.canvas.setFocus()
    d.key(Qt.Key.Key_H)
    d.key(Qt.Key.Key_L)
    assert (d.project.objects[1].visible, d.project.objects[1].locked) == (False, True)
    d.click(*centre(0, 0))
    assert d.project.prompt(0, 1).points_xy == ()
    d.key(Qt.Key.Key_L)
    d.key(Qt.Key.Key_Delete, SHIFT)
    assert not d.project.objects
    d.key(Qt.Key.Key_Z, CTRL)
    with saved(d) as project:
        assert project.objects[1].name == "the d" and not project.objects[1].locked
        assert project.mask(0, 1) is not None


def test_jumping_to_what_needs_attention(open_window, engine_backend, clip):
    engine_backend.unsure = {9, 10, 17}
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.key(Qt.Key.Key_T)
    d.tracked()
    d.window.navigation.jump(0)
    stops = []
    for _ in range(2):
        d.key(Qt.Key.Key_N)
        stops.append(d.window.workspace.frame)
    d.key(Qt.Key.Key_N, SHIFT)
    assert [*stops, d.window.workspace.frame] == [9, 17, 9]
    d.at(9)
    d.key(Qt.Key.Key_Return, CTRL)
    with saved(d) as project:
        assert project.mask(9, 1).reviewed and not project.mask(10, 1).reviewed


@pytest.mark.parametrize("kind", ["text", "empty", "gone"])
def test_a_bad_file_is_one_sentence_and_the_open_document_stays(
    open_window, engine_backend, clip, tmp_path, kind
):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    bad = tmp_path / "bad.mp4"
    if kind != "gone":
        bad.write_text("no video" if kind == "text" else "")
    d.window.documents.open(str(bad))
    d.until(lambda: d.window.toasts.texts)
    assert "bad.mp4" in d.window.toasts.texts[-1]
    with saved(d) as project:
        assert project.mask(0, 1) is not None


@pytest.mark.parametrize("kind", ["damaged", "newer", "another file"])
def test_a_project_that_cannot_be_read_is_one_sentence_and_is_left_alone(
    open_window, engine_backend, clip, tmp_path, kind
):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    bad = tmp_path / "bad.qmsproj"
    shutil.copy(d.project.path, bad)
    if kind == "damaged":
        bad.write_bytes(bad.read_bytes()[:3000])
    elif kind == "newer":
        with closing(sqlite3.connect(bad)) as connection:
            connection.execute("PRAGMA user_version = 999")
    else:
        bad.write_text("{}")
    before = bad.read_bytes()
    d.window.documents.open(str(bad))
    d.until(lambda: d.window.toasts.texts)
    assert "bad.qmsproj" in d.window.toasts.texts[-1]
    assert bad.read_bytes() == before
    with saved(d) as project:
        assert project.path == clip.with_suffix(".qmsproj")
        assert project.mask(0, 1) is not None


def test_a_disk_that_fills_up_while_tracking_keeps_what_was_saved(
    open_window, engine_backend, clip, monkeypatch
):
    noise = encode(np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5)  # 3 KB a mask
    monkeypatch.setattr(FakeSession, "_track", lambda _self, f, i: MaskResult(f, i, noise, 0.9, 0.9))
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    connection = d.project._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    d.key(Qt.Key.Key_T)
    d.until(lambda: any("is full" in text for text in d.window.toasts.texts))
    d.tracked()
    kept = d.project.mask(0, 1).rle
    with saved(d) as project:
        assert project.mask(0, 1).rle == kept
        assert list(project.frames_with_mask(1)) == [0]


def test_a_moved_video_is_asked_for_and_found_again(open_window, engine_backend, clip, tmp_path, monkeypatch):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    path = d.project.path
    d.close()
    moved = tmp_path / "elsewhere" / "renamed.mp4"
    moved.parent.mkdir()
    clip.rename(moved)
    again = open_window(engine_backend)
    asked = []
    monkeypatch.setattr(again.window.dialogs, "ask_for_video", asked.append)
    again.window.documents.video_missing.connect(asked.append)
    again.window.documents.open(str(path))
    again.until(lambda: asked)
    box_shown = again.window.findChild(object, "relink")
    if box_shown is not None:
        box_shown.setObjectName("")
        box_shown.blockSignals(True)
        box_shown.close()
    again.window.documents.relink(str(moved))
    again.until(lambda: again.window.document.is_open)
    with saved(again) as project:
        assert project.video.path == str(moved)
        assert project.mask(0, 1) is not None


def test_an_object_out_of_view_is_said_so_and_stays_so(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.window.navigation.jump(6)
    d.at(6)
    d.key(Qt.Key.Key_0)
    assert d.project.mask(6, 1).rle.is_empty and d.project.mask(6, 1).is_protected
    d.window.navigation.jump(0)
    d.key(Qt.Key.Key_T)
    d.tracked()
    d.key(Qt.Key.Key_Z, CTRL)
    d.key(Qt.Key.Key_Z, CTRL | SHIFT)
    with saved(d) as project:
        assert project.mask(6, 1).rle.is_empty
        assert_follows(project, 1, 0, range(4))  # nearer to the prompt than to the empty mask
