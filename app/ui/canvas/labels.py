"""Short texts over the picture, white on dark so that they are readable on any frame."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter

from app.ui.theme import GRID


def paint_label(painter: QPainter, text: str, top_left: QPointF) -> None:
    """A small label beside the pointer."""
    metrics = painter.fontMetrics()
    rect = QRectF(top_left.x(), top_left.y(), metrics.horizontalAdvance(text) + 12, metrics.height() + 4)
    _paint(painter, text, rect, 4, 170)


def paint_pill(painter: QPainter, text: str, middle_x: float, bottom_y: float) -> None:
    """A hint with round ends that stands on a line."""
    metrics = painter.fontMetrics()
    width, height = metrics.horizontalAdvance(text) + 4 * GRID, metrics.height() + 2 * GRID
    _paint(painter, text, QRectF(middle_x - width / 2, bottom_y - height, width, height), height / 2, 215)


def _paint(painter: QPainter, text: str, rect: QRectF, radius: float, alpha: int) -> None:
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(20, 21, 24, alpha))
    painter.drawRoundedRect(rect, radius, radius)
    painter.setPen(QColor("#ffffff"))
    painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, text)
