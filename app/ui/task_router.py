"""The task strip's buttons reach whoever does the task."""

from __future__ import annotations

from PySide6.QtCore import QObject

from app.engine.engine import Engine
from app.ui.calibration.controller import CalibrationController
from app.ui.model_controller import ModelController
from app.ui.mutual_kv_controller import MutualKvController
from app.ui.propagation_controller import PropagationController
from app.ui.task_strip import TaskStrip
from app.ui.transfer_controller import TransferController


class TaskRouter(QObject):
    """Shows everybody's tasks in the strip, and pauses and cancels them from there."""

    def __init__(
        self,
        strip: TaskStrip,
        engine: Engine,
        tracking: PropagationController,
        transfers: TransferController,
        models: ModelController,
        calibration: CalibrationController,
        mutual_kv: MutualKvController,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._engine = engine
        self._tracking = tracking
        self._transfers = transfers
        self._models = models
        self._calibration = calibration
        self._mutual_kv = mutual_kv
        for source in (engine, transfers, models, calibration):
            source.task_changed.connect(strip.show_task)
        strip.pause_requested.connect(self._pause)
        strip.cancel_requested.connect(self._cancel)

    def _pause(self, task: int, paused: bool) -> None:
        if self._calibration.owns(task):
            self._calibration.set_paused(paused)
        elif self._models.owns(task):
            self._models.set_paused(task, paused)
        else:
            self._engine.set_paused(task, paused)

    def _cancel(self, task: int) -> None:
        if self._transfers.owns(task):
            self._transfers.cancel(task)
        elif self._models.owns(task):
            self._models.cancel(task)
        elif self._calibration.owns(task):
            self._calibration.cancel()
        elif self._mutual_kv.owns(task):
            self._engine.cancel(task)
        else:
            self._tracking.stop()
