"""Runs calibrations for the window: one at a time, shown in the task strip, resumable after a quit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from PySide6.QtCore import QObject, Signal

from app.engine.calibration_job import CalibrationJob, Recipe, calibrations_dir, create_job, waiting_jobs
from app.engine.calibration_process import CalibrationProcess
from app.engine.records import Phase, TaskState
from app.ui.i18n import tr
from qcore.quant.clip_selection import ClipRequest

TASK = 3_000_000
"""The one task id of a calibration."""


class CalibrationController(QObject):
    """The calibration that runs, if any."""

    progressed = Signal(object)
    """The event of the process: a dict with stage, module, unit, units, done, loss, eta_s."""
    task_changed = Signal(object)
    finished = Signal(object)
    """`CalibrationJob` with model and report."""
    failed = Signal(str)
    stopped = Signal()
    """Ended early; it can go on later."""
    paused_changed = Signal(bool)

    def __init__(self, root: Path | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.root = root if root is not None else calibrations_dir()
        self.job: CalibrationJob | None = None
        self.is_paused = False
        self._process: CalibrationProcess | None = None
        self._message = ""
        self._was_asked = False
        """The process said that it stops because it was told to."""
        self._last: dict[str, Any] = {}

    @property
    def is_running(self) -> bool:
        """True while a process works or waits."""
        return self._process is not None and self._process.is_running

    def waiting(self) -> list[CalibrationJob]:
        """Calibrations that can go on, and finished ones that are not in use; newest first."""
        running = self.job if self.is_running else None
        return [job for job in waiting_jobs(self.root) if job != running]

    def unfinished(self) -> list[CalibrationJob]:
        """Calibrations that can go on."""
        return [job for job in self.waiting() if not job.is_finished]

    def show(self, job: CalibrationJob) -> None:
        """Make a finished calibration the present one again."""
        if not self.is_running:
            self.job = job
            self.finished.emit(job)

    def begin(self, recipe: Recipe, requests: Sequence[ClipRequest]) -> None:
        """Start a new calibration."""
        try:
            job = create_job(self.root, recipe, requests)
        except OSError as error:
            self.failed.emit(tr("The calibration cannot be kept: {0}.").format(error.strerror or error))
            return
        self.resume(job)

    def resume(self, job: CalibrationJob) -> None:
        """Start a calibration, or go on with one where it stopped."""
        if self.is_running:
            self.failed.emit(tr("A calibration is running already."))
            return
        self.job, self._message, self._last, self.is_paused = job, "", {}, False
        self._was_asked = False
        process = self._process = CalibrationProcess(self)
        process.told.connect(self._on_event)
        process.ended.connect(self._on_end)
        process.start(job.arguments())
        self._tell(Phase.RUNNING)

    def set_paused(self, paused: bool) -> None:
        """Hold the work between two steps, or let it go on."""
        if self._process is not None and self.is_running:
            self._process.say("pause" if paused else "resume")
            self.is_paused = paused
            self.paused_changed.emit(paused)
            self._tell(Phase.PAUSED if paused else Phase.RUNNING)

    def cancel(self) -> None:
        """End the work; what is finished is kept."""
        if self._process is not None:
            self._process.say("stop")

    def shutdown(self) -> None:
        """The window closes."""
        if self._process is not None:
            self._process.kill()

    def owns(self, task: int) -> bool:
        """True for the task of the running calibration."""
        return task == TASK and self.is_running

    def _on_event(self, value: dict[str, Any]) -> None:
        if value["event"] == "progress":
            self._last = value
            self.progressed.emit(value)
            self._tell(Phase.PAUSED if self.is_paused else Phase.RUNNING)
        elif value["event"] == "error":
            self._message = str(value.get("message", ""))
        elif value["event"] == "stopped":
            self._was_asked = True

    def _on_end(self, has_result: bool) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        job = self.job
        if has_result and job is not None and job.is_finished:
            self._tell(Phase.FINISHED)
            self.finished.emit(job)
        elif self._was_asked:
            self._tell(Phase.CANCELLED)
            self.stopped.emit()
        else:
            self._message = self._message or tr(
                "The calibration was ended from outside, perhaps for want of memory. What is finished is "
                "kept: it can go on from there."
            )
            self._tell(Phase.FAILED)
            self.failed.emit(self._message)

    def _tell(self, phase: Phase) -> None:
        done = round(1000 * float(self._last.get("done", 0.0)))
        name = "" if self.job is None else self.job.recipe.name
        eta_s = self._last.get("eta_s") if phase is Phase.RUNNING else None
        state = TaskState(
            TASK, tr("Calibrate {0}").format(name), phase, done, 1000, eta_s, self._message,
            can_pause=True, is_share=True,
        )  # fmt: skip
        self.task_changed.emit(state)


def on_battery() -> bool:
    """True on a laptop that is not plugged in."""
    sensors = getattr(psutil, "sensors_battery", None)
    battery = sensors() if sensors is not None else None
    return battery is not None and battery.power_plugged is False
