"""A verb that another program runs: one JSON object a line on stdout, words of control on stdin.

Events are ``{"event": "progress", ...}``, ``paused``, ``resumed``, ``result`` and ``error``; words are
``pause``, ``resume`` and ``stop``. When stdin ends, the other program is gone: the verb stops too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, TextIO

import psutil

POLITENESS = 15
"""The Unix nice value: whatever the user does by hand goes first."""
PRIORITY_VARIABLE = "QMINISAM2_FULL_PRIORITY"
"""Set to 1 where nothing else needs the processor first, as on a server that only calibrates."""


class Remote:
    """Tells events and heeds pause and stop; `should_stop` is called between steps and waits while paused."""

    def __init__(self, out: TextIO | None = None, control: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._control = control if control is not None else sys.stdin
        self._changed = threading.Condition()
        self._paused = False
        self._stopped = False
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def tell(self, event: str, **facts: Any) -> None:
        """Write one event; a reader that went away stops the verb."""
        line = json.dumps({"event": event, **facts}, allow_nan=False)
        try:
            print(line, file=self._out, flush=True)
        except (OSError, ValueError):
            with self._changed:
                self._stopped = True

    def should_stop(self) -> bool:
        """True once the user wants an end; blocks while paused."""
        with self._changed:
            if self._paused and not self._stopped:
                self.tell("paused")
                while self._paused and not self._stopped:
                    self._changed.wait()
                if not self._stopped:
                    self.tell("resumed")
            return self._stopped

    def _listen(self) -> None:
        for line in self._control:
            word = line.strip()
            with self._changed:
                if word in ("pause", "resume"):
                    self._paused = word == "pause"
                elif word == "stop":
                    self._stopped = True
                self._changed.notify_all()
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def be_polite() -> None:
    """Run behind everything the user does, unless the environment asks for full priority."""
    if os.environ.get(PRIORITY_VARIABLE) == "1":
        return
    process = psutil.Process()
    try:
        if sys.platform == "win32":
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            process.nice(POLITENESS)
    except (psutil.Error, OSError):
        return
