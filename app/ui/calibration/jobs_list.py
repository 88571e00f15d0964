"""Calibrations that wait: stopped ones that can go on, finished ones whose model is not in use yet."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app.engine.calibration_job import CalibrationJob
from app.ui.i18n import tr
from app.ui.theme import GRID

SHOWN = 3


class JobsList(QWidget):
    """A line a calibration, newest first; takes no room when there are none."""

    resumed = Signal(object)
    """`CalibrationJob` to go on with."""
    opened = Signal(object)
    """`CalibrationJob` whose report to show."""
    discarded = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(GRID // 2)
        self._rows: list[QWidget] = []
        self.buttons: dict[str, QPushButton] = {}
        """By the job's folder name, the button that goes on with it or shows it."""
        self.hide()

    def show_jobs(self, jobs: Sequence[CalibrationJob]) -> None:
        """Show these."""
        for row in self._rows:
            row.hide()
            row.deleteLater()
        self._rows, self.buttons = [], {}
        for job in jobs[:SHOWN]:
            row = self._row(job)
            self._rows.append(row)
            self._column.addWidget(row)
        self.setVisible(bool(self._rows))

    def _row(self, job: CalibrationJob) -> QWidget:
        row = QWidget()
        layout = QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(GRID)
        if job.is_finished:
            text, title, signal = tr("“{0}” is ready and not used yet."), tr("Show the report"), self.opened
        else:
            text, title, signal = tr("“{0}” was stopped; it goes on where it was."), tr("Go on"), self.resumed
        label = QLabel(text.format(job.recipe.name))
        label.setWordWrap(True)
        go = QPushButton(title)
        go.setAutoDefault(False)
        go.clicked.connect(lambda: signal.emit(job))
        delete = QPushButton(tr("Delete"))
        delete.setAutoDefault(False)
        delete.clicked.connect(lambda: self.discarded.emit(job))
        self.buttons[job.folder.name] = go
        layout.addWidget(label, 1)
        layout.addWidget(go)
        layout.addWidget(delete)
        return row
