"""Mutual-KV and the choice of the model, with a window and a session that needs no model."""

from __future__ import annotations

from fake_tracking import box
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QMenu, QPushButton

from app.ui.calibration.wizard import CalibrationWizard


def boxed(d, square=1):
    d.key(Qt.Key.Key_B)
    x0, y0, x1, y1 = box(square, 0)
    d.drag(x0, y0, x1, y1)
    d.answered()


def test_comparing_tells_what_sharing_changes_and_leaves_the_project_alone(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    panel = d.window.mutual_kv_panel
    panel.switch.setChecked(True)
    panel.compare.click()
    d.until(lambda: any("click or drag a box" in text for text in d.window.toasts.texts))
    boxed(d)
    masks = list(d.project.frames_with_mask(1))
    panel.compare.click()
    assert not panel.compare.isEnabled()
    d.until(panel.compare.isEnabled)
    assert panel.result.text().startswith("20 frames")
    assert "IoU 1.000" in panel.result.text()
    assert list(d.project.frames_with_mask(1)) == masks == [0]


def test_a_comparison_can_be_stopped_from_the_task_strip(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    panel = d.window.mutual_kv_panel
    panel.switch.setChecked(True)
    boxed(d)
    engine_backend.gate.clear()
    panel.compare.click()
    d.until(lambda: d.window.task_strip.states)
    state = d.window.task_strip.states[-1]
    assert state.title.startswith("Compare Mutual-KV") and state.can_cancel
    d.window.task_strip.cancel_requested.emit(state.task_id)
    engine_backend.gate.set()
    d.until(panel.compare.isEnabled)
    assert panel.result.text() == ""


def test_a_click_on_the_status_bar_opens_the_switch_and_the_model_is_loaded(
    open_window, engine_backend, clip
):
    d = open_window(engine_backend, clip)
    d.window.status.model.click()
    menu = next(w for w in QApplication.topLevelWidgets() if isinstance(w, QMenu) and w.isVisible())
    next(a for a in menu.actions() if a.objectName() == "model:embedded-fp16").trigger()
    menu.close()
    d.until(lambda: d.window.engine.model.model_id == "embedded-fp16")
    d.ready()
    assert d.window.status.model.text() == "Fake embedded-fp16 · fp32"
    d.window.actions_table["model.previous"].trigger()
    d.until(lambda: d.window.engine.model.model_id == "embedded")


def test_a_click_alone_notes_which_model_made_its_mask(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    assert d.project.provenance == ()
    boxed(d)
    (run,) = d.project.provenance
    assert (run.model, run.precision, run.mutual_kv_epsilon) == ("embedded", "fp32", None)
    d.window.mutual_kv_panel.switch.setChecked(True)
    d.window.mutual_kv_panel.auto.click()
    d.key(Qt.Key.Key_T)
    d.tracked()
    assert [run.mutual_kv_epsilon for run in d.project.provenance] == [None, "auto"]


def test_a_calibrated_model_is_taken_for_the_project_alone_and_given_back(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.window.dialogs.show_calibration()
    wizard = next(w for w in d.window.findChildren(CalibrationWizard))
    wizard.activated.emit("embedded-fp16", True)
    wizard.close()
    d.until(lambda: d.window.engine.model.model_id == "embedded-fp16")
    assert d.window.model_choice.project_model == "embedded-fp16"
    assert d.window.settings.value("tracking.model") == "embedded"
    buttons = d.window.canvas.findChildren(QPushButton)
    next(b for b in buttons if b.text() == "Back to embedded").click()
    d.until(lambda: d.window.engine.model.model_id == "embedded")
    assert d.window.model_choice.project_model == ""
