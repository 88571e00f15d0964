"""A thin bar that shows a share. `QProgressBar` would paint the window at once with every new value."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.ui import theme

HEIGHT = 6


class LevelBar(QWidget):
    """Filled from the left by a share of 0..1."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._share = 0.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(HEIGHT)

    @property
    def share(self) -> float:
        """What it shows."""
        return self._share

    def set_share(self, share: float) -> None:
        """Show a share; painted with the next repaint of the window."""
        share = min(1.0, max(0.0, share))
        if share != self._share:
            self._share = share
            self.setAccessibleDescription(f"{share:.0%}")
            self.update()

    def sizeHint(self) -> QSize:
        """As wide as there is room."""
        return QSize(80, HEIGHT)

    def paintEvent(self, event: QPaintEvent) -> None:
        """A rounded track and the filled part."""
        colors = theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        whole = QRectF(self.rect())
        for width, color in ((whole.width(), colors.pressed), (whole.width() * self._share, colors.accent)):
            if width > 0:
                painter.setBrush(QColor(color))
                part = QRectF(0, 0, max(width, whole.height()), whole.height())
                painter.drawRoundedRect(part, HEIGHT / 2, HEIGHT / 2)
