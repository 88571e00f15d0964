"""Mutual-KV and the choice of the model, with a window and a session that needs no model."""

from __future__ import annotations

from fake_tracking import box
from PySide6.QtCore import Qt


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
