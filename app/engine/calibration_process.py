"""A calibration at work in a process of its own, behind everything the user does; it ends with the window."""

from __future__ import annotations

import json
import logging
from typing import Any

from PySide6.QtCore import QObject, QProcess, QProcessEnvironment, Signal

from app.own_program import own_command, own_environment

log = logging.getLogger(__name__)

STOP_MS = 1500
"""So long a process may take to stop by itself; then it is killed, which loses at most one unit."""


class CalibrationProcess(QObject):
    """One run of ``qminisam2 quantize --remote``."""

    told = Signal(object)
    """A dict with ``event`` and its facts."""
    ended = Signal(bool)
    """The process is gone; True when it gave a result."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process = QProcess(self)
        environment = QProcessEnvironment()
        for name, value in own_environment().items():
            environment.insert(name, value)
        self._process.setProcessEnvironment(environment)
        self._process.readyReadStandardOutput.connect(self._read)
        self._process.readyReadStandardError.connect(self._log)
        self._process.finished.connect(self._finished)
        self._process.errorOccurred.connect(self._failed)
        self._has_result = False

    @property
    def is_running(self) -> bool:
        """True from `start` to `ended`."""
        return self._process.state() is not QProcess.ProcessState.NotRunning

    def start(self, arguments: list[str]) -> None:
        """Run the verb with these arguments."""
        program, *rest = own_command(*arguments)
        self._has_result = False
        self._process.start(program, rest)

    def say(self, word: str) -> None:
        """Send ``pause``, ``resume`` or ``stop``."""
        if self.is_running:
            self._process.write(f"{word}\n".encode())

    def abandon(self) -> None:
        """End it at once and do not wait; for work whose result is not wanted any more."""
        self._process.kill()

    def kill(self) -> None:
        """Stop at once, for the end of the program: what was finished is on the disk."""
        if not self.is_running:
            return
        self.say("stop")
        self._process.closeWriteChannel()
        if not self._process.waitForFinished(STOP_MS):
            self._process.kill()
            self._process.waitForFinished(STOP_MS)

    def _read(self) -> None:
        while self._process.canReadLine():
            line = bytes(self._process.readLine().data()).decode("utf-8", "replace")
            try:
                value: Any = json.loads(line)
            except ValueError:
                log.info("calibration: %s", line.strip())
                continue
            if isinstance(value, dict) and isinstance(value.get("event"), str):
                self._has_result = self._has_result or value["event"] in ("result", "estimate")
                self.told.emit(value)

    def _log(self) -> None:
        text = bytes(self._process.readAllStandardError().data()).decode("utf-8", "replace").strip()
        if text:
            log.info("calibration: %s", text)

    def _finished(self) -> None:
        self._read()
        self.ended.emit(self._has_result)

    def _failed(self, error: QProcess.ProcessError) -> None:
        if error is QProcess.ProcessError.FailedToStart:
            self.told.emit({"event": "error", "message": "The calibration cannot be started."})
            self.ended.emit(False)
