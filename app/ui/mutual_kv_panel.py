"""Mutual-KV at a glance: on or off, how alike memories must be, what it saves, and what it changes."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from app.engine.records import MutualKvChoice, MutualKvComparison, MutualKvFacts
from app.ui.i18n import tr
from app.ui.marked_slider import MarkedSlider
from app.ui.settings import Settings
from app.ui.theme import GRID

ENABLED, EPSILON = "tracking.mutual_kv", "tracking.mutual_kv_epsilon"
AUTO = "tracking.mutual_kv_auto"
STEPS = 200
"""Slider steps from 0 to 1."""


def mutual_kv_choice(settings: Settings) -> MutualKvChoice:
    """What the settings say."""
    epsilon = None if settings.value(AUTO) else float(settings.value(EPSILON))
    return MutualKvChoice(bool(settings.value(ENABLED)), epsilon)


class MutualKvPanel(QWidget):
    """Switch, slider, live numbers and a comparison; the settings hold the values."""

    chosen = Signal(object)
    """`MutualKvChoice`."""
    compare_wanted = Signal()
    frame_wanted = Signal(int)
    """Show the frame on which the compared masks differ most."""

    def __init__(self, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        self._calibrated: float | None = None
        self._worst: int | None = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(GRID + 4, GRID, GRID + 4, GRID + 4)
        layout.setSpacing(GRID)
        self.switch = QCheckBox("Mutual-KV")
        self.switch.setToolTip(tr("Memory frames that look alike share their keys and values"))
        self.switch.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.switch.toggled.connect(lambda on: settings.set(ENABLED, on))
        layout.addWidget(self.switch)
        self._details = QWidget()
        inside = QVBoxLayout(self._details)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(GRID // 2)
        inside.addLayout(self._slider_row())
        inside.addLayout(self._auto_row())
        self.facts = self._line()
        self.cost = self._line()
        inside.addWidget(self.facts)
        inside.addWidget(self.cost)
        self._add_comparison(inside)
        layout.addWidget(self._details)
        settings.changed.connect(self._changed)
        self._show()
        self.show_facts(None)

    def _slider_row(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(GRID)
        name = QLabel(tr("Likeness"))
        name.setProperty("muted", True)
        self.slider = MarkedSlider()
        self.slider.setRange(STEPS // 2, STEPS)
        self.slider.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.slider.setAccessibleName(tr("How alike memory frames must be to share"))
        self.slider.setToolTip(
            tr("Cosine above which memory frames share; lower saves more and changes more")
        )
        self.slider.valueChanged.connect(self._moved)
        self.value = QLabel()
        row.addWidget(name)
        row.addWidget(self.slider, 1)
        row.addWidget(self.value)
        return row

    def _auto_row(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(GRID)
        self.auto = QCheckBox(tr("Auto"))
        self.auto.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.auto.toggled.connect(lambda on: self._settings.set(AUTO, on))
        self.calibrated = QToolButton()
        self.calibrated.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.calibrated.setToolTip(tr("Take the value that this model was calibrated with"))
        self.calibrated.clicked.connect(self._take_calibrated)
        self.calibrated.hide()
        row.addWidget(self.auto)
        row.addStretch(1)
        row.addWidget(self.calibrated)
        return row

    def _add_comparison(self, column: QVBoxLayout) -> None:
        self.compare = QPushButton(tr("Compare with and without"))
        self.compare.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.compare.setToolTip(
            tr("Track the next 20 frames without and with sharing; the masks of the project stay as they are")
        )
        self.compare.clicked.connect(self.compare_wanted)
        self.result = self._line()
        self.result.setTextInteractionFlags(Qt.TextInteractionFlag.LinksAccessibleByMouse)
        self.result.linkActivated.connect(self._go_to_worst)
        self.result.hide()
        column.addWidget(self.compare)
        column.addWidget(self.result)

    @staticmethod
    def _line() -> QLabel:
        label = QLabel()
        label.setProperty("muted", True)
        label.setWordWrap(True)
        return label

    def choice(self) -> MutualKvChoice:
        """What the settings say."""
        return mutual_kv_choice(self._settings)

    def set_calibrated(self, epsilon: float | None) -> None:
        """The threshold that the model at work was calibrated with, or None."""
        self._calibrated = epsilon
        self.slider.set_mark(None if epsilon is None else round(STEPS * epsilon))
        self.calibrated.setVisible(epsilon is not None)
        if epsilon is not None:
            self.calibrated.setText(tr("Calibrated: {0}").format(f"{epsilon:.3f}"))
        self.auto.setToolTip(
            tr("Chosen while tracking, so that about four of seven memories are left")
            if epsilon is None
            else tr("The value that this model was calibrated with")
        )
        self._show()

    def show_facts(self, facts: MutualKvFacts | None) -> None:
        """What it saved lately."""
        self.cost.setVisible(facts is not None)
        if facts is None:
            self.facts.setText(tr("Numbers appear while tracking."))
            return
        self.facts.setText(
            tr("{0} → {1} memories, −{2} % attention").format(
                f"{facts.memory_frames:.1f}", f"{facts.groups:.1f}", round(100 * facts.saved_share)
            )
        )
        self.cost.setText(
            tr("{0} of {1} keys, {2} ms a frame, saves about {3} ms").format(
                f"{facts.keys_attended:,.0f}", f"{facts.keys_full:,.0f}",
                f"{facts.attention_ms:.1f}", f"{facts.saved_ms:.1f}",
            )
        )  # fmt: skip
        if self._settings.value(AUTO):
            self.value.setText(f"{facts.epsilon:.3f}")

    def show_comparing(self, running: bool) -> None:
        """A comparison runs, or does not any more."""
        self.compare.setEnabled(not running)
        if running:
            self.result.setText(tr("Comparing…"))
        elif self.result.text() == tr("Comparing…"):
            self.result.clear()
        self.result.setVisible(bool(self.result.text()))

    def show_comparison(self, found: MutualKvComparison) -> None:
        """What sharing changed on the same frames, and what it saved."""
        self._worst = found.lowest_frame
        text = tr("{0} frames at {1}: IoU {2}, {3} → {4} ms a frame").format(
            found.frames, f"{found.epsilon:.3f}", f"{found.iou_mean:.3f}",
            f"{found.ms_without:.1f}", f"{found.ms_with:.1f}",
        )  # fmt: skip
        lowest = tr("lowest {0} on frame {1}").format(f"{found.iou_lowest:.3f}", found.lowest_frame)
        self.result.setText(f'{text}, <a href="#">{lowest}</a>')

    def _go_to_worst(self, _link: str) -> None:
        if self._worst is not None:
            self.frame_wanted.emit(self._worst)

    def _moved(self, value: int) -> None:
        # shown from the settings, where the value may lie between two steps
        if value != round(STEPS * float(self._settings.value(EPSILON))):
            self._settings.set(EPSILON, value / STEPS)

    def _take_calibrated(self) -> None:
        if self._calibrated is not None:
            self._settings.set(AUTO, False)
            self._settings.set(EPSILON, self._calibrated)

    def _changed(self, key: str, _value: object) -> None:
        if key in (ENABLED, EPSILON, AUTO):
            self._show()
            self.chosen.emit(self.choice())

    def _show(self) -> None:
        enabled, auto = bool(self._settings.value(ENABLED)), bool(self._settings.value(AUTO))
        epsilon = float(self._settings.value(EPSILON))
        self.switch.setChecked(enabled)
        self.auto.setChecked(auto)
        self.slider.setValue(round(STEPS * epsilon))
        self.slider.setEnabled(not auto)
        if not auto:
            self.value.setText(f"{epsilon:.3f}")
        else:
            self.value.setText("" if self._calibrated is None else f"{self._calibrated:.3f}")
        self._details.setVisible(enabled)
