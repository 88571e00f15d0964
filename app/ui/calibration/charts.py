"""Small charts: losses while units are fitted, each unit before and after, the layers that lose most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app.ui import theme
from app.ui.i18n import tr
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
            painter.drawText(area, Qt.AlignmentFlag.AlignCenter, tr("The loss of each part appears here."))
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
        painter.setPen(QColor(colors.text_muted))
        left = Qt.AlignmentFlag.AlignLeft
        painter.drawText(inner, left | Qt.AlignmentFlag.AlignTop, f"{10**high:.2g}")
        painter.drawText(inner, left | Qt.AlignmentFlag.AlignBottom, f"{10**low:.2g}")
        caption = tr("loss, one line a part, log scale")
        painter.drawText(inner, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignBottom, caption)


class UnitChart(QWidget):
    """Each unit's loss with nearest rounding and after fitting, log scale; the pointer names it."""

    def __init__(self, losses: Sequence[tuple[str, float, float]], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._losses = [(name, max(a, 1e-9), max(b, 1e-9)) for name, a, b in losses]
        self.setMinimumHeight(150)
        self.setMouseTracking(True)
        self.setAccessibleName(tr("Loss of each unit before and after fitting"))

    def unit_at(self, x: float) -> int:
        """Index of the unit nearest to a place."""
        share = (x - 8) / max(1.0, self.width() - 16.0)
        return max(0, min(len(self._losses) - 1, int(share * len(self._losses))))

    def text_of(self, index: int) -> str:
        """What the tip says about a unit."""
        name, before, after = self._losses[index]
        change = 100 * (after / before - 1)
        return tr("{0}: {1} rounded to nearest, {2} fitted ({3} %)").format(
            name, f"{before:.4g}", f"{after:.4g}", f"{change:+.0f}"
        )

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Name the unit under the pointer."""
        if self._losses:
            at = event.position()
            QToolTip.showText(event.globalPosition().toPoint(), self.text_of(self.unit_at(at.x())), self)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw a line from before to after for each unit."""
        colors = theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        legend = QRectF(8, self.height() - 20, self.width() - 16, 20)
        area = QRectF(8, 6, self.width() - 16, self.height() - 32)
        if self._losses:
            every = [math.log10(value) for _, a, b in self._losses for value in (a, b)]
            low, high = min(every), max(every) + 1e-6
            for i, (_, before, after) in enumerate(self._losses):
                x = area.left() + area.width() * (i + 0.5) / len(self._losses)
                y0, y1 = (
                    area.top() + area.height() * (high - math.log10(v)) / (high - low)
                    for v in (before, after)
                )
                painter.setPen(QPen(QColor(colors.border_strong), 1.5))
                painter.drawLine(QPointF(x, y0), QPointF(x, y1))
                painter.setPen(Qt.PenStyle.NoPen)
                for y, color in ((y0, colors.warning), (y1, colors.accent)):
                    painter.setBrush(QColor(color))
                    painter.drawEllipse(QPointF(x, y), 2.6, 2.6)
        left, right = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight
        painter.setPen(QColor(colors.warning))
        text = tr("rounded to nearest")
        painter.drawText(legend, left | Qt.AlignmentFlag.AlignVCenter, text)
        painter.setPen(QColor(colors.accent))
        beside = legend.adjusted(painter.fontMetrics().horizontalAdvance(text) + 16, 0, 0, 0)
        painter.drawText(beside, left | Qt.AlignmentFlag.AlignVCenter, tr("fitted"))
        painter.setPen(QColor(colors.text_muted))
        painter.drawText(legend, right | Qt.AlignmentFlag.AlignVCenter, tr("units in order, log scale"))


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
