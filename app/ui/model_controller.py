"""Downloads, imports and removals of models as background tasks; an interrupted download continues later."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from app.engine.engine import sentence
from app.engine.records import Phase, TaskState
from app.ui.background import Background
from app.ui.i18n import tr
from qcore.models.errors import DownloadCancelledError
from qcore.models.install import download_model, import_model, remove_model
from qcore.models.registry import ModelSpec, ModelStatus, model_statuses

FIRST_TASK = 2_000_000
"""Task ids from here on are neither the engine's nor an export's."""
MEGABYTE = 1_000_000


class ModelController(QObject):
    """Which models there are, and bringing more."""

    task_changed = Signal(object)
    """`TaskState`; done and total are megabytes."""
    changed = Signal()
    """The list of models is another."""
    installed = Signal(str)
    failed = Signal(str)

    def __init__(self, background: Background, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._background = background
        self._ids = itertools.count(FIRST_TASK)
        self._running: dict[str, tuple[TaskState, threading.Event]] = {}

    def rows(self) -> list[ModelStatus]:
        """All models, installed or not."""
        return model_statuses()

    def state(self, model_id: str) -> TaskState | None:
        """The task that brings a model, while it runs."""
        known = self._running.get(model_id)
        return None if known is None else known[0]

    def download(self, model_id: str) -> None:
        """Download a model."""
        if model_id in self._running:
            return
        cancelled = threading.Event()
        began = time.monotonic()
        self._begin(model_id, tr("Download {0}").format(model_id), cancelled)
        last = [0.0]

        def progress(done: int, total: int) -> None:
            now = time.monotonic()
            if now - last[0] >= 0.2 or done == total:
                last[0] = now
                rest_s = (total - done) * (now - began) / done if done else None
                self._background.post(lambda: self._tell(model_id, done, total, rest_s))

        self._background.run(
            lambda: download_model(model_id, progress, cancelled.is_set),
            lambda _path: self._done(model_id, model_id),
            lambda error: self._fail(model_id, error),
            "download",
        )

    def import_file(self, path: Path) -> None:
        """Check a model file and copy it to the installed ones."""
        key = str(path)
        if key in self._running:
            return
        self._begin(key, tr("Import {0}").format(path.name), threading.Event())

        def done(spec: ModelSpec) -> None:
            self._done(key, spec.id)

        self._background.run(
            lambda: import_model(path), done, lambda error: self._fail(key, error), "import model"
        )

    def remove(self, model_id: str) -> None:
        """Delete a downloaded or imported model."""
        self._background.run(
            lambda: remove_model(model_id),
            lambda _freed: self.changed.emit(),
            lambda error: self.failed.emit(sentence(error)),
            "remove model",
        )

    def owns(self, task: int) -> bool:
        """True for a task of this controller that runs."""
        return any(state.task_id == task for state, _ in self._running.values())

    def cancel(self, task: int) -> None:
        """Stop a download; what has arrived is kept for the next time."""
        for state, cancelled in self._running.values():
            if state.task_id == task:
                cancelled.set()

    def stop(self) -> None:
        """Stop all downloads."""
        for _, cancelled in self._running.values():
            cancelled.set()

    def _begin(self, key: str, title: str, cancelled: threading.Event) -> None:
        state = TaskState(next(self._ids), title, Phase.RUNNING)
        self._running[key] = (state, cancelled)
        self.task_changed.emit(state)
        self.changed.emit()

    def _tell(self, key: str, done: int, total: int, eta_s: float | None) -> None:
        if key in self._running:
            state, cancelled = self._running[key]
            state = replace(state, done=done // MEGABYTE, total=max(1, total // MEGABYTE), eta_s=eta_s)
            self._running[key] = (state, cancelled)
            self.task_changed.emit(state)

    def _done(self, key: str, model_id: str) -> None:
        self._end(key, Phase.FINISHED)
        self.installed.emit(model_id)

    def _fail(self, key: str, error: Exception) -> None:
        if isinstance(error, DownloadCancelledError):
            self._end(key, Phase.CANCELLED)
            return
        text = sentence(error)
        self._end(key, Phase.FAILED, text)
        self.failed.emit(text)

    def _end(self, key: str, phase: Phase, message: str = "") -> None:
        state, _ = self._running.pop(key)
        self.task_changed.emit(replace(state, phase=phase, eta_s=None, message=message))
        self.changed.emit()
