"""The engine through its signals, with a session that needs no model."""

from __future__ import annotations

import threading

import pytest
from fake_tracking import FakeBackend, FakeFrames, box, true_mask

from app.engine.engine import Engine, sentence
from app.engine.plan import ObjectFrames, plan_tracking
from app.engine.records import EngineError, ModelPhase, MutualKvChoice, Phase
from app.engine.workbench import Condition
from qcore.masks import decode, encode
from qcore.tracking.types import Direction, Prompt


@pytest.fixture
def backend():
    return FakeBackend()


@pytest.fixture
def engine(qtbot, backend):
    engine = Engine(backend)
    yield engine
    backend.gate.set()
    engine.shutdown()


@pytest.fixture
def ready(qtbot, engine):
    with qtbot.waitSignal(engine.model_changed, check_params_cb=lambda s: s.is_ready):
        engine.load_model("m")
    engine.set_frames(FakeFrames(), 24)
    return engine


def collect(signal):
    got = []
    signal.connect(lambda *args: got.append(args))
    return got


def forward(ids=(1,)):
    return plan_tracking([ObjectFrames(i, [0]) for i in ids], Direction.FORWARD, 0, 0, 23)


CONDITIONS = {(i, 0): Condition(0, i, None, encode(true_mask(i - 1, 0))) for i in (1, 2)}


def test_all_work_happens_on_one_other_thread_and_answers_come_back_to_this_one(qtbot, ready, backend):
    where = []
    ready.mask_ready.connect(lambda *_: where.append(threading.current_thread()))
    with qtbot.waitSignal(ready.mask_ready) as signal:
        request = ready.click(Prompt(0, 1, box_xyxy=box(0, 0)), {})
    got, result = signal.args
    assert got == request
    assert (decode(result.rle) == true_mask(0, 0)).all()
    assert backend.threads == {"engine"}
    assert where == [threading.main_thread()]


def test_a_click_is_answered_while_a_propagation_runs(qtbot, ready, backend):
    events = []
    ready.masks_tracked.connect(lambda _task, results: events.append(results[0].frame_index))
    ready.mask_ready.connect(lambda *_: events.append("click"))
    backend.gate.clear()
    task = ready.track("t", forward(), CONDITIONS, {})
    ready.click(Prompt(3, 2, box_xyxy=box(1, 3)), {})
    backend.gate.set()
    with qtbot.waitSignal(ready.task_changed, check_params_cb=lambda s: s.phase is Phase.FINISHED) as end:
        pass
    assert end.args[0].task_id == task and end.args[0].done == 24
    assert "click" in events
    assert events.index("click") < events.index(23)


def test_cancel_keeps_what_is_done_and_tells_so(qtbot, ready, backend):
    got = collect(ready.masks_tracked)
    backend.hold_at = 5
    backend.gate.clear()
    task = ready.track("t", forward(), CONDITIONS, {})
    qtbot.waitUntil(lambda: len(got) == 5)
    with qtbot.waitSignal(ready.task_changed, check_params_cb=lambda s: s.phase.is_over) as end:
        ready.cancel(task)
        backend.gate.set()
    assert end.args[0].phase is Phase.CANCELLED
    assert [r[0].frame_index for _, r in got] == list(range(6))
    assert end.args[0].done == 6
    assert ready.running_tasks == ()


def test_a_paused_propagation_answers_clicks_and_goes_on_where_it_was(qtbot, ready, backend):
    got = collect(ready.masks_tracked)
    backend.gate.clear()
    task = ready.track("t", forward(), CONDITIONS, {})
    ready.set_paused(task, True)
    assert ready.running_tasks[0].phase is Phase.PAUSED
    backend.gate.set()
    with qtbot.waitSignal(ready.mask_ready):
        ready.click(Prompt(5, 2, box_xyxy=box(1, 5)), {})
    before = len(got)
    assert before < 24
    with qtbot.waitSignal(ready.task_changed, check_params_cb=lambda s: s.phase is Phase.FINISHED):
        ready.set_paused(task, False)
    assert [r[0].frame_index for _, r in got] == list(range(24))


def test_a_failing_tracker_ends_its_task_with_a_sentence_and_leaves_the_engine_alive(qtbot, ready, backend):
    backend.fail_at = 4
    got = collect(ready.masks_tracked)
    with qtbot.waitSignal(ready.task_changed, check_params_cb=lambda s: s.phase is Phase.FAILED) as end:
        ready.track("t", forward(), CONDITIONS, {})
    assert end.args[0].message.endswith(".") and len(got) == 4
    with qtbot.waitSignal(ready.mask_ready):
        ready.click(Prompt(0, 1, box_xyxy=box(0, 0)), {})


def test_a_failed_click_says_so_with_its_request(qtbot, ready, backend):
    backend.fail_clicks = True
    with qtbot.waitSignal(ready.request_failed) as signal:
        request = ready.click(Prompt(0, 1, box_xyxy=box(0, 0)), {})
    assert signal.args[0] == request and "ValueError" in signal.args[1]


def test_a_model_that_does_not_load_leaves_the_old_one(qtbot, ready, backend):
    backend.fail_load = True
    with qtbot.waitSignal(ready.model_changed, check_params_cb=lambda s: s.phase is ModelPhase.FAILED) as s:
        ready.load_model("missing")
    assert "No such file or directory" in s.args[0].message
    with qtbot.waitSignal(ready.mask_ready):
        ready.click(Prompt(0, 1, box_xyxy=box(0, 0)), {})


def test_the_shown_frame_is_encoded_first_and_then_its_neighbours(qtbot, ready, backend):
    ready.set_focus(10)
    qtbot.waitUntil(lambda: bool(backend.sessions))
    qtbot.waitUntil(lambda: sum(name == "encode" for name, _ in backend.session.log) == 17)
    order = [frame for name, frame in backend.session.log if name == "encode"]
    assert order[:3] == [10, 11, 9]
    assert set(order) == set(range(2, 19))


def test_the_encoded_flags_arrive_when_the_neighbours_are_done(qtbot, ready):
    with qtbot.waitSignal(ready.encoded_changed, check_params_cb=lambda f: f is not None and f.sum() == 9):
        ready.set_focus(0)


def test_tracking_nothing_is_refused_at_once(ready):
    empty = plan_tracking([], Direction.FORWARD, 0, 0, 23)
    with pytest.raises(EngineError):
        ready.track("t", empty, {}, {})


def test_shutdown_during_a_propagation_ends_the_thread_and_closes_the_frames(qtbot, ready, backend):
    got = collect(ready.masks_tracked)
    backend.hold_at = 3
    backend.gate.clear()
    ready.track("t", forward((1, 2)), CONDITIONS, {})
    qtbot.waitUntil(lambda: len(got) == 6)
    frames = backend.session.frames
    backend.gate.set()
    ready.shutdown()
    assert frames.closed
    assert not any(t.name == "engine" for t in threading.enumerate())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EngineError("One sentence."), "One sentence."),
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried"), "not enough memory"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied (/x)."),
        (KeyError("x"), "KeyError"),
    ],
)
def test_every_error_becomes_a_sentence(error, words):
    assert words in sentence(error)


def test_mutual_kv_reaches_the_session_survives_a_new_model_and_its_numbers_come_back(qtbot, ready, backend):
    choice = MutualKvChoice(True, 0.9)
    ready.set_mutual_kv(choice)
    with qtbot.waitSignal(ready.mutual_kv_changed, check_params_cb=lambda f: f is not None) as signal:
        ready.track("t", forward(), CONDITIONS, {})
    assert signal.args[0].saved_share == 0.41
    with qtbot.waitSignal(ready.model_changed, check_params_cb=lambda s: s.is_ready):
        ready.load_model("other")
    assert ("mutual_kv", choice) in backend.session.log and len(backend.sessions) == 2
