"""Models: which are installed, which one works, and getting more."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QDialog,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from app.engine.records import TaskState
from app.ui.i18n import duration_phrase, tr
from app.ui.model_choice import ModelChoice
from app.ui.model_controller import ModelController
from app.ui.theme import GRID
from qcore.models.registry import ModelStatus


class ModelsDialog(QDialog):
    """One card a model."""

    settings_wanted = Signal()

    def __init__(self, models: ModelController, choice: ModelChoice, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._models = models
        self._choice = choice
        self.cards: dict[str, ModelCard] = {}
        self.setWindowTitle(tr("Models"))
        self.resize(680, 560)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2 * GRID, 2 * GRID, 2 * GRID, 2 * GRID)
        layout.setSpacing(2 * GRID)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        self._page = QWidget()
        self._column = QVBoxLayout(self._page)
        self._column.setContentsMargins(0, 0, GRID, 0)
        self._column.setSpacing(GRID)
        self._column.addStretch(1)
        area.setWidget(self._page)
        layout.addWidget(area, 1)
        buttons = QHBoxLayout()
        bring = QPushButton(tr("Import a file…"))
        bring.setAutoDefault(False)
        bring.setToolTip(tr("A .pt checkpoint of SAM 2.1, or a .safetensors file"))
        bring.clicked.connect(self._choose_file)
        device = QPushButton(tr("Device…"))
        device.setAutoDefault(False)
        device.clicked.connect(self.settings_wanted)
        close = QPushButton(tr("Close"))
        close.setDefault(True)
        close.clicked.connect(self.accept)
        buttons.addWidget(bring)
        buttons.addWidget(device)
        buttons.addStretch(1)
        buttons.addWidget(close)
        layout.addLayout(buttons)
        models.changed.connect(self.refresh)
        models.installed.connect(lambda _id: self.refresh())
        models.task_changed.connect(lambda _state: self._show_progress())
        choice.changed.connect(lambda _id: self.refresh())
        self.refresh()

    def refresh(self) -> None:
        """Show the models as they are now."""
        rows = self._models.rows()
        for model_id in [i for i in self.cards if i not in {row.id for row in rows}]:
            self.cards.pop(model_id).hide()
        for row in rows:
            if row.id not in self.cards:
                card = ModelCard(row.id, self._page)
                card.use.clicked.connect(lambda _=False, i=row.id: self._choice.choose(i))
                card.fetch.clicked.connect(lambda _=False, i=row.id: self._models.download(i))
                card.cancel.clicked.connect(lambda _=False, i=row.id: self._cancel(i))
                card.remove.clicked.connect(lambda _=False, i=row.id: self._models.remove(i))
                self.cards[row.id] = card
                self._column.insertWidget(self._column.count() - 1, card)
            self.cards[row.id].show_row(row, row.id == self._choice.current)
        self._show_progress()

    def _show_progress(self) -> None:
        for model_id, card in self.cards.items():
            card.show_progress(self._models.state(model_id))

    def _cancel(self, model_id: str) -> None:
        state = self._models.state(model_id)
        if state is not None:
            self._models.cancel(state.task_id)

    def _choose_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, tr("Import a model"), str(Path.home()), f"{tr('Models')} (*.pt *.pth *.safetensors)"
        )
        if path:
            self._models.import_file(Path(path))


class ModelCard(QFrame):
    """One model with what can be done to it."""

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
        self._facts = QLabel()
        self._facts.setProperty("muted", True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        words.addWidget(self._title)
        words.addWidget(self._facts)
        words.addWidget(self.bar)
        layout.addLayout(words, 1)
        self.use = QPushButton(tr("Use"))
        self.fetch = QPushButton(tr("Download"))
        self.cancel = QPushButton(tr("Stop"))
        self.remove = QPushButton(tr("Remove"))
        for button in (self.use, self.fetch, self.cancel, self.remove):
            button.setAutoDefault(False)
            layout.addWidget(button, 0, Qt.AlignmentFlag.AlignVCenter)
        self._row: ModelStatus | None = None
        self._in_use = False

    def show_row(self, row: ModelStatus, in_use: bool) -> None:
        """Show what is known about the model."""
        self._row, self._in_use = row, in_use
        self._title.setText(row.title)
        size = "" if row.size_bytes is None else f"{row.size_bytes / 1e6:.0f} MB"
        self._plain = "  ·  ".join(x for x in (row.precision, size, row.licence) if x)
        self._facts.setText(self._plain)

    def show_progress(self, state: TaskState | None) -> None:
        """Show a running download, or what can be done without one."""
        row = self._row
        if row is None:
            return
        running = state is not None
        self.bar.setVisible(running)
        self.cancel.setVisible(running)
        self.fetch.setVisible(not running and not row.installed)
        self.use.setVisible(not running and row.installed)
        self.use.setEnabled(not self._in_use)
        self.use.setText(tr("In use") if self._in_use else tr("Use"))
        self.remove.setVisible(not running and row.installed and row.kind != "embedded" and not self._in_use)
        if state is None:
            self._facts.setText(self._plain)
            return
        self.bar.setRange(0, max(0, state.total))
        self.bar.setValue(state.done)
        text = tr("{0} of {1} MB").format(state.done, state.total) if state.total else tr("Connecting…")
        if state.eta_s is not None:
            text = tr("{0}, {1} left").format(text, duration_phrase(state.eta_s))
        self._facts.setText(text)
