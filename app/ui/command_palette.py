"""Type a few letters, press Return: every action by name."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QSize, Qt
from PySide6.QtGui import QIcon, QKeyEvent, QPixmap
from PySide6.QtWidgets import (
    QFrame,
    QHeaderView,
    QLineEdit,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from app.ui.i18n import tr
from app.ui.shortcuts import SECTION_TITLES, ActionRegistry
from app.ui.sizes import open_at
from app.ui.theme import GRID

_ID = Qt.ItemDataRole.UserRole


def matches(needle: str, text: str) -> bool:
    """True when every word of the needle begins somewhere in the text."""
    haystack = text.casefold()
    return all(word in haystack for word in needle.casefold().split())


class CommandPalette(QFrame):
    """A popup over the window."""

    def __init__(self, actions: ActionRegistry, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self._actions = actions
        self.setProperty("card", True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(GRID, GRID, GRID, GRID)
        layout.setSpacing(GRID)
        self.line = QLineEdit()
        self.line.setPlaceholderText(tr("Search actions"))
        self.line.textChanged.connect(self._fill)
        self.line.installEventFilter(self)
        layout.addWidget(self.line)
        self.list = QTreeWidget()
        self.list.setColumnCount(2)
        self.list.setHeaderHidden(True)
        self.list.setRootIsDecorated(False)
        self.list.setIndentation(0)
        self.list.setUniformRowHeights(True)
        self.list.setIconSize(QSize(16, 16))
        blank = QPixmap(16, 16)
        blank.fill(Qt.GlobalColor.transparent)
        self._blank = QIcon(blank)  # keeps titles in line
        self.list.header().setStretchLastSection(False)
        self.list.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.list.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.itemClicked.connect(lambda *_: self.run())
        layout.addWidget(self.list)
        open_at(self, 520, 400)

    def open(self) -> None:
        """Show it at the top of the window."""
        host = self.parentWidget()
        self.line.clear()
        self._fill("")
        if host is not None:
            corner = host.mapToGlobal(host.rect().topLeft())
            self.move(corner.x() + (host.width() - self.width()) // 2, corner.y() + 8 * GRID)
        self.show()
        self.line.setFocus()

    def _fill(self, text: str) -> None:
        self.list.clear()
        for spec in self._actions.specs:
            action = self._actions[spec.action_id]
            section = tr(SECTION_TITLES.get(spec.section, spec.section))
            title = action.text().replace("&", "")
            if not action.isEnabled() or not matches(text, f"{section} {title} {tr(spec.hint)}"):
                continue
            keys = self._actions.key_text(spec.action_id)
            item = QTreeWidgetItem(self.list, [f"{section}: {title}", keys])
            item.setIcon(0, action.icon() if not action.icon().isNull() else self._blank)
            item.setSizeHint(0, QSize(0, 4 * GRID))
            item.setForeground(1, self.palette().placeholderText())
            item.setData(0, _ID, spec.action_id)
        self._select(0)

    def _select(self, row: int) -> None:
        count = self.list.topLevelItemCount()
        item = self.list.topLevelItem(row % count) if count else None
        if item is not None:
            self.list.setCurrentItem(item)

    def run(self) -> None:
        """Do the chosen action."""
        item = self.list.currentItem()
        self.close()
        if item is not None:
            self._actions[item.data(0, _ID)].trigger()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Arrow keys move through the list while the line has the focus."""
        if watched is self.line and isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}.get(Qt.Key(event.key()))
            current = self.list.currentItem()
            if step is not None and current is not None:
                self._select(self.list.indexOfTopLevelItem(current) + step)
                return True
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self.run()
                return True
        return False
