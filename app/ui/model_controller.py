"""Downloads, imports, checks, timings and removals of models, as background tasks of the task strip.

A download can be paused and goes on where it was, also after the program was closed or the connection lost.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from app.engine.engine import sentence
from app.engine.model_speed import KnownSpeeds, MeasuringStoppedError, measure
from app.engine.records import Phase, TaskState
from app.ui.background import Background
from app.ui.i18n import tr
from qcore.evaluation.model_speed import ModelSpeed
from qcore.models.errors import DownloadCancelledError, UnreachableError
from qcore.models.fetch import Progress
from qcore.models.install import (
    DiskUse,
    discard_download,
    disk_use,
    download_model,
    import_model,
    remove_model,
    verify_model,
)
from qcore.models.registry import ModelSpec, ModelStatus, model_statuses

FIRST_TASK = 2_000_000
"""Task ids from here on are neither the engine's nor an export's."""
MEGABYTE = 1_000_000
_TELL_S = 0.2


class Work(StrEnum):
    """What is being done to a model."""

    DOWNLOAD = "download"
    IMPORT = "import"
    VERIFY = "verify"
    MEASURE = "measure"


@dataclass(slots=True)
class _Running:
    state: TaskState
    work: Work
    stop: threading.Event = field(default_factory=threading.Event)
    """Set: the thread ends soon."""
    is_working: bool = True
    """False once the thread of a paused download has ended."""
    is_cancelled: bool = False


class ModelController(QObject):
    """Which models there are, what is known about them, and bringing more."""

    task_changed = Signal(object)
    """`TaskState`; done and total are megabytes where there are any."""
    changed = Signal()
    """The list of models, or what is known about one, is another."""
    installed = Signal(str)
    verified = Signal(str)
    """A model is intact."""
    failed = Signal(str)
    offline_changed = Signal(bool)

    def __init__(
        self, background: Background, speeds: KnownSpeeds | None = None, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._background = background
        self._speeds = speeds if speeds is not None else KnownSpeeds()
        self._ids = itertools.count(FIRST_TASK)
        self._running: dict[str, _Running] = {}
        self._intact: set[str] = set()
        self.is_offline = False
        """The last download did not reach its server."""

    # ---- what there is ---------------------------------------------------------------------------------

    def rows(self) -> list[ModelStatus]:
        """All models, installed or not."""
        return model_statuses()

    def speed(self, row: ModelStatus) -> ModelSpeed | None:
        """What was measured of an installed model on this machine."""
        return None if row.path is None else self._speeds.get(row.id, Path(row.path))

    def is_intact(self, model_id: str) -> bool:
        """True when `verify` found nothing wrong since the program started."""
        return model_id in self._intact

    def disk_use(self) -> DiskUse:
        """What models take, and what is left."""
        return disk_use()

    def state(self, model_id: str) -> TaskState | None:
        """The task of a model, while it runs or is paused."""
        known = self._running.get(model_id)
        return None if known is None else known.state

    def work(self, model_id: str) -> Work | None:
        """What that task does."""
        known = self._running.get(model_id)
        return None if known is None else known.work

    # ---- downloads -------------------------------------------------------------------------------------

    def download(self, model_id: str) -> None:
        """Download a model, from where an earlier download stopped."""
        if model_id not in self._running:
            self._begin(model_id, Work.DOWNLOAD, tr("Download {0}").format(model_id), can_pause=True)
            self._fetch(model_id)

    def _fetch(self, model_id: str) -> None:
        entry = self._running[model_id]
        entry.stop = stop = threading.Event()
        entry.is_working = True

        def done(_path: Path) -> None:
            self._set_offline(False)
            self._done(model_id)
            self.installed.emit(model_id)

        self._background.run(
            lambda: download_model(model_id, self._progress(model_id), stop.is_set),
            done,
            lambda error: self._download_ended(model_id, error),
            "download",
            may_be_left=True,
        )

    def _download_ended(self, model_id: str, error: Exception) -> None:
        entry = self._running[model_id]
        entry.is_working = False
        if not isinstance(error, DownloadCancelledError):
            self._set_offline(isinstance(error, UnreachableError))
            self._fail(model_id, error)
        elif entry.is_cancelled:
            self._end(model_id, Phase.CANCELLED)
        elif entry.state.phase is not Phase.PAUSED:
            self._fetch(model_id)  # it was let go on before the pause had come through

    def set_paused(self, task: int, paused: bool) -> None:
        """Hold a download, or let it go on."""
        for key, entry in self._running.items():
            if entry.state.task_id == task and entry.state.can_pause:
                phase = Phase.PAUSED if paused else Phase.RUNNING
                entry.state = replace(entry.state, phase=phase, eta_s=None)
                if paused:
                    entry.stop.set()
                elif not entry.is_working:
                    self._fetch(key)
                self.task_changed.emit(entry.state)
                return

    def discard(self, model_id: str) -> None:
        """Delete what an unfinished download has brought."""
        if model_id in self._running:
            return
        self._background.run(
            lambda: discard_download(model_id), lambda _none: self.changed.emit(), self._tell_error, "discard"
        )

    # ---- the rest --------------------------------------------------------------------------------------

    def import_file(self, path: Path) -> None:
        """Check a model file and copy it to the installed ones."""
        key = str(path)
        if key in self._running:
            return
        self._begin(key, Work.IMPORT, tr("Import {0}").format(path.name), can_cancel=False)

        def done(spec: ModelSpec) -> None:
            self._done(key)
            self.installed.emit(spec.id)

        self._run(key, lambda: import_model(path), done)

    def verify(self, model_id: str) -> None:
        """Check an installed model's file."""
        if model_id in self._running:
            return
        self._begin(model_id, Work.VERIFY, tr("Check {0}").format(model_id), can_cancel=False)
        self._intact.discard(model_id)

        def done(_path: Path) -> None:
            self._intact.add(model_id)
            self._done(model_id)
            self.verified.emit(model_id)

        self._run(model_id, lambda: verify_model(model_id, self._progress(model_id)), done)

    def measure(self, row: ModelStatus, device: str = "auto") -> None:
        """Time an installed model on the sample clip, in a process of its own."""
        if row.id in self._running or row.path is None:
            return
        file = Path(row.path)
        self._begin(row.id, Work.MEASURE, tr("Measure {0}").format(row.id))
        stop = self._running[row.id].stop

        def done(speed: ModelSpeed) -> None:
            self._speeds.keep(row.id, file, speed)
            self._done(row.id)

        self._run(row.id, lambda: measure(row.id, None, device, stop.is_set), done)

    def remove(self, model_id: str) -> None:
        """Delete a downloaded or imported model."""

        def done(_freed: int) -> None:
            self._intact.discard(model_id)
            self.changed.emit()

        self._background.run(lambda: remove_model(model_id), done, self._tell_error, "remove model")

    # ---- tasks -----------------------------------------------------------------------------------------

    def owns(self, task: int) -> bool:
        """True for a task of this controller that runs."""
        return any(entry.state.task_id == task for entry in self._running.values())

    def cancel(self, task: int) -> None:
        """End a download or a measurement; what a download has brought is kept for the next time."""
        for key, entry in list(self._running.items()):
            if entry.state.task_id == task:
                entry.is_cancelled = True
                entry.stop.set()
                if not entry.is_working:
                    self._end(key, Phase.CANCELLED)

    def stop(self) -> None:
        """The program ends: stop everything."""
        for entry in self._running.values():
            entry.is_cancelled = True
            entry.stop.set()

    def _run(self, key: str, work: Callable[[], object], done: Callable[..., object]) -> None:
        self._background.run(work, done, lambda error: self._fail(key, error), self._running[key].work)

    def _begin(
        self, key: str, work: Work, title: str, can_pause: bool = False, can_cancel: bool = True
    ) -> None:
        state = TaskState(next(self._ids), title, Phase.RUNNING, can_pause=can_pause, can_cancel=can_cancel)
        self._running[key] = _Running(state, work)
        self.task_changed.emit(state)
        self.changed.emit()

    def _progress(self, key: str) -> Progress:
        """A function for another thread that tells how far a file is, a few times a second."""
        began, first, last = time.monotonic(), [-1], [0.0]

        def progress(done: int, total: int) -> None:
            now = time.monotonic()
            if first[0] < 0:
                first[0] = done  # an earlier download brought these: they say nothing about the pace
            if now - last[0] >= _TELL_S or done == total:
                last[0] = now
                brought = done - first[0]
                rest_s = (total - done) * (now - began) / brought if brought > 0 else None
                self._background.post(lambda: self._tell(key, done, total, rest_s))

        return progress

    def _tell(self, key: str, done: int, total: int, eta_s: float | None) -> None:
        entry = self._running.get(key)
        if entry is not None:
            if entry.state.phase is Phase.PAUSED:
                eta_s = None
            entry.state = replace(
                entry.state, done=done // MEGABYTE, total=max(1, total // MEGABYTE), eta_s=eta_s
            )
            self.task_changed.emit(entry.state)

    def _set_offline(self, offline: bool) -> None:
        if offline != self.is_offline:
            self.is_offline = offline
            self.offline_changed.emit(offline)

    def _done(self, key: str) -> None:
        self._end(key, Phase.FINISHED)

    def _fail(self, key: str, error: Exception) -> None:
        if isinstance(error, MeasuringStoppedError):
            self._end(key, Phase.CANCELLED)
            return
        text = sentence(error)
        if isinstance(error, UnreachableError):
            text = tr("The server of {0} cannot be reached; what has arrived is kept.").format(key)
        self._end(key, Phase.FAILED, text)
        self.failed.emit(text)

    def _tell_error(self, error: Exception) -> None:
        self.failed.emit(sentence(error))

    def _end(self, key: str, phase: Phase, message: str = "") -> None:
        entry = self._running.pop(key)
        self.task_changed.emit(replace(entry.state, phase=phase, eta_s=None, message=message))
        self.changed.emit()
