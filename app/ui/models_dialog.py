"""Models: which are installed, which one works, what they cost here, and getting more."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QDialog,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from app.ui.i18n import tr
from app.ui.model_card import ModelCard
from app.ui.model_choice import ModelChoice
from app.ui.model_controller import ModelController
from app.ui.sizes import open_at
from app.ui.theme import GRID


class ModelsDialog(QDialog):
    """One card a model; disk use and what being offline means below."""

    settings_wanted = Signal()

    def __init__(self, models: ModelController, choice: ModelChoice, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._models = models
        self._choice = choice
        self.cards: dict[str, ModelCard] = {}
        self.device = "auto"
        """Where models are measured."""
        self.setWindowTitle(tr("Models"))
        open_at(self, 720, 620)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2 * GRID, 2 * GRID, 2 * GRID, 2 * GRID)
        layout.setSpacing(2 * GRID)
        self.offline = QLabel(
            tr(
                "The server of the models cannot be reached: you may be offline. Installed models work "
                "without a connection, and a download goes on where it was once there is one. A model file "
                "that you have can be imported."
            )
        )
        self.offline.setWordWrap(True)
        self.offline.setProperty("warning", True)
        layout.addWidget(self.offline)
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
        self.disk = QLabel()
        self.disk.setProperty("muted", True)
        self.disk.setWordWrap(True)
        layout.addWidget(self.disk)
        layout.addLayout(self._buttons())
        models.changed.connect(self.refresh)
        models.offline_changed.connect(self.offline.setVisible)
        models.task_changed.connect(lambda _state: self._show_progress())
        choice.changed.connect(lambda _id: self.refresh())
        self.offline.setVisible(models.is_offline)
        self.refresh()

    def _buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
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
        row.addWidget(bring)
        row.addWidget(device)
        row.addStretch(1)
        row.addWidget(close)
        return row

    def refresh(self) -> None:
        """Show the models as they are now."""
        rows = {row.id: row for row in self._models.rows()}
        for model_id in [i for i in self.cards if i not in rows]:
            self.cards.pop(model_id).hide()
        for row in rows.values():
            if row.id not in self.cards:
                self._add_card(row.id)
            self.cards[row.id].show_row(
                row, row.id == self._choice.current, self._models.speed(row), self._models.is_intact(row.id)
            )
        self._show_progress()
        use = self._models.disk_use()
        self.disk.setText(
            tr("Downloaded and imported models take {0} MB in {1}; {2} GB are free there.").format(
                f"{use.used / 1e6:,.0f}", use.folder, f"{use.free / 1e9:,.1f}"
            )
        )

    def _add_card(self, model_id: str) -> None:
        models, card = self._models, ModelCard(model_id, self._page)
        card.use.clicked.connect(lambda: self._choice.choose(model_id))
        card.fetch.clicked.connect(lambda: models.download(model_id))
        card.pause.clicked.connect(lambda: self._toggle(model_id))
        card.cancel.clicked.connect(lambda: self._cancel(model_id))
        card.remove.triggered.connect(lambda: models.remove(model_id))
        card.discard.triggered.connect(lambda: models.discard(model_id))
        card.verify.triggered.connect(lambda: models.verify(model_id))
        card.measure.triggered.connect(lambda: self._measure(model_id))
        self.cards[model_id] = card
        self._column.insertWidget(self._column.count() - 1, card)

    def _show_progress(self) -> None:
        for model_id, card in self.cards.items():
            card.show_progress(self._models.state(model_id), self._models.work(model_id))

    def _measure(self, model_id: str) -> None:
        for row in self._models.rows():
            if row.id == model_id:
                self._models.measure(row, self.device)

    def _toggle(self, model_id: str) -> None:
        state = self._models.state(model_id)
        if state is not None:
            self._models.set_paused(state.task_id, not state.is_paused)

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
