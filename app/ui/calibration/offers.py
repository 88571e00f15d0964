"""When calibration speaks up by itself: once after a first project, and for what was stopped or is ready."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PySide6.QtCore import QObject

from app.engine.calibration_job import CalibrationJob
from app.project.project import Project
from app.ui.calibration.controller import CalibrationController
from app.ui.document import Document
from app.ui.i18n import tr
from app.ui.settings import Settings
from app.ui.toasts import Toasts, Tone
from app.ui.transfer_controller import TransferController

ENOUGH_MASKS = 20
"""So many masks make a project one that was worked on."""
_OFFERED = "calibration_offered"


class CalibrationOffers(QObject):
    """Toasts with one button each; nothing opens by itself."""

    def __init__(
        self,
        controller: CalibrationController,
        document: Document,
        transfers: TransferController,
        settings: Settings,
        toasts: Toasts,
        open_wizard: Callable[[Path | None], object],
        is_wizard_open: Callable[[], bool],
        is_window_shown: Callable[[], bool],
        parent: QObject | None = None,
    ) -> None:
        """``open_wizard`` takes the project file to start from when none is open."""
        super().__init__(parent)
        self._controller = controller
        self._document = document
        self._settings = settings
        self._toasts = toasts
        self._open_wizard = open_wizard
        self._is_wizard_open = is_wizard_open
        self._is_window_shown = is_window_shown
        transfers.exported.connect(self._exported)
        document.closing.connect(self._closing)
        controller.finished.connect(self._finished)
        controller.failed.connect(self._failed)

    def at_start(self) -> None:
        """The program started: offer to go on with what was stopped last."""
        waiting = self._controller.waiting()
        if not waiting:
            return
        job = waiting[0]
        if job.is_finished:
            self._show_ready(job)
            return
        self._toasts.show(
            tr("The calibration “{0}” was not finished.").format(job.recipe.name), Tone.INFO,
            tr("Go on"), lambda: self._resume(job), stays=True,
        )  # fmt: skip

    def _resume(self, job: CalibrationJob) -> None:
        self._controller.resume(job)
        self._open_wizard(None)

    def _exported(self, _report: object) -> None:
        project = self._document.project
        if project is not None:
            self._offer(project)

    def _closing(self) -> None:
        project = self._document.project
        if project is not None and self._is_window_shown():
            self._offer(project)

    def _offer(self, project: Project) -> None:
        if self._settings.window_state(_OFFERED) or self._controller.is_running:
            return
        masks = sum(int(np.count_nonzero(project.index(i).area)) for i in project.objects)
        if masks < ENOUGH_MASKS or any(self._controller.root.glob("*/job.json")):
            return
        self._settings.set_window_state(_OFFERED, "1")
        path = project.path
        self._toasts.show(
            tr("The model can be made small and fast for your own videos."), Tone.INFO,
            tr("Calibrate…"), lambda: self._open_wizard(path),
        )  # fmt: skip

    def _finished(self, job: CalibrationJob) -> None:
        if not self._is_wizard_open():
            self._show_ready(job)

    def _show_ready(self, job: CalibrationJob) -> None:
        self._toasts.show(
            tr("“{0}” is calibrated.").format(job.recipe.name), Tone.SUCCESS,
            tr("Show the report"), lambda: self._show(job), stays=True,
        )  # fmt: skip

    def _show(self, job: CalibrationJob) -> None:
        self._open_wizard(None)
        self._controller.show(job)

    def _failed(self, text: str) -> None:
        if not self._is_wizard_open():
            self._toasts.show(text, Tone.WARNING)
