"""Type a few letters, press Return: every action by name."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QFrame, QLineEdit, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from app.ui.i18n import tr
from app.ui.shortcuts import SECTION_TITLES, ActionRegistry
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
        self.list = QListWidget()
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.itemClicked.connect(lambda _item: self.run())
        layout.addWidget(self.list)
        self.resize(520, 400)

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
            item = QListWidgetItem(action.icon(), f"{section}: {title}" + (f"    {keys}" if keys else ""))
            item.setData(_ID, spec.action_id)
            self.list.addItem(item)
        self.list.setCurrentRow(0)

    def run(self) -> None:
        """Do the chosen action."""
        item = self.list.currentItem()
        self.close()
        if item is not None:
            self._actions[item.data(_ID)].trigger()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Arrow keys move through the list while the line has the focus."""
        if watched is self.line and isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}.get(Qt.Key(event.key()))
            if step is not None and self.list.count():
                self.list.setCurrentRow((self.list.currentRow() + step) % self.list.count())
                return True
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self.run()
                return True
        return False
