"""When calibration is offered by itself: once, after work was done; what waits is offered at the start."""

from __future__ import annotations

from fake_tracking import box
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton

from app.engine.calibration_job import Recipe, calibrations_dir, create_job
from app.ui.calibration.wizard import CLIPS, CalibrationWizard
from qcore.quant.clip_selection import ClipRequest


def offers(d, words):
    return [text for text in d.window.toasts.texts if words in text]


def press_toast(d, title):
    next(b for b in d.window.canvas.findChildren(QPushButton) if b.text() == title and b.isVisible()).click()


def wizard_of(d):
    return next(w for w in d.window.findChildren(CalibrationWizard) if w.isVisible())


def work(d, clip):
    d.key(Qt.Key.Key_B)
    d.drag(*box(1, 0))
    d.answered()
    d.key(Qt.Key.Key_T)
    d.tracked()


def test_after_a_first_project_it_is_offered_once_with_that_project(open_window, engine_backend, clip):
    d = open_window(engine_backend, clip)
    d.window.documents.close()
    assert not offers(d, "small and fast")  # nothing was done in it
    d.open(clip)
    work(d, clip)
    d.window.documents.close()
    assert offers(d, "small and fast")
    press_toast(d, "Calibrate…")
    wizard = wizard_of(d)
    assert wizard.pages.currentIndex() == CLIPS
    d.until(wizard.next.isEnabled)
    (request,) = wizard.clips.requests()
    assert request.path.name == clip.name and request.prompts[0][0] == 0
    wizard.close()
    d.window.toasts.clear()
    d.open(clip)
    d.window.documents.close()
    assert not offers(d, "small and fast")


def test_what_was_stopped_is_offered_at_the_next_start(open_window, engine_backend, clip):
    job = create_job(calibrations_dir(), Recipe("cats"), [ClipRequest(clip)])
    d = open_window(engine_backend)
    assert offers(d, "“cats” was not finished")
    gone_on = []
    d.window.calibration.resume = gone_on.append
    press_toast(d, "Go on")
    assert gone_on == [job]
    wizard_of(d).close()


def test_one_that_ended_while_the_wizard_was_closed_is_told(open_window, engine_backend):
    d = open_window(engine_backend)
    job = create_job(calibrations_dir(), Recipe("cats"), [])
    d.window.calibration.finished.emit(job)
    assert offers(d, "“cats” is calibrated")
    d.window.calibration.failed.emit("The disk is full.")
    assert offers(d, "The disk is full")
