"""One model of the models dialog: what is known about it and what can be done with it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.engine.records import TaskState
from app.ui import icons
from app.ui.i18n import duration_phrase, tr
from app.ui.model_controller import Work
from app.ui.models import precision_phrase
from app.ui.theme import GRID
from qcore.evaluation.model_speed import ModelSpeed
from qcore.models.registry import ModelStatus


class ModelCard(QFrame):
    """Title, facts, what it costs on this machine, a bar while something is done to it, buttons, a menu."""

    def __init__(self, model_id: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName(f"model:{model_id}")
        self.setProperty("card", True)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(GRID + 4, GRID, GRID + 4, GRID)
        layout.setSpacing(GRID)
        words = QVBoxLayout()
        words.setSpacing(2)
        self._title = QLabel()
        self.facts = self._line()
        self.cost = self._line()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        for widget in (self._title, self.facts, self.cost, self.bar):
            words.addWidget(widget)
        layout.addLayout(words, 1)
        self.use = QPushButton(tr("Use"))
        self.fetch = QPushButton(tr("Download"))
        self.pause = QPushButton(tr("Pause"))
        self.cancel = QPushButton(tr("Stop"))
        for button in (self.use, self.fetch, self.pause, self.cancel):
            button.setAutoDefault(False)
            layout.addWidget(button, 0, Qt.AlignmentFlag.AlignVCenter)
        self.more = QToolButton()
        self.more.setIcon(icons.icon("more"))
        self.more.setAccessibleName(tr("More for {0}").format(model_id))
        self.more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.more)
        self.measure = self._action(menu, tr("Measure its speed here"), "speed-test")
        self.verify = self._action(menu, tr("Check the file"), "success")
        self.remove = self._action(menu, tr("Remove"), "remove")
        self.discard = self._action(menu, tr("Delete what was downloaded"), "remove")
        self.more.setMenu(menu)
        layout.addWidget(self.more, 0, Qt.AlignmentFlag.AlignVCenter)
        self._row: ModelStatus | None = None
        self._in_use = False
        self._plain = ""

    @staticmethod
    def _line() -> QLabel:
        label = QLabel()
        label.setProperty("muted", True)
        return label

    @staticmethod
    def _action(menu: QMenu, title: str, icon: str) -> QAction:
        return menu.addAction(icons.icon(icon), title)

    def show_row(self, row: ModelStatus, in_use: bool, speed: ModelSpeed | None, intact: bool) -> None:
        """Show what is known about the model."""
        self._row, self._in_use = row, in_use
        self._title.setText(row.title)
        size = "" if row.size_bytes is None else tr("{0} MB").format(f"{row.size_bytes / 1e6:.0f}")
        facts = [precision_phrase(row.precision), size, row.licence]
        if intact:
            facts.append(tr("checked, intact"))
        if row.partial_bytes:
            facts.append(tr("{0} MB of it are here").format(f"{row.partial_bytes / 1e6:.0f}"))
        self._plain = "  ·  ".join(filter(None, facts))
        self.cost.setText(_cost(row, speed))
        self.cost.setVisible(row.installed)

    def show_progress(self, state: TaskState | None, work: Work | None) -> None:
        """Show what is being done to it, or what can be done."""
        row = self._row
        if row is None:
            return
        running, ours = state is not None, row.kind == "embedded"
        self.bar.setVisible(running)
        self.pause.setVisible(state is not None and state.can_pause)
        self.cancel.setVisible(state is not None and state.can_cancel)
        self.fetch.setVisible(not running and not row.installed)
        self.fetch.setText(tr("Continue") if row.partial_bytes else tr("Download"))
        self.use.setVisible(not running and row.installed)
        self.use.setEnabled(not self._in_use)
        self.use.setText(tr("In use") if self._in_use else tr("Use"))
        for action in (self.measure, self.verify):
            action.setVisible(row.installed)
        self.remove.setVisible(row.installed and not ours and not self._in_use)
        self.discard.setVisible(not row.installed and row.partial_bytes > 0)
        has_menu = any(a.isVisible() for a in (self.measure, self.verify, self.remove, self.discard))
        self.more.setVisible(not running and has_menu)
        if state is None or work is None:
            self.facts.setText(self._plain)
            return
        self.pause.setText(tr("Continue") if state.is_paused else tr("Pause"))
        self.bar.setRange(0, max(0, state.total))
        self.bar.setValue(state.done)
        self.facts.setText(_doing(state, work))


def _cost(row: ModelStatus, speed: ModelSpeed | None) -> str:
    if not row.installed:
        return ""
    if speed is None:
        return tr("Speed on this machine: not measured yet")
    return tr("{0} ms a frame here ({1} the frame, {2} each object), {3} MB of memory, {4} {5}").format(
        f"{speed.frame_ms:.0f}", f"{speed.encode_ms:.0f}", f"{speed.track_ms:.0f}",
        f"{speed.peak_rss_mb * 1.048576:.0f}", speed.device.upper(), speed.arithmetic,
    )  # fmt: skip


def _doing(state: TaskState, work: Work) -> str:
    if work is Work.MEASURE:
        return tr("Measuring on the sample clip…")
    if work is Work.VERIFY:
        return tr("Checking the file…")
    text = tr("{0} of {1} MB").format(state.done, state.total) if state.total else tr("Connecting…")
    if state.is_paused:
        return tr("{0}, paused").format(text)
    if state.eta_s is not None:
        return tr("{0}, {1} left").format(text, duration_phrase(state.eta_s))
    return text
