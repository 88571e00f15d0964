"""How small the model gets and how much time it may take."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.engine.calibration_job import BUDGETS, Recipe
from app.ui.i18n import duration_phrase, tr
from app.ui.theme import GRID
from qcore.models.registry import ModelKind, ModelStatus, is_safe_id, model_statuses, user_models

PRESETS = (
    ("w8a8", "W8A8 – safest", "Nearly the masks of the original, about half the size of fp16."),
    ("w6a6", "W6A6 – balanced", "Small, and the masks seldom differ visibly."),
    ("w4a4", "W4A4 – smallest", "A quarter of fp16; look well at the report."),
    (
        "auto",
        "Automatic mix of bits, by size",
        "Layers that matter most get the most bits; you say the size.",
    ),
)
METHODS = (
    ("q-minisam2", "Q-MiniSAM2", "Fitted block by block, with the video terms: the best masks on video."),
    ("ptq4sam", "PTQ4SAM", "Fitted, made for the attention of SAM; no video terms."),
    ("qdrop", "QDrop", "Fitted while quantization is dropped at random, so that it generalizes."),
    ("brecq", "BRECQ", "Fitted block by block, weights first."),
    ("adaround", "AdaRound", "Only the rounding of weights is fitted, layer by layer."),
    ("omse", "OMSE", "Nothing is fitted: ranges of least error."),
    ("percentile", "Percentile", "Nothing is fitted: ranges without the outliers."),
    ("minmax", "MinMax", "Nothing is fitted: full ranges. The fastest, and the crudest."),
)
TIMES = (
    ("fast", "Fast (30 iterations a part)"),
    ("balanced", "Balanced (100 iterations)"),
    ("paper", "Paper (20,000 iterations)"),
)
DEVICES = (("auto", "Fastest available"), ("cpu", "CPU"), ("cuda", "NVIDIA GPU"), ("mps", "Apple GPU"))
_NAME = "my-videos"
_SIZE_STEPS = 100
_BYTES = {"fp16": 2, "fp32": 4}


class QualityPage(QWidget):
    """Name, base model, bits, time; the method under Advanced."""

    changed = Signal()
    """Something that changes the cost was chosen."""
    name_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._sizes: dict[str, tuple[float, float]] = {}
        """Smallest and largest size of the weights in MB, by model."""
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID)
        form = self._form(column)
        self.name = QLineEdit(free_name(_NAME))
        self.model = QComboBox()
        for row in model_statuses():
            full = row.precision in _BYTES
            if row.installed and full and row.id != "embedded" and row.kind != ModelKind.BUNDLE:
                self.model.addItem(f"{row.title}, {row.precision}", row.id)
                self._sizes[row.id] = _weights_mb(row)
        self.bits = _choice(PRESETS, "w6a6")
        self.bits_line = _line()
        self.size_title = _title(tr("Weights at most"))
        self.largest = QSlider(Qt.Orientation.Horizontal)
        self.largest.setRange(0, _SIZE_STEPS)
        self.largest.setValue(_SIZE_STEPS // 2)
        self.size_text = QLabel()
        self.size_row = QWidget()
        beside = QHBoxLayout(self.size_row)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.addWidget(self.largest, 1)
        beside.addWidget(self.size_text)
        self.budget = _choice(TIMES, "fast")
        for title, widget in (
            (tr("Name"), self.name), (tr("Base model"), self.model), (tr("Quality and size"), self.bits),
        ):  # fmt: skip
            _add(form, title, widget)
        form.addRow("", self.bits_line)
        form.addRow(self.size_title, self.size_row)
        self.largest.setAccessibleName(self.size_title.text())
        _add(form, tr("Time"), self.budget)
        self.estimate = _line()
        form.addRow("", self.estimate)
        self._add_advanced(column)
        column.addStretch(1)
        self._connect()
        self._show_choice()

    def _add_advanced(self, column: QVBoxLayout) -> None:
        self.advanced = QToolButton()
        self.advanced.setText(tr("Advanced"))
        self.advanced.setCheckable(True)
        self.advanced.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.advanced.setArrowType(Qt.ArrowType.RightArrow)
        column.addWidget(self.advanced)
        self.more = QWidget()
        form = self._form(self.more)
        self.method = _choice(METHODS, "q-minisam2")
        self.method_line = _line()
        self.device = _choice(DEVICES, "auto")
        _add(form, tr("Method"), self.method)
        form.addRow("", self.method_line)
        _add(form, tr("Device"), self.device)
        self.more.hide()
        column.addWidget(self.more)

    @staticmethod
    def _form(parent: QWidget | QVBoxLayout) -> QFormLayout:
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(GRID)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        if isinstance(parent, QWidget):
            parent.setLayout(form)
        else:
            parent.addLayout(form)
        return form

    def _connect(self) -> None:
        self.advanced.toggled.connect(self._show_advanced)
        self.name.textChanged.connect(lambda _t: self.name_changed.emit())
        for box in (self.bits, self.budget, self.method, self.model, self.device):
            box.currentIndexChanged.connect(lambda _i: self._chosen())
        self.largest.valueChanged.connect(lambda _v: self._show_choice())
        self.largest.sliderReleased.connect(self.changed)

    def _chosen(self) -> None:
        self._show_choice()
        self.changed.emit()

    def _show_advanced(self, shown: bool) -> None:
        self.advanced.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self.more.setVisible(shown)

    def _show_choice(self) -> None:
        auto = self.bits.currentData() == "auto"
        self.size_title.setVisible(auto)
        self.size_row.setVisible(auto)
        self.bits_line.setText(tr(PRESETS[self.bits.currentIndex()][2]))
        self.method_line.setText(tr(METHODS[self.method.currentIndex()][2]))
        low, high = self._range()
        self.size_text.setText(
            tr("{0} MB ({1} at 4 bits, {2} at 8)").format(
                f"{self.largest_mb():.1f}", f"{low:.1f}", f"{high:.1f}"
            )
        )

    def _range(self) -> tuple[float, float]:
        return self._sizes.get(str(self.model.currentData()), (1.0, 10.0))

    def largest_mb(self) -> float:
        """What the slider says."""
        low, high = self._range()
        return low + (high - low) * self.largest.value() / _SIZE_STEPS

    def set_sizes(self, smallest_bytes: int, largest_bytes: int) -> None:
        """The exact range for the base model, once it was looked into."""
        self._sizes[str(self.model.currentData())] = (smallest_bytes / 1e6, largest_bytes / 1e6)
        self._show_choice()

    def name_problem(self) -> str:
        """Why the name cannot be a model's, one sentence; empty when it can."""
        name = self.name.text().strip()
        if not name:
            return tr("The new model needs a name.")
        if not is_safe_id(name):
            return tr("A name starts with a letter or digit; dots, dashes and underscores may follow.")
        if name in user_models():
            return tr("There is a model “{0}” already: choose another name.").format(name)
        return ""

    def recipe(self, clips: int, frames: int, keep: tuple[str, ...] = ()) -> Recipe:
        """The choices."""
        auto = self.bits.currentData() == "auto"
        return Recipe(
            self.name.text().strip() or _NAME, str(self.model.currentData()),
            str(self.bits.currentData()), str(self.method.currentData()),
            BUDGETS[str(self.budget.currentData())], clips, frames,
            round(self.largest_mb(), 3) if auto else None, keep, str(self.device.currentData()),
        )  # fmt: skip

    def show_estimate(self, seconds: float, memory_bytes: int) -> None:
        """What it will cost here."""
        text = tr("About {0} and {1} GB of memory on this machine; you can go on annotating meanwhile.")
        self.estimate.setText(text.format(duration_phrase(seconds), f"{memory_bytes / 1e9:.1f}"))


def free_name(wish: str) -> str:
    """The name, with a number behind it where it is taken."""
    taken = user_models()
    number, name = 2, wish
    while name in taken:
        name, number = f"{wish}-{number}", number + 1
    return name


def _weights_mb(row: ModelStatus) -> tuple[float, float]:
    """Size of all weights at 4 and at 8 bits, judged by the file."""
    size = Path(row.path).stat().st_size if row.path else 0
    values = size / _BYTES[row.precision]
    return values / 2 / 1e6, values / 1e6


def _choice(entries: tuple[tuple[str, ...], ...], value: str) -> QComboBox:
    box = QComboBox()
    for key, title, *_ in entries:
        box.addItem(tr(title), key)
    box.setCurrentIndex(box.findData(value))
    return box


def _line() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setProperty("muted", True)
    return label


def _add(form: QFormLayout, title: str, widget: QWidget) -> None:
    widget.setAccessibleName(title)
    label = _title(title)
    label.setBuddy(widget)
    form.addRow(label, widget)


def _title(text: str) -> QLabel:
    """A field's name; all of them are as wide, so that the fields of both forms stand in line."""
    label = QLabel(text)
    label.setMinimumWidth(label.fontMetrics().horizontalAdvance("M" * 12))
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
    return label
