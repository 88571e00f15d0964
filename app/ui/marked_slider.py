"""A slider with one value marked on its groove."""

from __future__ import annotations

from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPolygonF
from PySide6.QtWidgets import QSlider, QStyle, QStyleOptionSlider, QWidget

from app.ui import theme

MARK = 4.0
"""Half the width of the mark, in logical pixels."""


class MarkedSlider(QSlider):
    """A horizontal slider; a small triangle below the groove points at the marked value."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._mark: int | None = None

    @property
    def mark(self) -> int | None:
        """The marked value."""
        return self._mark

    def set_mark(self, value: int | None) -> None:
        """Mark a value, or none."""
        self._mark = value
        self.update()

    def mark_x(self) -> float | None:
        """Where the mark points to, in the widget's pixels; None without one."""
        if self._mark is None:
            return None
        option = QStyleOptionSlider()
        self.initStyleOption(option)
        control, part = QStyle.ComplexControl.CC_Slider, QStyle.SubControl
        groove = self.style().subControlRect(control, option, part.SC_SliderGroove, self)
        handle = self.style().subControlRect(control, option, part.SC_SliderHandle, self)
        span = groove.width() - handle.width()
        at = QStyle.sliderPositionFromValue(self.minimum(), self.maximum(), self._mark, span)
        return groove.left() + handle.width() / 2 + at

    def paintEvent(self, event: QPaintEvent) -> None:
        """The slider, then the mark."""
        super().paintEvent(event)
        x = self.mark_x()
        if x is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(theme.current().accent))
        bottom = self.height() - 0.5
        tip = bottom - 1.4 * MARK
        painter.drawPolygon(
            QPolygonF([QPointF(x - MARK, bottom), QPointF(x + MARK, bottom), QPointF(x, tip)])
        )
