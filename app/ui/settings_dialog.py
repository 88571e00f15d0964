"""The settings dialog: made from the schema, searchable, every change applies at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDoubleSpinBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.ui import icons
from app.ui.fields import inset
from app.ui.i18n import tr
from app.ui.settings import SCHEMA, Kind, Setting, Settings
from app.ui.sizes import open_at
from app.ui.theme import GRID

ChoicesOf = Callable[[str], Sequence[tuple[str, str]]]


class SettingsDialog(QDialog):
    """One scrolling page with a search line."""

    def __init__(self, settings: Settings, choices_of: ChoicesOf, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        self._choices_of = choices_of
        self.setWindowTitle(tr("Settings"))
        open_at(self, 620, 640)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2 * GRID, 2 * GRID, 2 * GRID, 2 * GRID)
        layout.setSpacing(GRID)
        self.search = QLineEdit()
        self.search.setPlaceholderText(tr("Search settings"))
        self.search.setClearButtonEnabled(True)
        self.search.addAction(icons.icon("search", "text_muted"), QLineEdit.ActionPosition.LeadingPosition)
        self.search.textChanged.connect(self.filter)
        layout.addWidget(self.search)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        page = QWidget()
        self._page = QVBoxLayout(page)
        self._page.setContentsMargins(0, GRID, GRID, GRID)
        self._page.setSpacing(GRID)
        area.setWidget(page)
        layout.addWidget(area, 1)
        self._rows: list[tuple[Setting, QWidget]] = []
        self._headings: dict[str, QLabel] = {}
        self._shown: dict[str, Callable[[Any], None]] = {}
        for setting in SCHEMA:
            if setting.section not in self._headings:
                heading = QLabel(tr(setting.section))
                heading.setProperty("heading", True)
                heading.setContentsMargins(0, GRID, 0, 0)
                self._headings[setting.section] = heading
                self._page.addWidget(heading)
            row = self._row(setting)
            self._rows.append((setting, row))
            self._page.addWidget(row)
        self._nothing = QLabel(tr("No setting has these words."))
        self._nothing.setProperty("muted", True)
        self._nothing.hide()
        self._page.addWidget(self._nothing)
        self._page.addStretch(1)
        buttons = QHBoxLayout()
        reset = QPushButton(tr("Reset all"))
        reset.setAutoDefault(False)
        reset.clicked.connect(settings.reset)
        close = QPushButton(tr("Close"))
        close.setDefault(True)
        close.clicked.connect(self.accept)
        buttons.addWidget(reset)
        buttons.addStretch(1)
        buttons.addWidget(close)
        layout.addLayout(buttons)
        settings.changed.connect(self._show_value)
        self.search.setFocus()

    def filter(self, text: str) -> None:
        """Show the settings whose words contain the text."""
        needle = text.strip().casefold()
        sections = set()
        for setting, row in self._rows:
            words = f"{tr(setting.section)} {tr(setting.title)} {tr(setting.help)}".casefold()
            found = needle in words
            row.setVisible(found)
            if found:
                sections.add(setting.section)
        for section, heading in self._headings.items():
            heading.setVisible(section in sections)
        self._nothing.setVisible(not sections)

    def visible_keys(self) -> list[str]:
        """Keys of the settings that pass the search."""
        return [setting.key for setting, row in self._rows if not row.isHidden()]

    def editor(self, key: str) -> QWidget:
        """The widget that edits a setting."""
        found = self.findChild(QWidget, f"setting:{key}")
        assert isinstance(found, QWidget)
        return found

    def _row(self, setting: Setting) -> QWidget:
        row = QFrame()
        row.setProperty("card", True)
        layout = QHBoxLayout(row)
        layout.setContentsMargins(GRID + 4, GRID, GRID + 4, GRID)
        words = QVBoxLayout()
        words.setSpacing(2)
        words.addWidget(QLabel(tr(setting.title)))
        if setting.help:
            more = QLabel(tr(setting.help))
            more.setProperty("muted", True)
            more.setWordWrap(True)
            words.addWidget(more)
        layout.addLayout(words, 1)
        editor = self._editor(setting)
        editor.setObjectName(f"setting:{setting.key}")
        editor.setAccessibleName(tr(setting.title))
        layout.addWidget(editor, 0, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return row

    def _editor(self, setting: Setting) -> QWidget:
        key, value = setting.key, self._settings.value(setting.key)
        if setting.kind is Kind.SWITCH:
            box = QCheckBox()
            box.setChecked(bool(value))
            box.toggled.connect(lambda on: self._settings.set(key, on))
            self._shown[key] = lambda v: box.setChecked(bool(v))
            return box
        if setting.kind is Kind.CHOICE:
            return self._choice(setting, str(value))
        spin: QSpinBox | QDoubleSpinBox
        if setting.kind is Kind.WHOLE:
            spin = inset(QSpinBox())
            spin.setRange(int(setting.minimum), int(setting.maximum))
            spin.setSingleStep(int(setting.step))
            spin.setValue(int(value))
        else:
            spin = inset(QDoubleSpinBox())
            spin.setRange(setting.minimum, setting.maximum)
            spin.setSingleStep(setting.step)
            spin.setDecimals(max(2, len(f"{setting.step:g}".partition(".")[2])))
            spin.setValue(float(value))
        spin.setSuffix(tr(setting.suffix) if setting.suffix else "")
        spin.setMinimumWidth(130)
        spin.valueChanged.connect(lambda v: self._settings.set(key, v))
        self._shown[key] = lambda v: spin.setValue(v)
        return spin

    def _choice(self, setting: Setting, value: str) -> QWidget:
        key = setting.key
        choices = [(v, tr(t)) for v, t in setting.choices] or list(self._choices_of(key))
        if value not in [v for v, _ in choices]:
            choices.append((value, value))
        combo = QComboBox()
        combo.setMinimumWidth(200)
        combo.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        for stored, title in choices:
            combo.addItem(title, stored)
        combo.setCurrentIndex([v for v, _ in choices].index(value))
        combo.currentIndexChanged.connect(lambda _i: self._settings.set(key, combo.currentData()))
        self._shown[key] = lambda v: combo.setCurrentIndex(max(0, combo.findData(v)))
        return combo

    def _show_value(self, key: str, value: object) -> None:
        show = self._shown.get(key)
        if show is not None:
            show(value)
