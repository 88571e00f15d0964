"""Short facts over the canvas that go away by themselves, some with one thing to do about them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from PySide6.QtCore import QEvent, QObject, Qt, QTimer
from PySide6.QtGui import QEnterEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QToolButton, QWidget

from app.ui import icons
from app.ui.i18n import tr
from app.ui.theme import GRID, current

SHORT_MS = 4000
LONG_MS = 9000
LIMIT = 3


class Tone(StrEnum):
    """How serious it is; also the name of the icon."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    ERROR = "error"


_ROLES = {Tone.INFO: "accent", Tone.SUCCESS: "positive", Tone.WARNING: "warning", Tone.ERROR: "negative"}


class Toasts(QObject):
    """Stacks toasts at the bottom of a host widget."""

    def __init__(self, host: QWidget) -> None:
        super().__init__(host)
        self._host = host
        self._shown: list[_Toast] = []
        host.installEventFilter(self)

    def show(
        self,
        text: str,
        tone: Tone = Tone.INFO,
        action: str = "",
        call: Callable[[], object] | None = None,
        topic: str = "",
        stays: bool = False,
    ) -> None:
        """Show a fact; with ``action``, a button that does ``call``.

        A repeated text is shown once, and of a ``topic`` only the newest. One that ``stays`` waits for the
        user, who may not be looking.
        """
        for toast in self._shown:
            if toast.text == text:
                toast.restart()
                return
        for toast in [t for t in self._shown if topic and t.topic == topic]:
            toast.dismiss()
        toast = _Toast(self._host, text, tone, action, call, self._closed)
        toast.topic = topic
        if stays:
            toast.stay()
        self._shown.append(toast)
        while len(self._shown) > LIMIT:
            self._shown[0].dismiss()
        toast.show()
        toast.raise_()
        self._place()

    @property
    def texts(self) -> list[str]:
        """What is on screen, oldest first."""
        return [toast.text for toast in self._shown]

    def clear(self) -> None:
        """Take all of them away."""
        for toast in list(self._shown):
            toast.dismiss()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keep the stack in place when the host changes its size."""
        if watched is self._host and event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def _closed(self, toast: _Toast) -> None:
        if toast in self._shown:
            self._shown.remove(toast)
        self._place()

    def _place(self) -> None:
        bottom = self._host.height() - 2 * GRID
        for toast in reversed(self._shown):
            toast.setMaximumWidth(max(240, self._host.width() - 4 * GRID))
            toast.adjustSize()
            toast.move((self._host.width() - toast.width()) // 2, bottom - toast.height())
            bottom -= toast.height() + GRID


class _Toast(QFrame):
    def __init__(
        self,
        host: QWidget,
        text: str,
        tone: Tone,
        action: str,
        call: Callable[[], object] | None,
        closed: Callable[[_Toast], None],
    ) -> None:
        super().__init__(host)
        self.text = text
        self.topic = ""
        self._closed = closed
        self.setObjectName("toast")
        colors = current()
        self.setStyleSheet(
            f"#toast {{ background: {colors.surface}; border: 1px solid {colors.border_strong};"
            " border-radius: 8px; }"
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(GRID + 4, GRID, GRID, GRID)
        layout.setSpacing(GRID)
        picture = QLabel()
        picture.setPixmap(icons.icon(tone.value, _ROLES[tone]).pixmap(18, 18))
        picture.setAlignment(Qt.AlignmentFlag.AlignTop)
        layout.addWidget(picture)
        label = QLabel(text)
        label.setTextFormat(Qt.TextFormat.PlainText)
        if label.sizeHint().width() <= 520:
            picture.setAlignment(Qt.AlignmentFlag.AlignVCenter)
        else:
            label.setWordWrap(True)
            label.setMinimumWidth(min(520, host.width() - 12 * GRID))
        label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        layout.addWidget(label)
        if action and call is not None:
            button = QPushButton(action)
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            button.clicked.connect(call)
            button.clicked.connect(self.dismiss)
            layout.addWidget(button)
        close = QToolButton()
        close.setIcon(icons.icon("close", "text_muted"))
        close.setAccessibleName(tr("Close"))
        close.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        close.clicked.connect(self.dismiss)
        layout.addWidget(close)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.dismiss)
        self._span_ms = LONG_MS if action or tone in (Tone.ERROR, Tone.WARNING) else SHORT_MS
        self.restart()

    def restart(self) -> None:
        """Count the time from now."""
        if self._span_ms:
            self._timer.start(self._span_ms)

    def enterEvent(self, event: QEnterEvent) -> None:
        """It does not go away under the pointer."""
        self._timer.stop()

    def leaveEvent(self, event: QEvent) -> None:
        """The pointer left: count again."""
        if self.isVisible():
            self.restart()

    def stay(self) -> None:
        """Do not go away by itself."""
        self._timer.stop()
        self._span_ms = 0

    def dismiss(self) -> None:
        """Go away."""
        self._timer.stop()
        self.hide()
        self._closed(self)
        self.deleteLater()
