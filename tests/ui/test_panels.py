"""Panels by themselves: objects, task strip, toasts, frame facts, background work."""

from __future__ import annotations

import threading

import pytest
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QEnterEvent
from PySide6.QtWidgets import QApplication, QHBoxLayout, QPushButton, QWidget

from app.engine.records import MutualKvChoice, MutualKvComparison, MutualKvFacts, Phase, TaskState
from app.ui.background import Background
from app.ui.frame_panel import FrameFacts, FramePanel
from app.ui.mutual_kv_panel import MutualKvPanel
from app.ui.objects_panel import ROW_HEIGHT, ObjectRow, ObjectsPanel, Part
from app.ui.primary_button import PrimaryButton
from app.ui.shortcuts import ActionRegistry
from app.ui.task_strip import TaskStrip
from app.ui.toasts import Toasts, Tone


@pytest.fixture
def actions(qtbot, settings):
    window = QWidget()
    qtbot.addWidget(window)
    yield ActionRegistry(settings, window)  # the window must outlive the actions


def row(object_id, **changes):
    values = {"name": f"Object {object_id}", "class_name": "", "color": "#800000", "visible": True,
              "locked": False, "on_frame": True, **changes}  # fmt: skip
    return ObjectRow(object_id, **values)


@pytest.fixture
def panel(qtbot, actions):
    panel = ObjectsPanel(actions)
    qtbot.addWidget(panel)
    panel.resize(280, 400)
    panel.show()
    panel.set_rows([row(1), row(2, class_name="dog"), row(3)])
    qtbot.waitExposed(panel)
    return panel


def click(qtbot, panel, number, x, modifier=Qt.KeyboardModifier.NoModifier):
    rect = panel.view.visualRect(panel.model.index(number))
    at = QPoint(rect.left() + x if x >= 0 else rect.right() + x, rect.center().y())
    qtbot.mouseClick(panel.view.viewport(), Qt.MouseButton.LeftButton, modifier, at)


def test_clicking_rows_selects_one_or_several(qtbot, panel):
    told = []
    panel.selected.connect(lambda ids, active: told.append((sorted(ids), active)))
    click(qtbot, panel, 1, 80)
    click(qtbot, panel, 2, 80, Qt.KeyboardModifier.ControlModifier)
    assert [ids for ids, _ in told] == [[2], [2, 3]]


def test_colour_eye_and_lock_are_buttons_that_leave_the_selection_alone(qtbot, panel):
    parts, selections = [], []
    panel.part_clicked.connect(lambda i, part: parts.append((i, part)))
    panel.selected.connect(lambda *a: selections.append(a))
    for x in (14, -40, -16):
        click(qtbot, panel, 0, x)
    assert parts == [(1, Part.COLOR), (1, Part.VISIBLE), (1, Part.LOCK)]
    assert selections == []


def test_showing_a_selection_made_elsewhere_tells_nothing_back(qtbot, panel):
    with qtbot.assertNotEmitted(panel.selected):
        panel.set_selection([1, 3], 3)
    assert sorted(i.row() for i in panel.view.selectionModel().selectedIndexes()) == [0, 2]
    panel.set_rows([row(1, name="cat"), row(2), row(3)])
    assert len(panel.view.selectionModel().selectedIndexes()) == 2
    assert panel.view.sizeHintForRow(0) == ROW_HEIGHT


def test_an_empty_list_teaches(panel):
    panel.set_rows([])
    assert panel.hint.isVisible() and not panel.view.isVisible()


def test_the_task_strip_shows_progress_pause_and_cancel_and_hides_when_all_is_done(qtbot):
    strip = TaskStrip()
    qtbot.addWidget(strip)
    told = []
    strip.pause_requested.connect(lambda *a: told.append(("pause", *a)))
    strip.cancel_requested.connect(lambda *a: told.append(("cancel", *a)))
    strip.show_task(TaskState(7, "Track", Phase.RUNNING, 5, 20, 3.0, can_pause=True))
    assert strip.isVisible()
    labels = [w.text() for w in strip.findChildren(QWidget) if hasattr(w, "text")]
    assert "Track" in labels and "5 / 20, 3 s left" in labels
    strip._rows[7].pause.click()
    strip.show_task(TaskState(7, "Track", Phase.PAUSED, 5, 20, None, can_pause=True))
    strip._rows[7].pause.click()
    strip._rows[7].cancel.click()
    assert told == [("pause", 7, True), ("pause", 7, False), ("cancel", 7)]
    strip.show_task(TaskState(7, "Track", Phase.CANCELLED, 6, 20))
    assert [s.phase for s in strip.states] == [Phase.CANCELLED]
    qtbot.waitUntil(lambda: not strip.isVisible())


def test_a_task_that_is_over_before_it_was_shown_makes_no_row(qtbot):
    strip = TaskStrip()
    qtbot.addWidget(strip)
    strip.show_task(TaskState(1, "x", Phase.FINISHED))
    assert strip.states == [] and not strip.isVisible()


def test_a_toast_stays_under_the_pointer_and_one_that_waits_stays_anyway(qtbot):
    host = QWidget()
    qtbot.addWidget(host)
    host.resize(800, 400)
    host.show()
    toasts = Toasts(host)
    toasts.show("passing")
    toasts.show("waiting", stays=True)
    passing, waiting = toasts._shown
    for toast in (passing, waiting):
        if toast._timer.isActive():
            toast._timer.start(30)
    QApplication.sendEvent(passing, QEnterEvent(QPointF(1, 1), QPointF(1, 1), QPointF(1, 1)))
    qtbot.wait(60)
    assert toasts.texts == ["passing", "waiting"]
    passing._span_ms = 30
    QApplication.sendEvent(passing, QEvent(QEvent.Type.Leave))
    qtbot.waitUntil(lambda: toasts.texts == ["waiting"])
    qtbot.wait(60)
    assert toasts.texts == ["waiting"]


def test_toasts_stack_show_a_fact_once_and_their_button_acts(qtbot):
    host = QWidget()
    host.resize(600, 400)
    qtbot.addWidget(host)
    host.show()
    toasts = Toasts(host)
    done = []
    toasts.show("one")
    toasts.show("one")
    toasts.show("two", Tone.ERROR, "Fix", lambda: done.append(1))
    assert toasts.texts == ["one", "two"]
    button = next(b for b in host.findChildren(QPushButton) if b.text() == "Fix")
    button.click()
    assert done == [1] and toasts.texts == ["one"]
    for n in range(5):
        toasts.show(str(n))
    assert toasts.texts == ["2", "3", "4"]
    toasts.clear()
    assert toasts.texts == []


def test_of_a_topic_only_the_newest_toast_stays(qtbot):
    host = QWidget()
    qtbot.addWidget(host)
    toasts = Toasts(host)
    toasts.show("done", Tone.SUCCESS)
    for number in (1, 2, 3):
        toasts.show(f"Needs attention: {number} of 3", topic="notice")
    assert toasts.texts == ["done", "Needs attention: 3 of 3"]


def test_the_frame_panel_offers_accept_only_where_there_is_something_to_accept(qtbot, actions):
    panel = FramePanel(actions)
    qtbot.addWidget(panel)
    panel.show()
    panel.show_facts(FrameFacts("dog", hint="Not tracked on this frame yet: press T."))
    assert not panel.accept.isVisible() and panel.hint.isVisible()
    panel.show_facts(FrameFacts("dog", "tracked", 0.41, "10 px", needs_attention=True, can_accept=True))
    assert panel.accept.isEnabled() and panel.attention.isVisible()
    assert panel.confidence.text() == "0.41"
    panel.show_facts(FrameFacts("dog", "tracked", 1.0, "10 px", reviewed=True))
    assert not panel.accept.isEnabled() and panel.accept.text() == "Accepted"


def test_background_results_and_errors_come_back_to_the_gui_thread(qtbot):
    background = Background()
    got = []

    def fail():
        raise ValueError("no")

    background.run(lambda: threading.current_thread().name, lambda r: got.append(("ok", r)), got.append, "w1")
    background.run(fail, got.append, lambda e: got.append((str(e), threading.current_thread())), "w2")
    qtbot.waitUntil(lambda: len(got) == 2)
    background.shutdown()
    assert ("ok", "w1") in got and ("no", threading.main_thread()) in got


def test_work_that_may_be_left_does_not_hold_the_end_of_the_program(qtbot, monkeypatch):
    monkeypatch.setattr("app.ui.background.LEAVE_AFTER_S", 0.05)
    background, release = Background(), threading.Event()
    background.run(lambda: release.wait(20), print, print, "stalled", may_be_left=True)
    (thread,) = background._threads
    background.shutdown()
    assert background.is_busy
    release.set()
    thread.join(20)
    assert not background.is_busy


def test_mutual_kv_is_one_setting_shown_in_two_places(qtbot, settings):
    panel = MutualKvPanel(settings)
    qtbot.addWidget(panel)
    panel.show()
    told = []
    panel.chosen.connect(told.append)
    panel.switch.setChecked(True)
    panel.slider.setValue(160)
    assert told == [MutualKvChoice(True, 0.94), MutualKvChoice(True, 0.8)]
    settings.set("tracking.mutual_kv_epsilon", 0.6)
    assert panel.slider.value() == 120 and panel.value.text() == "0.600"
    panel.show_facts(MutualKvFacts(7.0, 3.0, 0.41, 4032, 1728, 3.14, 2.2, 0.6))
    assert panel.facts.text() == "7.0 → 3.0 memories, −41 % attention"
    assert panel.cost.text() == "1,728 of 4,032 keys, 3.1 ms a frame, saves about 2.2 ms"


def test_the_calibrated_likeness_is_marked_and_taken_exactly_or_by_itself(qtbot, settings):
    panel = MutualKvPanel(settings)
    qtbot.addWidget(panel)
    settings.set("tracking.mutual_kv", True)
    panel.resize(260, 200)
    panel.show()
    assert panel.slider.mark is None and panel.calibrated.isHidden()
    panel.set_calibrated(0.8737)
    told = []
    panel.chosen.connect(told.append)
    low, high = panel.slider.minimum(), panel.slider.maximum()
    assert low < panel.slider.mark < high and 0 < panel.slider.mark_x() < panel.slider.width()
    panel.calibrated.click()
    # the exact value, although the slider's steps are coarser
    assert settings.value("tracking.mutual_kv_epsilon") == 0.8737 and panel.value.text() == "0.874"
    panel.auto.click()
    assert told[-1] == MutualKvChoice(True, None) and not panel.slider.isEnabled()
    assert panel.value.text() == "0.874"
    panel.set_calibrated(None)
    panel.show_facts(MutualKvFacts(7.0, 3.0, 0.41, 4032, 1728, 3.1, 2.2, 0.91))
    assert panel.value.text() == "0.910"
    panel.auto.click()
    assert told[-1] == MutualKvChoice(True, 0.8737) and panel.slider.isEnabled()


def test_a_comparison_is_said_in_one_line_and_leads_to_the_worst_frame(qtbot, settings):
    panel = MutualKvPanel(settings)
    qtbot.addWidget(panel)
    panel.show_comparing(True)
    assert not panel.compare.isEnabled()
    panel.show_comparison(MutualKvComparison(20, 40, 0.9934, 0.9611, 17, 41.23, 33.04, 7.0, 3.0, 0.94))
    panel.show_comparing(False)
    assert panel.compare.isEnabled()
    assert panel.result.text().startswith("20 frames at 0.940: IoU 0.993, 41.2 → 33.0 ms a frame")
    with qtbot.waitSignal(panel.frame_wanted) as signal:
        panel.result.linkActivated.emit("#")
    assert signal.args == [17]


def test_the_primary_button_shortens_its_words_where_there_is_little_room(qtbot):
    holder = QWidget()
    qtbot.addWidget(holder)
    row = QHBoxLayout(holder)
    button = PrimaryButton("Track")
    row.addWidget(button)
    long, short = "Track 2 objects, frames 50–288, about 1 min 35 s", "Track 2 objects, frames 50–288"
    button.set_texts(long, short)
    holder.resize(700, 60)
    holder.show()
    assert button.text() == long
    holder.resize(holder.minimumSizeHint())
    qtbot.waitUntil(lambda: button.text() == short)
    assert button.fontMetrics().horizontalAdvance(short) < button.width()
    holder.resize(700, 60)
    qtbot.waitUntil(lambda: button.text() == long)
