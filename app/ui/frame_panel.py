"""What is known about the active object on the shown frame, and the button that accepts it."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from app.ui import icons
from app.ui.i18n import tr
from app.ui.level_bar import LevelBar
from app.ui.shortcuts import ActionRegistry
from app.ui.theme import GRID


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """One object on one frame, in the words of the panel."""

    title: str
    """The object's name; empty when none is selected."""
    source: str = ""
    confidence: float | None = None
    """0..1; None without a mask."""
    area: str = ""
    reviewed: bool = False
    needs_attention: bool = False
    can_accept: bool = False
    hint: str = ""
    """What to do when there is no mask."""


class FramePanel(QWidget):
    """Confidence, source, area, Accept."""

    def __init__(self, actions: ActionRegistry, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(GRID + 4, GRID, GRID + 4, GRID + 4)
        layout.setSpacing(GRID)
        self.title = QLabel(tr("This frame"))
        self.title.setProperty("heading", True)
        layout.addWidget(self.title)
        self.hint = QLabel()
        self.hint.setProperty("muted", True)
        self.hint.setWordWrap(True)
        layout.addWidget(self.hint)
        self._facts = QWidget()
        form = QFormLayout(self._facts)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(2 * GRID)
        form.setVerticalSpacing(GRID // 2)
        row = QHBoxLayout()
        row.setSpacing(GRID)
        self.confidence_bar = LevelBar()
        self.confidence = QLabel()
        self.confidence.setMinimumWidth(self.confidence.fontMetrics().horizontalAdvance("0.00") + 4)
        self.attention = QLabel()
        self.attention.setPixmap(icons.icon("attention", "warning").pixmap(16, 16))
        self.attention.setToolTip(tr("Low confidence: have a look"))
        row.addWidget(self.confidence)
        row.addWidget(self.confidence_bar, 1, Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(self.attention)
        form.addRow(self._name(tr("Confidence")), row)
        self.source = QLabel()
        form.addRow(self._name(tr("Source")), self.source)
        self.area = QLabel()
        form.addRow(self._name(tr("Area")), self.area)
        layout.addWidget(self._facts)
        self.accept = QPushButton(tr("Accept"))
        self.accept.setIcon(icons.icon("accept"))
        self.accept.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._action = actions["review.accept"]
        self.accept.clicked.connect(lambda: self._action.trigger())
        actions.keys_changed.connect(lambda: self.accept.setToolTip(self._action.toolTip()))
        self.accept.setToolTip(self._action.toolTip())
        layout.addWidget(self.accept)

    def _name(self, text: str) -> QLabel:
        label = QLabel(text)
        label.setProperty("muted", True)
        return label

    def show_facts(self, facts: FrameFacts) -> None:
        """Show one object's facts."""
        self.title.setText(tr("This frame") + (f": {facts.title}" if facts.title else ""))
        has_mask = facts.confidence is not None
        self._facts.setVisible(has_mask)
        self.hint.setVisible(bool(facts.hint))
        self.hint.setText(facts.hint)
        self.accept.setVisible(has_mask)
        if facts.confidence is not None:
            self.confidence.setText(f"{facts.confidence:.2f}")
            self.confidence_bar.set_share(facts.confidence)
        self.attention.setVisible(facts.needs_attention)
        self.source.setText(facts.source)
        self.area.setText(facts.area)
        self.accept.setEnabled(facts.can_accept)
        self.accept.setText(tr("Accepted") if facts.reviewed else tr("Accept"))
