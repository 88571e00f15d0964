"""The window's handle on the model: every call returns at once, every answer comes as a signal.

The engine lives in the GUI thread and owns one worker thread, the only one that touches the model. Signals
are emitted in the GUI thread and carry RLE masks and plain records, never tensors.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QCoreApplication, QObject, Qt, Signal, Slot

from app.engine.backend import Backend, QcoreBackend, Recall
from app.engine.plan import TrackPlan
from app.engine.queue import Job, JobQueue, Priority
from app.engine.records import (
    EngineError,
    ModelPhase,
    ModelState,
    MutualKvChoice,
    Phase,
    TaskState,
)
from app.engine.workbench import Condition, Conditions, Key, Timing, Workbench
from qcore.masks import Rle
from qcore.tracking.types import MaskResult, Prompt

log = logging.getLogger(__name__)

NEIGHBOURS = 8
"""Frames encoded ahead and behind the shown one while nothing else is to do."""
PROGRESS_INTERVAL_S = 0.15


def sentence(error: BaseException) -> str:
    """One sentence for the person at the screen; errors of our own packages already are one."""
    if type(error).__module__.split(".")[0] in ("app", "qcore", "resources") and str(error):
        return str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return QCoreApplication.translate(
            "Engine", "There is not enough memory for this: choose a smaller model or close other programs."
        )
    if isinstance(error, OSError) and error.strerror:
        name = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{name}."
    return QCoreApplication.translate(
        "Engine", "Something unexpected went wrong ({0}); details are in the log."
    ).format(type(error).__name__)


class Engine(QObject):
    """Model, tracking session and job queue behind signals."""

    model_changed = Signal(object)
    """`ModelState`."""
    mask_ready = Signal(int, object)
    """Answer to `click`: request id, `MaskResult`."""
    preview_ready = Signal(int, object)
    """Answer to `preview`: request id, `MaskResult`."""
    request_failed = Signal(int, str)
    """A click could not be answered: request id, sentence."""
    masks_tracked = Signal(int, object)
    """Masks of a running propagation: task id, tuple of `MaskResult`."""
    task_changed = Signal(object)
    """`TaskState`."""
    encoded_changed = Signal(object)
    """bool array with one flag per frame (features are cached), or None without a session."""
    timing_changed = Signal(object)
    """`Timing`: what a frame costs."""
    failed = Signal(str)
    """Background work failed: one sentence."""
    busy_changed = Signal(bool)
    mutual_kv_changed = Signal(object)
    """`MutualKvFacts`, or None while there are none."""
    mutual_kv_compared = Signal(object)
    """`MutualKvComparison`."""

    _posted = Signal(object)

    def __init__(self, backend: Backend | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bench = Workbench(backend if backend is not None else QcoreBackend())
        self._queue = JobQueue()
        self._ids = itertools.count(1)
        self._tasks: dict[int, tuple[Job, TaskState]] = {}
        self._focus = -1
        self._frame_count = 0
        self._last_encoded_post = 0.0
        self.model = ModelState()
        self.timing = Timing()
        self._posted.connect(self._run_posted, Qt.ConnectionType.QueuedConnection)
        self._thread = threading.Thread(target=self._work, name="engine")
        self._thread.start()

    # ---- life ------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Cancel everything, keep what is done, and wait for the thread to end. May be called twice."""
        self._queue.close()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._queue.is_closed:
            if not self._queue.run_one():
                self._queue.wait()
        while self._queue.run_one():
            pass  # cancelled jobs still close their iterators and report their end
        self._bench.close()

    def _post(self, call: Callable[[], None]) -> None:
        """Run a call in the GUI thread, in order."""
        try:
            self._posted.emit(call)
        except RuntimeError:  # the QObject is gone: the program is ending
            log.debug("dropped a message of the engine after its end")

    @Slot(object)
    def _run_posted(self, call: Callable[[], None]) -> None:
        call()

    # ---- model and video -------------------------------------------------------------------------------

    def load_model(self, model_id: str, device: str = "auto") -> None:
        """Load a model in the background; the old one answers until then, and stays if loading fails."""
        self.cancel_all()
        self._set_model(ModelState(ModelPhase.LOADING, model_id, model_id))

        def start() -> None:
            loaded = self._bench.load_model(model_id, device)
            state = ModelState(
                ModelPhase.READY, loaded.model_id, loaded.title, loaded.device, loaded.precision,
                mutual_kv_epsilon=loaded.mutual_kv_epsilon, back_end=loaded.back_end, kernels=loaded.kernels,
                devices=loaded.devices,
            )  # fmt: skip
            self._post(lambda: self._set_model(state))
            self._post_encoded(force=True)
            self._encode_around()

        def fail(error: Exception) -> None:
            log.error("loading model %s failed", model_id, exc_info=error)
            state = ModelState(ModelPhase.FAILED, model_id, model_id, message=sentence(error))
            self._post(lambda: self._set_model(state))

        self._queue.submit(Job(Priority.CONTROL, start, fail, key="model"))

    def _set_model(self, state: ModelState) -> None:
        self.model = state
        self.model_changed.emit(state)

    def set_frames(self, frames: Any, frame_count: int = 0) -> None:
        """Take over a frame source that nothing else uses; None closes the video."""
        self.cancel_all()
        self._focus = -1
        self._frame_count = frame_count

        def start() -> None:
            self._bench.set_frames(frames)
            self._post_encoded(force=True)
            self._encode_around()

        self._queue.submit(Job(Priority.CONTROL, start, self._fail_quietly))

    def set_focus(self, frame_index: int) -> None:
        """The user looks at this frame: encode it first, its neighbours when nothing else is to do."""
        if frame_index == self._focus:
            return
        self._focus = frame_index
        self._encode_around()

    def _encode_around(self) -> None:
        frame = self._focus
        if not 0 <= frame < self._frame_count:
            return

        def arrive() -> None:
            if frame == self._focus and self._bench.encode(frame):
                self._post_encoded()

        def neighbours() -> Iterator[None]:
            for distance in range(1, NEIGHBOURS + 1):
                for index in (frame + distance, frame - distance):
                    if frame != self._focus:
                        return
                    if 0 <= index < self._frame_count and self._bench.encode(index):
                        self._post_encoded()
                        yield
            self._post_encoded(force=True)

        self._queue.submit(Job(Priority.ARRIVAL, arrive, self._fail_quietly, key="arrival"))
        self._queue.submit(Job(Priority.IDLE, neighbours, self._fail_quietly, key="neighbours"))

    def _post_encoded(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._last_encoded_post < PROGRESS_INTERVAL_S:
            return
        self._last_encoded_post = now
        flags = self._bench.encoded_frames()
        timing = replace(self._bench.timing)
        facts = self._bench.mutual_kv_facts()

        def tell() -> None:
            self.timing = timing
            self.timing_changed.emit(timing)
            self.encoded_changed.emit(flags)
            self.mutual_kv_changed.emit(facts)

        self._post(tell)

    def set_mutual_kv(self, choice: MutualKvChoice) -> None:
        """Let memory frames that look alike share keys and values; takes effect with the next frame."""

        def start() -> None:
            self._bench.set_mutual_kv(choice)
            self._post(lambda: self.mutual_kv_changed.emit(None))

        self._queue.submit(Job(Priority.CONTROL, start, self._fail_quietly, key="mutual-kv"))

    # ---- prompts ---------------------------------------------------------------------------------------

    def click(
        self, prompt: Prompt, conditions: Conditions, prior: Rle | None = None, by_hand: bool = False
    ) -> int:
        """Ask for the mask of a prompt; the answer is `mask_ready` or `request_failed` with the returned id.

        ``conditions`` are the object's keyframes, ``prior`` its present mask on that frame (see
        `Workbench.click`).
        """
        request = next(self._ids)
        held = dict(conditions)

        def start() -> None:
            result = self._bench.click(prompt, held, prior, by_hand)
            self._post(lambda: self.mask_ready.emit(request, result))
            self._post_encoded()

        def fail(error: Exception) -> None:
            log.error("a prompt failed", exc_info=error)
            text = sentence(error)
            self._post(lambda: self.request_failed.emit(request, text))

        self._queue.submit(Job(Priority.CLICK, start, fail))
        return request

    def preview(self, prompt: Prompt) -> int:
        """Ask what a prompt would give; only the newest unanswered preview is kept."""
        request = next(self._ids)

        def start() -> None:
            if not self._bench.can_track:
                return
            result = self._bench.preview(prompt)
            self._post(lambda: self.preview_ready.emit(request, result))

        self._queue.submit(Job(Priority.PREVIEW, start, self._fail_quietly, key="preview"))
        return request

    def drop_preview(self) -> None:
        """The pointer left: forget a waiting preview."""
        self._queue.drop("preview")

    # ---- tracking --------------------------------------------------------------------------------------

    def track(
        self,
        title: str,
        plan: TrackPlan,
        conditions: Conditions,
        anchors: Mapping[Key, Rle],
        recall: Recall | None = None,
    ) -> int:
        """Start a propagation and return its task id; masks arrive by `masks_tracked`.

        ``recall`` gives masks of earlier work behind the start; it is called on the engine's thread.
        """
        if plan.is_empty:
            raise EngineError("There is nothing to track.")
        total = sum(run.steps for run in plan.runs)
        held: dict[Key, Condition] = dict(conditions)
        starts = dict(anchors)
        meter = _Meter(total)

        def steps(task: int) -> Iterator[None]:
            meter.begin()
            with closing(self._bench.track(plan, held, starts, recall)) as results:
                for result in results:
                    if result is not None:
                        meter.done += 1
                        self._post_masks(task, result)
                    if meter.is_due():
                        self._post_progress(task, meter)
                    self._post_encoded()
                    yield
            self._post_encoded(force=True)

        return self._begin(title, total, meter, steps)

    def compare_mutual_kv(
        self, title: str, plan: TrackPlan, conditions: Conditions, anchors: Mapping[Key, Rle]
    ) -> int:
        """Track a plan without and with sharing, keep no mask, and tell `mutual_kv_compared`; the task id."""
        if plan.is_empty:
            raise EngineError("There is nothing to compare.")
        held: dict[Key, Condition] = dict(conditions)
        starts = dict(anchors)
        meter = _Meter(1)

        def steps(task: int) -> Iterator[None]:
            meter.begin()
            work = self._bench.compare_mutual_kv(plan, held, starts)
            with closing(work):
                while True:
                    try:
                        meter.done, meter.total = next(work)
                    except StopIteration as end:
                        found = end.value
                        break
                    if meter.is_due():
                        self._post_progress(task, meter)
                    yield
            self._post(lambda: self.mutual_kv_compared.emit(found))

        return self._begin(title, 0, meter, steps)

    def _begin(self, title: str, total: int, meter: _Meter, steps: Callable[[int], Iterator[None]]) -> int:
        """Queue long work as a task that can be paused and cancelled; its id."""
        task = next(self._ids)

        def end(cancelled: bool) -> None:
            phase = Phase.CANCELLED if cancelled else Phase.FINISHED
            done = meter.done
            self._post(lambda: self._finish_task(task, phase, done))

        def fail(error: Exception) -> None:
            log.error("%s failed", title, exc_info=error)
            text, done = sentence(error), meter.done
            self._post(lambda: self._finish_task(task, Phase.FAILED, done, text))

        job = Job(Priority.PROPAGATE, lambda: steps(task), fail, end)
        state = TaskState(task, title, Phase.RUNNING, 0, total, can_pause=True)
        self._tasks[task] = (job, state)
        self.task_changed.emit(state)
        self.busy_changed.emit(True)
        self._queue.submit(job)
        return task

    def _post_masks(self, task: int, result: MaskResult) -> None:
        self._post(lambda: self.masks_tracked.emit(task, (result,)))

    def _post_progress(self, task: int, meter: _Meter) -> None:
        done, total, eta_s = meter.done, meter.total, meter.eta_s()

        def tell() -> None:
            if task in self._tasks:
                job, state = self._tasks[task]
                if state.phase is Phase.RUNNING:
                    self._tasks[task] = (job, replace(state, done=done, total=total, eta_s=eta_s))
                    self.task_changed.emit(self._tasks[task][1])

        self._post(tell)

    def _finish_task(self, task: int, phase: Phase, done: int, message: str = "") -> None:
        entry = self._tasks.pop(task, None)
        if entry is None:
            return
        self.task_changed.emit(replace(entry[1], phase=phase, done=done, eta_s=None, message=message))
        if not self._tasks:
            self.busy_changed.emit(False)

    @property
    def running_tasks(self) -> tuple[TaskState, ...]:
        """Propagations that are not over."""
        return tuple(state for _, state in self._tasks.values())

    def cancel(self, task: int) -> None:
        """End a propagation before its next step; its masks stay."""
        if task in self._tasks:
            self._queue.cancel(self._tasks[task][0])

    def cancel_all(self) -> None:
        """End every propagation."""
        for task in list(self._tasks):
            self.cancel(task)

    def set_paused(self, task: int, paused: bool) -> None:
        """Hold a propagation between two frames, or let it go on."""
        if task not in self._tasks:
            return
        job, state = self._tasks[task]
        self._queue.set_paused(job, paused)
        phase = Phase.PAUSED if paused else Phase.RUNNING
        self._tasks[task] = (job, replace(state, phase=phase, eta_s=None))
        self.task_changed.emit(self._tasks[task][1])

    def _fail_quietly(self, error: Exception) -> None:
        log.error("background work failed", exc_info=error)
        text = sentence(error)
        self._post(lambda: self.failed.emit(text))


class _Meter:
    """Counts what is done and estimates the rest from the pace of the last seconds (worker thread only)."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._last_report = 0.0
        self._marks: list[tuple[float, int]] = []

    def begin(self) -> None:
        self._marks = [(time.monotonic(), 0)]

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self._last_report < PROGRESS_INTERVAL_S:
            return False
        self._last_report = now
        self._marks.append((now, self.done))
        if len(self._marks) > 40:
            del self._marks[0]
        return True

    def eta_s(self) -> float | None:
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        if done <= before or now <= then:
            return None
        return (self.total - done) * (now - then) / (done - before)
