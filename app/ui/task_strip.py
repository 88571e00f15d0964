"""All long work in one place, above the status bar: name, progress, time left, pause, cancel."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QToolButton, QVBoxLayout, QWidget

from app.engine.records import Phase, TaskState
from app.ui import icons
from app.ui.i18n import duration_phrase, tr
from app.ui.theme import GRID

LINGER_MS = 2500
"""A finished task stays visible so long."""


class TaskStrip(QWidget):
    """Rows of running tasks; invisible when there are none."""

    pause_requested = Signal(int, bool)
    cancel_requested = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(0)
        self._rows: dict[int, _Row] = {}
        self._spare: list[_Row] = []
        self._linger = QTimer(self)
        self._linger.setSingleShot(True)
        self._linger.timeout.connect(self._drop_finished)
        self.hide()

    def show_task(self, state: TaskState) -> None:
        """Add or update a task's row."""
        row = self._rows.get(state.task_id)
        if row is None:
            if state.phase.is_over:
                return
            row = self._spare.pop() if self._spare else self._new_row()
            self._rows[state.task_id] = row
            row.show()
            self.show()
        row.update_from(state)
        if state.phase.is_over:
            self._linger.start(LINGER_MS)

    @property
    def states(self) -> list[TaskState]:
        """What is shown, oldest first."""
        return [row.state for row in self._rows.values() if row.state is not None]

    def _new_row(self) -> _Row:
        row = _Row(self)
        row.pause.clicked.connect(lambda: self._toggle(row))
        row.cancel.clicked.connect(lambda: self._cancel(row))
        self._layout.addWidget(row)
        return row

    def _toggle(self, row: _Row) -> None:
        if row.state is not None:
            self.pause_requested.emit(row.state.task_id, row.state.phase is not Phase.PAUSED)

    def _cancel(self, row: _Row) -> None:
        if row.state is not None:
            self.cancel_requested.emit(row.state.task_id)

    def _drop_finished(self) -> None:
        for task_id, row in list(self._rows.items()):
            if row.state is not None and row.state.phase.is_over:
                row.hide()
                self._spare.append(self._rows.pop(task_id))
        self.setVisible(bool(self._rows))


class _Row(QFrame):
    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.state: TaskState | None = None
        layout = QHBoxLayout(self)
        layout.setContentsMargins(GRID, GRID // 2, GRID, GRID // 2)
        layout.setSpacing(GRID)
        self._title = QLabel()
        layout.addWidget(self._title)
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setRange(0, 1000)
        layout.addWidget(self._bar, 1)
        self._facts = QLabel()
        self._facts.setProperty("muted", True)
        self._facts.setMinimumWidth(
            self._facts.fontMetrics().horizontalAdvance("0000 / 0000, 00 min 00 s left")
        )
        self._facts.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        layout.addWidget(self._facts)
        self.pause = self._button("pause", tr("Pause"))
        self.cancel = self._button("cancel", tr("Stop and keep what is done"))
        layout.addWidget(self.pause)
        layout.addWidget(self.cancel)

    def _button(self, icon: str, tip: str) -> QToolButton:
        button = QToolButton()
        button.setIcon(icons.icon(icon))
        button.setIconSize(QSize(16, 16))
        button.setToolTip(tip)
        button.setAccessibleName(tip)
        button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        return button

    def update_from(self, state: TaskState) -> None:
        """Show a task as it is now."""
        self.state = state
        self._title.setText(state.title)
        if state.fraction is None and not state.phase.is_over:
            self._bar.setRange(0, 0)
        else:
            self._bar.setRange(0, 1000)
            self._bar.setValue(1000 if state.phase is Phase.FINISHED else round(1000 * (state.fraction or 0)))
        self._facts.setText(_facts(state))
        self._facts.setToolTip(state.message)
        paused = state.phase is Phase.PAUSED
        self.pause.setIcon(icons.icon("play" if paused else "pause"))
        self.pause.setToolTip(tr("Go on") if paused else tr("Pause"))
        self.pause.setVisible(state.can_pause and not state.phase.is_over)
        self.cancel.setVisible(state.can_cancel and not state.phase.is_over)


def _facts(state: TaskState) -> str:
    count = f"{state.done} / {state.total}" if state.total else ""
    if state.is_share and state.fraction is not None:
        count = f"{100 * state.fraction:.0f} %"
    if state.phase is Phase.FINISHED:
        return tr("done")
    if state.phase is Phase.CANCELLED:
        counted = state.total and not state.is_share
        return tr("stopped, {0} kept").format(state.done) if counted else tr("stopped")
    if state.phase is Phase.FAILED:
        return state.message or tr("failed")
    if state.phase is Phase.PAUSED:
        return tr("{0}, paused").format(count) if count else tr("paused")
    if state.eta_s is not None:
        return tr("{0}, {1} left").format(count, duration_phrase(state.eta_s))
    return count
