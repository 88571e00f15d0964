"""Two small charts: a line of losses while units are fitted, and bars of the layers that lose most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.ui import theme
from qcore.quant.report import LayerQuality

ROW = 18
WORST = 16


class LossChart(QWidget):
    """The loss of the unit at work, log scale; a new unit starts a new line."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMinimumHeight(120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._points: list[tuple[str, float]] = []

    def add(self, unit: str, loss: float) -> None:
        """One more value."""
        if loss > 0:
            self._points = [*self._points[-1999:], (unit, loss)]
            self.update()

    def clear(self) -> None:
        """Start over."""
        self._points = []
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the line."""
        colors = theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRectF(self.rect()).adjusted(1, 1, -1, -1)
        painter.setPen(QColor(colors.border))
        painter.setBrush(QColor(colors.surface))
        painter.drawRoundedRect(area, 6, 6)
        if len(self._points) < 2:
            painter.setPen(QColor(colors.text_muted))
            painter.drawText(area, Qt.AlignmentFlag.AlignCenter, "–")
            return
        logs = [math.log10(loss) for _, loss in self._points]
        low, high = min(logs), max(logs) + 1e-6
        inner = area.adjusted(8, 8, -8, -8)
        painter.setPen(QPen(QColor(colors.accent), 1.5))
        line: list[QPointF] = []
        for i, (unit, _) in enumerate(self._points):
            if i and unit != self._points[i - 1][0]:
                painter.drawPolyline(QPolygonF(line))
                line = []
            x = inner.left() + inner.width() * i / (len(self._points) - 1)
            line.append(QPointF(x, inner.top() + inner.height() * (high - logs[i]) / (high - low)))
        painter.drawPolyline(QPolygonF(line))


class LayerChart(QWidget):
    """Output signal-to-noise of the worst layers."""

    def __init__(self, layers: Sequence[LayerQuality], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._layers = sorted(layers, key=lambda layer: layer.output_db)[:WORST]
        self.setMinimumHeight(ROW * len(self._layers) + 8)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw a bar a layer."""
        colors = theme.current()
        painter = QPainter(self)
        names = self.width() * 0.55
        room = self.width() - names - 80
        for i, layer in enumerate(self._layers):
            y = 4 + ROW * i
            painter.setPen(QColor(colors.text))
            text = painter.fontMetrics().elidedText(layer.name, Qt.TextElideMode.ElideLeft, int(names - 12))
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(QRectF(0, y, names - 8, ROW), right, text)
            length = room * max(0.0, min(1.0, layer.output_db / 50))
            painter.fillRect(QRectF(names, y + 4, length, ROW - 8), QColor(colors.accent))
            painter.setPen(QColor(colors.text_muted))
            place = QRectF(names + length + 6, y, 74, ROW)
            painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, f"{layer.output_db:.1f} dB")
