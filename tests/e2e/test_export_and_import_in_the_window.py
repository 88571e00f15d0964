"""Exports and imports through the dialogs of the real window; other programs' readers read the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_tracking import box, true_mask
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from PySide6.QtCore import Qt

from app.engine.records import Phase
from app.formats import ExportOptions
from app.ui.export_dialog import ExportDialog


@pytest.fixture
def tracked(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.drag(*box(0, 0))
    d.answered()
    d.key(Qt.Key.Key_Return)
    d.drag(*box(1, 0))
    d.answered()
    d.key(Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    d.key(Qt.Key.Key_T)
    d.tracked()
    return d


def dialog_of(d):
    d.key(Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier)
    d.until(lambda: d.window.findChild(ExportDialog) is not None)
    return d.window.findChild(ExportDialog)


def choose(dialog, format_id):
    for row in range(dialog.formats.count()):
        if dialog.formats.item(row).data(Qt.ItemDataRole.UserRole) == format_id:
            dialog.formats.setCurrentRow(row)
    assert dialog.format.id == format_id


def export(d, format_id, path):
    dialog = dialog_of(d)
    choose(dialog, format_id)
    dialog.path.setText(str(path))
    done = []
    d.window.transfers.task_changed.connect(lambda state: done.append(state.phase))
    d.qtbot.mouseClick(dialog.export_button, Qt.MouseButton.LeftButton)
    d.until(lambda: done and done[-1].is_over)
    assert done[-1] is Phase.FINISHED
    d.until(lambda: d.window.findChild(ExportDialog) is None)


def test_coco_opens_in_pycocotools_with_the_same_masks(tracked, tmp_path):
    export(tracked, "coco", tmp_path / "out.json")
    coco = COCO(str(tmp_path / "out.json"))
    assert len(coco.imgs) == 24 and len(coco.anns) == 48
    for annotation in coco.anns.values():
        frame = coco.imgs[annotation["image_id"]]["frame_index"]
        decoded = coco.annToMask(annotation)
        expected = true_mask(annotation["track_id"] - 1, frame)
        assert (decoded & expected).sum() / (decoded | expected).sum() > 0.95


def test_sa_v_has_a_masklet_an_object_and_a_toast_says_what_was_written(tracked, tmp_path):
    export(tracked, "sav", tmp_path / "out_manual.json")
    document = json.loads((tmp_path / "out_manual.json").read_text())
    assert document["masklet_num"] == 2
    first = coco_mask.decode(document["masklet"][0][0])
    assert (first & true_mask(0, 0)).sum() / (first | true_mask(0, 0)).sum() > 0.95
    assert any("out_manual.json" in text for text in tracked.window.toasts.texts)


def test_the_dialog_says_beforehand_what_would_be_lost(tracked):
    dialog = dialog_of(tracked)
    choose(dialog, "coco")
    tracked.until(lambda: "48 masks on 24 frames" in dialog.losses.text())
    assert "Nothing is lost" in dialog.losses.text()
    dialog.editor("stride").setValue(4)
    tracked.until(lambda: "12 masks on 6 frames" in dialog.losses.text())
    assert "36 masks" in dialog.losses.text()
    dialog.reject()


def test_a_place_that_cannot_be_written_is_one_sentence(tracked, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    tracked.window.toasts.clear()
    tracked.window.transfers.export("coco", blocked / "out.json", ExportOptions())
    tracked.until(lambda: tracked.window.toasts.texts)
    assert tracked.window.toasts.texts[-1].endswith(".")


def test_what_was_exported_comes_back_as_one_undo_step(tracked, tmp_path, monkeypatch):
    export(tracked, "coco", tmp_path / "out.json")
    project, stack = tracked.project, tracked.window.document.undo_stack
    before = stack.count()
    monkeypatch.setattr(
        "app.ui.window_dialogs.QFileDialog.getOpenFileName", lambda *_: (str(tmp_path / "out.json"), "")
    )
    tracked.window.actions_table["file.import"].trigger()
    tracked.until(lambda: len(project.objects) == 4)
    assert stack.count() == before + 1
    for square, object_id in ((0, 3), (1, 4)):
        ours = np.asarray(project.frames_with_mask(object_id))
        assert list(ours) == list(range(24))
        assert project.mask(7, object_id).rle == project.mask(7, square + 1).rle
    tracked.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert sorted(project.objects) == [1, 2]


def test_a_file_that_is_no_annotation_changes_nothing(tracked, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    tracked.window.toasts.clear()
    tracked.window.transfers.import_file(bad)
    tracked.until(lambda: tracked.window.toasts.texts)
    assert "bad.json" in tracked.window.toasts.texts[-1]
    assert sorted(tracked.project.objects) == [1, 2]
