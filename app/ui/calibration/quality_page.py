"""How small the model gets and how much time it may take."""

from __future__ import annotations

from PySide6.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QLabel, QLineEdit, QWidget

from app.engine.calibration_job import BUDGETS, Recipe
from app.ui.i18n import duration_phrase, tr
from app.ui.theme import GRID
from qcore.models.registry import ModelKind, model_statuses

PRESETS = (
    ("w8a8", "W8A8 – safest"),
    ("w6a6", "W6A6 – balanced"),
    ("w4a4", "W4A4 – smallest"),
    ("auto", "Automatic mix of bits, by size"),
)
METHODS = (
    ("q-minisam2", "Q-MiniSAM2: fitted block by block, with the video terms"),
    ("ptq4sam", "PTQ4SAM: fitted, for the attention of SAM"),
    ("qdrop", "QDrop: fitted, quantization dropped at random"),
    ("brecq", "BRECQ: fitted block by block, weights first"),
    ("adaround", "AdaRound: fitted layer by layer, weights only"),
    ("omse", "OMSE: ranges of least error, nothing fitted"),
    ("percentile", "Percentile: clipped ranges, nothing fitted"),
    ("minmax", "MinMax: full ranges, nothing fitted, fastest"),
)
TIMES = (("fast", "Fast"), ("balanced", "Balanced"), ("paper", "Paper (20,000 iterations)"))


class QualityPage(QWidget):
    """Base model, bits, method, time."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(GRID + 4)
        self.name = QLineEdit(tr("my-videos"))
        self.model = QComboBox()
        for row in model_statuses():
            full = row.precision in ("fp16", "fp32")
            if row.installed and full and row.id != "embedded" and row.kind != ModelKind.BUNDLE:
                self.model.addItem(row.title, row.id)
        self.bits = self._choice(PRESETS, "w6a6")
        self.largest = QDoubleSpinBox()
        self.largest.setRange(0.5, 1000)
        self.largest.setValue(4.5)
        self.largest.setSuffix(" MB")
        self.budget = self._choice(TIMES, "balanced")
        self.method = self._choice(METHODS, "q-minisam2")
        self.estimate = QLabel()
        self.estimate.setWordWrap(True)
        self.estimate.setProperty("muted", True)
        for title, widget in (
            (tr("Name"), self.name), (tr("Base model"), self.model), (tr("Quality and size"), self.bits),
            (tr("Weights at most"), self.largest), (tr("Time"), self.budget), (tr("Method"), self.method),
        ):  # fmt: skip
            widget.setAccessibleName(title)
            form.addRow(title, widget)
        form.addRow("", self.estimate)
        self.bits.currentIndexChanged.connect(lambda _i: self._show_size())
        self._show_size()

    def _choice(self, entries: tuple[tuple[str, str], ...], value: str) -> QComboBox:
        box = QComboBox()
        for key, title in entries:
            box.addItem(tr(title), key)
        box.setCurrentIndex(box.findData(value))
        return box

    def _show_size(self) -> None:
        self.largest.setEnabled(self.bits.currentData() == "auto")

    def recipe(self, clips: int, frames: int, keep: tuple[str, ...] = ()) -> Recipe:
        """The choices."""
        auto = self.bits.currentData() == "auto"
        return Recipe(
            self.name.text().strip() or "my-videos", str(self.model.currentData()),
            str(self.bits.currentData()), str(self.method.currentData()),
            BUDGETS[str(self.budget.currentData())], clips, frames,
            self.largest.value() if auto else None, keep,
        )  # fmt: skip

    def show_estimate(self, seconds: float, memory_bytes: int) -> None:
        """What it will cost here."""
        text = tr("About {0} and {1} GB of memory on this machine; you can go on annotating meanwhile.")
        self.estimate.setText(text.format(duration_phrase(seconds), f"{memory_bytes / 1e9:.1f}"))
