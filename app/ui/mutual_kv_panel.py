"""Mutual-KV at a glance: on or off, how alike memories must be, and what it saves right now."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QSlider, QVBoxLayout, QWidget

from app.engine.records import MutualKvChoice, MutualKvFacts
from app.ui.i18n import tr
from app.ui.settings import Settings
from app.ui.theme import GRID

ENABLED, EPSILON = "tracking.mutual_kv", "tracking.mutual_kv_epsilon"


class MutualKvPanel(QWidget):
    """Switch, slider and one line of numbers; the settings hold the values."""

    chosen = Signal(object)
    """`MutualKvChoice`."""

    def __init__(self, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        layout = QVBoxLayout(self)
        layout.setContentsMargins(GRID + 4, GRID, GRID + 4, GRID + 4)
        layout.setSpacing(GRID)
        self.switch = QCheckBox("Mutual-KV")
        self.switch.setToolTip(tr("Memory frames that look alike share their keys and values"))
        self.switch.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.switch.setChecked(bool(settings.value(ENABLED)))
        self.switch.toggled.connect(lambda on: settings.set(ENABLED, on))
        layout.addWidget(self.switch)
        self._details = QWidget()
        inside = QVBoxLayout(self._details)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(GRID // 2)
        row = QHBoxLayout()
        row.setSpacing(GRID)
        name = QLabel(tr("Likeness"))
        name.setProperty("muted", True)
        row.addWidget(name)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(50, 100)
        self.slider.setValue(round(100 * float(settings.value(EPSILON))))
        self.slider.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.slider.setAccessibleName(tr("How alike memory frames must be to share"))
        self.slider.valueChanged.connect(lambda v: settings.set(EPSILON, v / 100))
        row.addWidget(self.slider, 1)
        self.value = QLabel()
        row.addWidget(self.value)
        inside.addLayout(row)
        self.facts = QLabel()
        self.facts.setProperty("muted", True)
        inside.addWidget(self.facts)
        layout.addWidget(self._details)
        settings.changed.connect(self._changed)
        self._show()
        self.show_facts(None)

    def choice(self) -> MutualKvChoice:
        """What the settings say."""
        return MutualKvChoice(bool(self._settings.value(ENABLED)), float(self._settings.value(EPSILON)))

    def show_facts(self, facts: MutualKvFacts | None) -> None:
        """What it saved lately."""
        if facts is None:
            self.facts.setText(tr("Numbers appear while tracking."))
            return
        self.facts.setText(
            tr("{0} → {1} memories, −{2} % attention").format(
                f"{facts.memory_frames:.1f}", f"{facts.groups:.1f}", round(100 * facts.saved_share)
            )
        )

    def _changed(self, key: str, _value: object) -> None:
        if key in (ENABLED, EPSILON):
            self._show()
            self.chosen.emit(self.choice())

    def _show(self) -> None:
        choice = self.choice()
        self.switch.setChecked(choice.enabled)
        self.slider.setValue(round(100 * choice.epsilon))
        self.value.setText(f"{choice.epsilon:.2f}")
        self._details.setVisible(choice.enabled)
