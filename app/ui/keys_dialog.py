"""The cheat-sheet (F1): all keys at a glance, searchable; double-click to change one, conflicts are named."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QHeaderView,
    QKeySequenceEdit,
    QLabel,
    QLineEdit,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from app.ui import icons
from app.ui.i18n import tr
from app.ui.shortcuts import MOUSE_HINTS, SECTION_TITLES, ActionRegistry, find_conflicts
from app.ui.sizes import open_at
from app.ui.theme import GRID, current

_ID = Qt.ItemDataRole.UserRole


class KeysDialog(QDialog):
    """A list of all actions in their sections with their keys."""

    def __init__(self, actions: ActionRegistry, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._actions = actions
        self.setWindowTitle(tr("Keys"))
        open_at(self, 640, 720)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2 * GRID, 2 * GRID, 2 * GRID, 2 * GRID)
        layout.setSpacing(GRID)
        self.search = QLineEdit()
        self.search.setPlaceholderText(tr("Search actions and keys"))
        self.search.setClearButtonEnabled(True)
        self.search.addAction(icons.icon("search", "text_muted"), QLineEdit.ActionPosition.LeadingPosition)
        self.search.textChanged.connect(self.filter)
        layout.addWidget(self.search)
        self.tree = QTreeWidget()
        self.tree.setColumnCount(2)
        self.tree.setHeaderHidden(True)
        self.tree.setRootIsDecorated(False)
        self.tree.setIndentation(GRID)
        self.tree.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.tree.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.tree.header().setStretchLastSection(False)
        self.tree.itemDoubleClicked.connect(lambda item, _column: self.change(item))
        layout.addWidget(self.tree, 1)
        self.warning = QLabel()
        self.warning.setProperty("warning", True)
        self.warning.setWordWrap(True)
        layout.addWidget(self.warning)
        buttons = QHBoxLayout()
        self.change_button = QPushButton(tr("Change key…"))
        self.change_button.setAutoDefault(False)
        self.change_button.clicked.connect(lambda: self.change(self.tree.currentItem()))
        self.default_button = QPushButton(tr("Default key"))
        self.default_button.setAutoDefault(False)
        self.default_button.clicked.connect(self._restore)
        close = QPushButton(tr("Close"))
        close.setDefault(True)
        close.clicked.connect(self.accept)
        for button in (self.change_button, self.default_button):
            buttons.addWidget(button)
        buttons.addStretch(1)
        buttons.addWidget(close)
        layout.addLayout(buttons)
        self.tree.currentItemChanged.connect(lambda *_: self._update_buttons())
        actions.keys_changed.connect(self._fill)
        self._fill()
        self.search.setFocus()

    def _fill(self) -> None:
        chosen = self._selected_id()
        self.tree.clear()
        sections: dict[str, QTreeWidgetItem] = {}
        for spec in self._actions.specs:
            if spec.section not in sections:
                sections[spec.section] = self._section(SECTION_TITLES.get(spec.section, spec.section))
            title = tr(spec.title) + (f"  ({tr(spec.hint)})" if spec.hint else "")
            item = QTreeWidgetItem(sections[spec.section], [title, self._actions.key_text(spec.action_id)])
            item.setData(0, _ID, spec.action_id)
            if self._actions.is_custom(spec.action_id):
                font = item.font(1)
                font.setBold(True)
                item.setFont(1, font)
                item.setToolTip(1, tr("Changed by you"))
            if spec.action_id == chosen:
                self.tree.setCurrentItem(item)
        mouse = self._section("Mouse")
        for gesture, meaning in MOUSE_HINTS:
            QTreeWidgetItem(mouse, [tr(meaning), tr(gesture)])
        self.tree.expandAll()
        self._show_conflicts()
        self.filter(self.search.text())
        self._update_buttons()

    def _section(self, title: str) -> QTreeWidgetItem:
        item = QTreeWidgetItem(self.tree, [tr(title)])
        font = item.font(0)
        font.setBold(True)
        item.setFont(0, font)
        item.setForeground(0, self.palette().placeholderText())
        item.setFlags(Qt.ItemFlag.ItemIsEnabled)
        return item

    def _show_conflicts(self) -> None:
        titles = {spec.action_id: tr(spec.title) for spec in self._actions.specs}
        lines = [
            tr("{0} is used by {1}; only the first works.").format(
                QKeySequence(key).toString(QKeySequence.SequenceFormat.NativeText),
                ", ".join(f"“{titles[i]}”" for i in ids),
            )
            for key, ids in self._actions.conflicts()
        ]
        self.warning.setText("\n".join(lines))
        self.warning.setVisible(bool(lines))

    def filter(self, text: str) -> None:
        """Show the actions whose words or keys contain the text."""
        needle = text.strip().casefold()
        for number in range(self.tree.topLevelItemCount()):
            section = self.tree.topLevelItem(number)
            if section is None:
                continue
            any_shown = False
            for position in range(section.childCount()):
                item = section.child(position)
                if item is None:
                    continue
                words = f"{item.text(0)} {item.text(1)} {section.text(0)}".casefold()
                shown = needle in words
                item.setHidden(not shown)
                any_shown |= shown
            section.setHidden(not any_shown)

    def _selected_id(self) -> str | None:
        item = self.tree.currentItem()
        found = item.data(0, _ID) if item is not None else None
        return str(found) if found else None

    def _update_buttons(self) -> None:
        chosen = self._selected_id()
        self.change_button.setEnabled(chosen is not None)
        self.default_button.setEnabled(chosen is not None and self._actions.is_custom(chosen))

    def change(self, item: QTreeWidgetItem | None) -> None:
        """Ask for another key of an action."""
        action_id = item.data(0, _ID) if item is not None else None
        if not action_id:
            return
        dialog = KeyDialog(self._actions, action_id, self)
        if dialog.exec() == QDialog.DialogCode.Accepted:
            self._actions.set_keys(action_id, dialog.keys())

    def _restore(self) -> None:
        chosen = self._selected_id()
        if chosen is not None:
            self._actions.set_keys(chosen, None)


class KeyDialog(QDialog):
    """Press the new key; says at once who has it already."""

    def __init__(self, actions: ActionRegistry, action_id: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._actions = actions
        self._action_id = action_id
        spec = next(s for s in actions.specs if s.action_id == action_id)
        self.setWindowTitle(tr("Key for “{0}”").format(tr(spec.title)))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2 * GRID, 2 * GRID, 2 * GRID, 2 * GRID)
        layout.setSpacing(GRID)
        layout.addWidget(QLabel(tr("Press the key you want.")))
        self.edit = QKeySequenceEdit()
        self.edit.setMaximumSequenceLength(1)
        keys = actions.keys(action_id)
        if keys:
            self.edit.setKeySequence(QKeySequence(keys[0]))
        self.edit.keySequenceChanged.connect(self._check)
        layout.addWidget(self.edit)
        self.note = QLabel(" ")
        self.note.setWordWrap(True)
        self.note.setStyleSheet(f"color: {current().warning}")
        self.note.setMinimumWidth(360)
        layout.addWidget(self.note)
        buttons = QHBoxLayout()
        none = QPushButton(tr("No key"))
        none.clicked.connect(self.edit.clear)
        ok = QPushButton(tr("Use this key"))
        ok.setDefault(True)
        ok.clicked.connect(self.accept)
        cancel = QPushButton(tr("Cancel"))
        cancel.clicked.connect(self.reject)
        buttons.addWidget(none)
        buttons.addStretch(1)
        buttons.addWidget(cancel)
        buttons.addWidget(ok)
        layout.addLayout(buttons)
        self._check()

    def keys(self) -> list[str]:
        """The chosen key, or none; further default keys of the action are kept."""
        text = self.edit.keySequence().toString(QKeySequence.SequenceFormat.PortableText)
        rest = [k for k in self._actions.keys(self._action_id)[1:] if k != text]
        return [text, *rest] if text else []

    def _check(self) -> None:
        present = {s.action_id: self._actions.keys(s.action_id) for s in self._actions.specs}
        present[self._action_id] = tuple(self.keys())
        titles = {s.action_id: tr(s.title) for s in self._actions.specs}
        others = [
            titles[i] for _, ids in find_conflicts(present) if self._action_id in ids for i in ids
            if i != self._action_id
        ]  # fmt: skip
        self.note.setText(
            tr("Already used by {0}.").format(", ".join(f"“{t}”" for t in others)) if others else " "
        )
