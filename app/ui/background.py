"""Short-lived work off the GUI thread whose result comes back into it: opening, importing, exporting."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from PySide6.QtCore import QObject, Qt, Signal, Slot

log = logging.getLogger(__name__)

LEAVE_AFTER_S = 2.0
"""So long the end of the program waits for work that may be left."""
_T = TypeVar("_T")


class Background(QObject):
    """Runs functions in threads of their own; callbacks are called in the GUI thread, in order."""

    _posted = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._posted.connect(self._run_posted, Qt.ConnectionType.QueuedConnection)

    def run(
        self,
        work: Callable[[], _T],
        done: Callable[[_T], object],
        failed: Callable[[Exception], object],
        name: str = "background",
        may_be_left: bool = False,
    ) -> None:
        """Call ``work`` in a thread, then ``done`` with its result or ``failed`` with its error here.

        ``may_be_left`` says that the work can be broken off at any moment without loss, as a download can
        that waits for a server: the program then does not wait for it when it ends.
        """

        def body() -> None:
            try:
                result = work()
            except Exception as error:
                log.info("%s failed", name, exc_info=error)
                problem = error
                self.post(lambda: failed(problem))
            else:
                self.post(lambda: done(result))

        self._threads = [t for t in self._threads if t.is_alive()]
        thread = threading.Thread(target=body, name=name, daemon=may_be_left)
        self._threads.append(thread)
        thread.start()

    def post(self, call: Callable[[], object]) -> None:
        """Call something in the GUI thread; from any thread."""
        if self._closed:
            return
        try:
            self._posted.emit(call)
        except RuntimeError:  # the QObject is gone: the program is ending
            log.debug("dropped a result after the end")

    @property
    def is_busy(self) -> bool:
        """True while a thread runs."""
        return any(thread.is_alive() for thread in self._threads)

    def shutdown(self) -> None:
        """Wait for what runs; its callbacks are not called any more."""
        self._closed = True
        for thread in self._threads:
            thread.join(LEAVE_AFTER_S if thread.daemon else None)

    @Slot(object)
    def _run_posted(self, call: Callable[[], object]) -> None:
        if not self._closed:
            call()
