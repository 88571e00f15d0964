"""Under the canvas: moving through the clip on the left, the one primary button on the right."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QAction, QIntValidator
from PySide6.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QMenu, QToolButton, QWidget

from app.ui import icons
from app.ui.i18n import clock, tr
from app.ui.primary_button import PrimaryButton
from app.ui.shortcuts import ActionRegistry
from app.ui.theme import GRID

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0)


class TransportBar(QWidget):
    """Buttons, frame number, time, speed, and the button that tracks."""

    frame_entered = Signal(int)
    """The user typed a frame number."""
    speed_chosen = Signal(float)
    primary_clicked = Signal()

    def __init__(self, actions: ActionRegistry, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(GRID, GRID // 2, GRID, GRID // 2)
        layout.setSpacing(GRID // 2)
        for action_id in ("first", "previous_key", "previous", "toggle", "next", "next_key", "last"):
            button = QToolButton()
            button.setDefaultAction(actions[f"play.{action_id}"])
            button.setIconSize(QSize(20, 20) if action_id == "toggle" else QSize(16, 16))
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            layout.addWidget(button)
        layout.addSpacing(GRID)
        self._word = QLabel(tr("Frame"))
        self._word.setProperty("muted", True)
        layout.addWidget(self._word)
        self.frame_box = QLineEdit()
        self.frame_box.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.frame_box.setFixedWidth(self.frame_box.fontMetrics().horizontalAdvance("000000") + 22)
        self.frame_box.setValidator(QIntValidator(0, 99_999_999, self.frame_box))
        self._last = 0
        self.frame_box.setAccessibleName(tr("Frame number"))
        self.frame_box.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.frame_box.returnPressed.connect(self._frame_typed)
        layout.addWidget(self.frame_box)
        self._count = QLabel()
        self._count.setProperty("muted", True)
        layout.addWidget(self._count)
        layout.addSpacing(GRID)
        self._clock = QLabel()
        font = self._clock.font()
        font.setStyleHint(font.StyleHint.Monospace)
        self._clock.setFont(font)
        self._clock.setMinimumWidth(self._clock.fontMetrics().horizontalAdvance("0:00:00.00 ") + 4)
        layout.addWidget(self._clock)
        self._speed = QToolButton()
        self._speed.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._speed.setToolTip(tr("Playback speed"))
        self._speed.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._speed.setMenu(self._speed_menu())
        layout.addWidget(self._speed)
        layout.addStretch(1)
        self._range = QLabel()
        self._range.setProperty("muted", True)
        layout.addWidget(self._range)
        layout.addSpacing(GRID)
        self.primary = PrimaryButton(tr("Track"))
        self.primary.setIcon(icons.icon("track", "on_accent"))
        self.primary.clicked.connect(lambda: self.primary_clicked.emit())
        layout.addWidget(self.primary)
        self.more = QToolButton()
        self.more.setIcon(icons.icon("expand"))
        self.more.setToolTip(tr("Other ways to track"))
        self.more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.more.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        menu = QMenu(self)
        for action_id in ("forward", "backward", "both", "frames", "repair"):
            menu.addAction(actions[f"track.{action_id}"])
        menu.addSeparator()
        for action_id in ("in", "out", "clear_range"):
            menu.addAction(actions[f"track.{action_id}"])
        self.more.setMenu(menu)
        layout.addWidget(self.more)
        self._actions = actions
        self.set_speed(1.0)
        self.set_clip(0)

    def set_clip(self, frame_count: int) -> None:
        """Adapt to a clip of so many frames; 0 is no clip."""
        self._last = max(0, frame_count - 1)
        self._count.setText(f"/ {frame_count - 1}" if frame_count else "")
        self.setEnabled(frame_count > 0)

    def set_position(self, frame_index: int, seconds: float) -> None:
        """Show where the clip stands."""
        if not self.frame_box.hasFocus():
            self.frame_box.setText(str(frame_index))
        self._clock.setText(clock(seconds))

    def set_playing(self, playing: bool) -> None:
        """Show pause while it plays."""
        self._actions["play.toggle"].setIcon(icons.icon("pause" if playing else "play"))

    def set_speed(self, speed: float) -> None:
        """Show the playback speed."""
        self._speed.setText(f"×{speed:g}")

    def set_primary(self, text: str, enabled: bool, tip: str = "", short: str = "") -> None:
        """What the primary button says (``short``: where that does not fit), and whether it works."""
        self.primary.set_texts(text, short)
        self.primary.setEnabled(enabled)
        self.primary.setToolTip(tip)

    def set_range_text(self, text: str) -> None:
        """Describe the in and out markers."""
        self._range.setText(text)

    def _frame_typed(self) -> None:
        self.frame_box.clearFocus()
        if self.frame_box.text():
            self.frame_entered.emit(min(int(self.frame_box.text()), self._last))

    def _speed_menu(self) -> QMenu:
        menu = QMenu(self)
        for speed in SPEEDS:
            action = QAction(f"×{speed:g}", menu)
            action.triggered.connect(lambda _checked=False, chosen=speed: self.speed_chosen.emit(chosen))
            menu.addAction(action)
        return menu
