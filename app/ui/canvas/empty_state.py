"""What the canvas shows without a video: what to do next, as a drop zone with actions."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QAction, QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app.ui import theme
from app.ui.icons import icon


@dataclass(frozen=True, slots=True, eq=False)
class EmptyState:
    """Text and actions of an empty canvas."""

    title: str
    detail: str = ""
    icon: str = "video"
    """Name in `icons.GLYPHS`."""
    actions: tuple[QAction, ...] = ()
    """Shown as buttons; the first is the primary one."""
    recent_title: str = ""
    recent: tuple[QAction, ...] = ()
    """Shown as a list of links below."""


class EmptyStateView(QWidget):
    """The drop zone over an empty canvas."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._state: EmptyState | None = None
        self._dropping = False
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(*[4 * theme.GRID] * 4)
        self._column.setSpacing(theme.GRID)
        self._icon_label: QLabel | None = None
        theme.manager().changed.connect(self._refresh_icon)

    def set_state(self, state: EmptyState) -> None:
        """Show another text and other actions."""
        self._state = state
        self._clear()
        self._column.addStretch(1)
        self._icon_label = QLabel()
        self._icon_label.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._column.addWidget(self._icon_label)
        self._refresh_icon()
        self._column.addSpacing(theme.GRID)
        title = QLabel(state.title)
        font = title.font()
        font.setPointSizeF(font.pointSizeF() * 1.5)
        font.setWeight(font.Weight.DemiBold)
        title.setFont(font)
        title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        title.setWordWrap(True)
        self._column.addWidget(title)
        if state.detail:
            detail = QLabel(state.detail)
            detail.setProperty("muted", True)
            detail.setAlignment(Qt.AlignmentFlag.AlignCenter)
            detail.setWordWrap(True)
            self._column.addWidget(detail)
        if state.actions:
            self._column.addSpacing(2 * theme.GRID)
            row = QHBoxLayout()
            row.setSpacing(theme.GRID)
            row.addStretch(1)
            for index, action in enumerate(state.actions):
                row.addWidget(_button(action, primary=index == 0))
            row.addStretch(1)
            self._column.addLayout(row)
        if state.recent:
            self._column.addSpacing(3 * theme.GRID)
            if state.recent_title:
                heading = QLabel(state.recent_title)
                heading.setProperty("heading", True)
                heading.setAlignment(Qt.AlignmentFlag.AlignCenter)
                self._column.addWidget(heading)
            links = QVBoxLayout()
            links.setSpacing(0)
            for action in state.recent:
                links.addWidget(_button(action, flat=True), alignment=Qt.AlignmentFlag.AlignCenter)
            self._column.addLayout(links)
        self._column.addStretch(1)

    def set_dropping(self, dropping: bool) -> None:
        """Light the zone up while files hover over it."""
        if dropping != self._dropping:
            self._dropping = dropping
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the dashed drop zone."""
        colors = theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QColor(colors.window))
        paint_drop_zone(painter, QRectF(self.rect()), self._dropping)

    def _refresh_icon(self) -> None:
        if self._icon_label is not None and self._state is not None:
            ratio = self.devicePixelRatioF()
            pixmap = icon(self._state.icon, "text_muted").pixmap(QSize(56, 56), ratio)
            self._icon_label.setPixmap(pixmap)

    def _clear(self) -> None:
        self._icon_label = None
        _empty_layout(self._column)


def paint_drop_zone(painter: QPainter, area: QRectF, dropping: bool) -> None:
    """A dashed frame inside an area, lit up while files hover over it."""
    colors = theme.current()
    margin = 3 * theme.GRID
    pen = QPen(QColor(colors.accent if dropping else colors.border_strong), 1.5)
    pen.setDashPattern([5, 4])
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    painter.setPen(pen)
    painter.setBrush(theme.with_alpha(colors.accent, 0.12) if dropping else Qt.BrushStyle.NoBrush)
    painter.drawRoundedRect(area.adjusted(margin, margin, -margin, -margin), 12, 12)


def _empty_layout(layout: QVBoxLayout | QHBoxLayout) -> None:
    while (item := layout.takeAt(0)) is not None:
        widget, inner = item.widget(), item.layout()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
        elif isinstance(inner, QVBoxLayout | QHBoxLayout):
            _empty_layout(inner)
            inner.deleteLater()


def _button(action: QAction, primary: bool = False, flat: bool = False) -> QPushButton:
    button = QPushButton(action.text().replace("&", ""))
    button.setToolTip(action.toolTip())
    button.setEnabled(action.isEnabled())
    button.setCursor(Qt.CursorShape.PointingHandCursor)
    button.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
    if primary:
        button.setProperty("primary", True)
    if flat:
        button.setFlat(True)
    button.clicked.connect(action.trigger)
    return button
