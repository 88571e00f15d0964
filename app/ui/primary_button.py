"""The one main action of the window: says what it will do, in fewer words where there is little room."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QPushButton, QSizePolicy, QWidget

SMALLEST = 200
"""Pixels."""


class PrimaryButton(QPushButton):
    """A button with a long and a short text."""

    def __init__(self, text: str, parent: QWidget | None = None) -> None:
        super().__init__(text, parent)
        self._long = self._short = text
        self.setObjectName("primary")
        self.setProperty("primary", True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def set_texts(self, text: str, short: str = "") -> None:
        """What it says, and what it says where that does not fit."""
        self._long, self._short = text, short or text
        self._choose()
        self.updateGeometry()

    def full_text(self) -> str:
        """What it says where there is room."""
        return self._long

    def sizeHint(self) -> QSize:
        """Room for the long text."""
        return self._hint(self._long)

    def minimumSizeHint(self) -> QSize:
        """Room for the short text."""
        return self._hint(self._short)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Take the text that fits."""
        super().resizeEvent(event)
        self._choose()

    def _hint(self, text: str) -> QSize:
        hint, metrics = super().sizeHint(), self.fontMetrics()
        width = hint.width() + metrics.horizontalAdvance(text) - metrics.horizontalAdvance(self.text())
        return QSize(max(SMALLEST, width), hint.height())

    def _choose(self) -> None:
        text = self._long if self.width() >= self._hint(self._long).width() else self._short
        if text != self.text():
            self.setText(text)
