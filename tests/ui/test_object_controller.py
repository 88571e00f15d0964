"""What the objects' menu and keys do to the document, through the real window."""

from __future__ import annotations

import pytest
from fake_tracking import box, centre
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent

from app.ui.object_controller import QInputDialog

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def two(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.key(Qt.Key.Key_Return)
    d.drag(*box(1, 0))
    d.answered()
    return d


def choose(d, object_id, *path):
    """Trigger an entry of an object's menu by its words."""
    menu = d.window.objects.build_menu(object_id)
    for words in path[:-1]:
        menu = next(a for a in menu.actions() if a.text().startswith(words)).menu()
    next(a for a in menu.actions() if a.text().startswith(path[-1])).trigger()


def type_name(monkeypatch, name):
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: (name, True))


def test_classes_are_made_given_by_key_renamed_and_deleted(two, monkeypatch):
    d = two
    type_name(monkeypatch, "square")
    choose(d, 2, "Class", "New class")
    assert d.project.classes[1].name == "square" and d.project.objects[2].class_id == 1
    d.key(Qt.Key.Key_1)
    d.key(Qt.Key.Key_1, SHIFT)
    assert d.project.objects[1].class_id == 1
    type_name(monkeypatch, "box")
    choose(d, 1, "Class", "Rename")
    assert d.project.classes[1].name == "box"
    choose(d, 1, "Class", "Delete")
    assert not d.project.classes and d.project.objects[1].class_id is None
    d.key(Qt.Key.Key_Z, CTRL)
    assert d.project.objects[2].class_id == 1


def test_a_class_that_does_not_exist_is_said_so(two):
    two.window.toasts.clear()
    two.key(Qt.Key.Key_3, SHIFT)
    assert "class 3" in two.window.toasts.texts[-1]


def test_objects_are_merged_split_and_brought_to_the_front(two):
    d = two
    choose(d, 1, "Bring to the front")
    assert next(iter(d.project.objects)) == 1
    d.key(Qt.Key.Key_A, CTRL)
    d.key(Qt.Key.Key_T)
    d.tracked()
    choose(d, 1, "Merge with", "2")
    assert list(d.project.objects) == [1]
    d.key(Qt.Key.Key_Z, CTRL)
    d.window.navigation.jump(12)
    choose(d, 2, "New object from this frame")
    assert list(d.project.frames_with_mask(3)) == list(range(12, 24))
    assert list(d.project.frames_with_mask(2)) == list(range(12))


def test_tab_digits_and_ctrl_click_select(two):
    d = two
    d.key(Qt.Key.Key_Tab)
    assert d.window.workspace.selection == (1,)
    d.key(Qt.Key.Key_2)
    assert d.window.workspace.selection == (2,)
    d.qtbot.mouseClick(d.window.canvas, Qt.MouseButton.LeftButton, CTRL, d.place(*centre(0, 0)))
    assert d.window.workspace.selection == (1,)
    d.key(Qt.Key.Key_A, CTRL)
    assert sorted(d.window.workspace.selection) == [1, 2]


def test_clearing_the_object_the_frame_and_the_tracked_masks(two):
    d = two
    d.key(Qt.Key.Key_A, CTRL)
    d.key(Qt.Key.Key_T)
    d.tracked()
    d.key(Qt.Key.Key_1)
    d.window.navigation.jump(5)
    d.key(Qt.Key.Key_Delete)
    assert d.project.mask(5, 1) is None and d.project.mask(5, 2) is not None
    d.key(Qt.Key.Key_Delete, CTRL)
    assert d.project.mask(5, 2) is None
    d.window.actions_table["edit.clear_tracked"].trigger()
    assert list(d.project.frames_with_mask(1)) == [0]
    assert len(d.project.frames_with_mask(2)) == 23
    for _ in range(3):
        d.key(Qt.Key.Key_Z, CTRL)
    assert len(d.project.frames_with_mask(1)) == 24


def test_hiding_all_masks_and_highlighting_changes(two):
    d = two
    d.qtbot.keyPress(d.window.canvas, Qt.Key.Key_Alt)
    assert d.window.canvas.overlay_hidden
    d.qtbot.keyRelease(d.window.canvas, Qt.Key.Key_Alt)
    assert not d.window.canvas.overlay_hidden
    d.key(Qt.Key.Key_T)
    d.tracked()
    d.window.navigation.jump(3)
    d.at(3)
    d.key(Qt.Key.Key_C)
    assert d.window.presenter.highlight_changes


def drop(d, path):
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(20, 20),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    d.window.canvas.dropEvent(event)


def test_a_dropped_video_is_opened(open_window, engine_backend, clip):
    d = open_window(engine_backend)
    drop(d, clip)
    d.until(lambda: d.window.document.is_open)
    assert d.project.video.path == str(clip)


def test_dropped_annotations_go_into_the_open_project(two, tmp_path):
    bad = tmp_path / "notes.json"
    bad.write_text("[]")
    two.window.toasts.clear()
    drop(two, bad)
    two.until(lambda: two.window.toasts.texts)
    assert "notes.json" in two.window.toasts.texts[-1]
    assert two.project.video.frame_count == 24
