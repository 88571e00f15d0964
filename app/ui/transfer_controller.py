"""Exports and imports as background tasks: progress, cancel, losses told, imports that can be undone."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QObject, QUrl, Signal
from PySide6.QtGui import QDesktopServices

from app.engine.engine import sentence
from app.engine.records import Phase, TaskState
from app.formats import FORMATS, ExportCancelled, ExportOptions, ExportReport, guess_format
from app.project.errors import ProjectError
from app.project.imported import Imported
from app.project.track_edits import MergedImport, merge_imported
from app.ui.background import Background
from app.ui.document import Document
from app.ui.i18n import objects_phrase, tr

log = logging.getLogger(__name__)

FIRST_TASK = 1_000_000
"""Task ids from here on are not the engine's."""
REPORT_INTERVAL_S = 0.1


class TransferController(QObject):
    """Runs exports and imports beside the window."""

    task_changed = Signal(object)
    """`TaskState`."""
    exported = Signal(object)
    """`ExportReport`."""
    imported = Signal(str)
    """What came in, one sentence."""
    failed = Signal(str)

    def __init__(self, document: Document, background: Background, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._document = document
        self._background = background
        self._ids = itertools.count(FIRST_TASK)
        self._cancels: dict[int, threading.Event] = {}
        self._states: dict[int, TaskState] = {}

    # ---- export ----------------------------------------------------------------------------------------

    def export(self, format_id: str, path: Path, options: ExportOptions) -> int:
        """Write the project in a format; returns the task id."""
        project = self._document.need()
        entry = FORMATS[format_id]
        task, cancelled = self._begin(tr("Export {0}").format(entry.title))

        def work() -> ExportReport:
            return entry.export(project, path, options, self._progress(task, cancelled))

        def done(report: ExportReport) -> None:
            self._end(task, Phase.FINISHED)
            self.exported.emit(report)

        def fail(error: Exception) -> None:
            if isinstance(error, ExportCancelled):
                self._end(task, Phase.CANCELLED)
                return
            text = sentence(error)
            self._end(task, Phase.FAILED, text)
            self.failed.emit(text)

        self._background.run(work, done, fail, "export")
        return task

    # ---- import ----------------------------------------------------------------------------------------

    def import_file(self, path: Path) -> int:
        """Bring annotations in as new objects, as one undo step; returns the task id."""
        project = self._document.need()
        task, _ = self._begin(tr("Import {0}").format(path.name))

        def work() -> tuple[str, Imported, MergedImport]:
            format_id = guess_format(path)
            found = FORMATS[format_id].read(path, project.video)
            return format_id, found, merge_imported(project, found)

        def done(result: tuple[str, Imported, MergedImport]) -> None:
            format_id, found, merged = result
            if self._document.project is not project:
                self._end(task, Phase.CANCELLED)
                return
            try:
                command = self._document.do(replace(merged.change, title=tr("Import {0}").format(path.name)))
                for key, value in merged.meta.items():
                    project.set_meta(key, value)
            except ProjectError as error:
                fail(error)
                return
            self._end(task, Phase.FINISHED)
            if command is not None:
                self.imported.emit(_summary(FORMATS[format_id].title, found, len(merged.object_ids)))

        def fail(error: Exception) -> None:
            text = sentence(error)
            self._end(task, Phase.FAILED, text)
            self.failed.emit(text)

        self._background.run(work, done, fail, "import")
        return task

    # ---- tasks -----------------------------------------------------------------------------------------

    def owns(self, task: int) -> bool:
        """True for a task of this controller that runs."""
        return task in self._cancels

    def cancel(self, task: int) -> None:
        """Ask a task to end; nothing of it stays on the disk."""
        if task in self._cancels:
            self._cancels[task].set()

    def stop(self) -> None:
        """Ask all tasks to end."""
        for event in self._cancels.values():
            event.set()

    def _begin(self, title: str) -> tuple[int, threading.Event]:
        task = next(self._ids)
        cancelled = threading.Event()
        self._cancels[task] = cancelled
        self._states[task] = TaskState(task, title, Phase.RUNNING)
        self.task_changed.emit(self._states[task])
        return task, cancelled

    def _progress(self, task: int, cancelled: threading.Event) -> Callable[[int, int], None]:
        began = time.monotonic()
        last = [0.0]

        def progress(done: int, total: int) -> None:
            if cancelled.is_set():
                raise ExportCancelled
            now = time.monotonic()
            if now - last[0] < REPORT_INTERVAL_S and done < total:
                return
            last[0] = now
            eta_s = (total - done) * (now - began) / done if done else None
            self._background.post(lambda: self._tell(task, done, total, eta_s))

        return progress

    def _tell(self, task: int, done: int, total: int, eta_s: float | None) -> None:
        if task in self._cancels:
            self._states[task] = replace(self._states[task], done=done, total=total, eta_s=eta_s)
            self.task_changed.emit(self._states[task])

    def _end(self, task: int, phase: Phase, message: str = "") -> None:
        self._cancels.pop(task, None)
        state = self._states.pop(task)
        self.task_changed.emit(replace(state, phase=phase, eta_s=None, message=message))


def show_in_folder(path: Path) -> None:
    """Open the folder of a file, or a folder itself."""
    QDesktopServices.openUrl(QUrl.fromLocalFile(str(path if path.is_dir() else path.parent)))


def _summary(title: str, found: Imported, objects: int) -> str:
    text = tr("{0}: {1} with {2} masks came in.").format(title, objects_phrase(objects), found.mask_count)
    return " ".join((text, *found.notes))
