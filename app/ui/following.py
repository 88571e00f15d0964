"""Shows the frames that are being tracked, unless the user looks elsewhere."""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer

from app.ui.playback import Playback
from app.ui.settings import Settings
from app.ui.state import Workspace

EVERY_MS = 250
"""How often at most another frame is shown: painting every one takes time from the model, and nobody can
look at so many."""


class Following(QObject):
    """Goes along with a pass; the first frame at once, then some a second, and the last."""

    def __init__(
        self, workspace: Workspace, settings: Settings, playback: Playback, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._workspace = workspace
        self._settings = settings
        self._playback = playback
        self._shown: int | None = None
        """The frame this went to last."""
        self._newest: int | None = None
        """What was tracked since."""
        self._is_left = False
        self._is_running = False
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(EVERY_MS)
        self._pause.timeout.connect(self._show)

    def tracked(self, frame: int) -> None:
        """A frame was tracked: show it, now or when it is time for another."""
        self._newest = frame
        if not self._pause.isActive():
            self._show()

    def leave(self) -> None:
        """The user is busy with a frame of their own: stay there until the pass is over."""
        self._is_left = True

    def set_running(self, running: bool) -> None:
        """A pass runs, or none does: its last frame is shown, and each is followed from its start."""
        if running != self._is_running:
            self._show()
            self._is_running = running
            self._start_over()

    def clear(self) -> None:
        """Another clip: nothing was tracked in it yet."""
        self._newest = None
        self._start_over()

    def _start_over(self) -> None:
        self._pause.stop()
        self._shown, self._is_left = None, False

    def _show(self) -> None:
        frame, self._newest = self._newest, None
        if frame is None or self._is_left or self._playback.is_playing:
            return
        if not self._settings.value("tracking.follow"):
            return
        if self._shown in (None, self._workspace.frame):
            self._shown = frame
            self._pause.start()
            self._workspace.go_to(frame)
