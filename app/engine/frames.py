"""Decoding for the eye: one thread opens videos and delivers frames to show, so that the GUI never waits.

Only the newest request counts; while nothing is asked for, the next frames in the direction of travel are
decoded into the source's own cache.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QObject, Qt, Signal, Slot

from app.engine.engine import sentence
from app.project.model import VideoInfo

log = logging.getLogger(__name__)

AHEAD = 6
"""Frames decoded in advance."""
DISPLAY_CACHE_BYTES = 192 << 20
ENGINE_CACHE_BYTES = 32 << 20
"""The engine goes through frames once and keeps features, not pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenedVideo:
    """A video that was opened for display, and a second decoder of it for the engine."""

    info: VideoInfo
    timestamps_s: npt.NDArray[np.float64]
    engine_source: Any


def open_with_qcore(path: str) -> Any:
    """The real way to open a video or frame folder."""
    from qcore.video import open_source

    return open_source(path, cache_bytes=DISPLAY_CACHE_BYTES)


class FrameLoader(QObject):
    """Opens videos and delivers frames; all signals arrive in the GUI thread."""

    opened = Signal(int, object)
    """Request id, `OpenedVideo`."""
    open_failed = Signal(int, str)
    """Request id, one sentence."""
    frame_ready = Signal(int, object)
    """Frame index, uint8 RGB (H, W, 3)."""
    frame_failed = Signal(int, str)

    _posted = Signal(object)

    def __init__(self, opener: Callable[[str], Any] = open_with_qcore, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._opener = opener
        self._wake = threading.Condition()
        self._to_open: tuple[int, str] | None = None
        self._wanted: int | None = None
        self._ahead: list[int] = []
        self._last = -1
        self._closed = False
        self._drop_source = False
        self._opens = 0
        self._source: Any = None
        self._posted.connect(self._run_posted, Qt.ConnectionType.QueuedConnection)
        self._thread = threading.Thread(target=self._work, name="frames")
        self._thread.start()

    def open(self, path: str) -> int:
        """Open a video; the one shown stays until the new one is there. Returns the request id."""
        with self._wake:
            self._opens += 1
            self._to_open = (self._opens, path)
            self._wake.notify_all()
            return self._opens

    def request(self, index: int) -> None:
        """Ask for a frame; an older request not yet served is forgotten."""
        with self._wake:
            self._wanted = index
            self._wake.notify_all()

    def close_video(self) -> None:
        """Release the video."""
        with self._wake:
            self._drop_source = True
            self._wanted = None
            self._wake.notify_all()

    def shutdown(self) -> None:
        """End the thread and wait for it. May be called twice."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @Slot(object)
    def _run_posted(self, call: Callable[[], None]) -> None:
        call()

    def _post(self, call: Callable[[], None]) -> None:
        try:
            self._posted.emit(call)
        except RuntimeError:  # the QObject is gone: the program is ending
            log.debug("dropped a frame after the end")

    # ---- thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: (
                        self._closed
                        or self._to_open is not None
                        or self._wanted is not None
                        or self._drop_source
                        or bool(self._ahead)
                    )
                )
                if self._closed:
                    break
                drop, self._drop_source = self._drop_source, False
                opening, self._to_open = self._to_open, None
                wanted, self._wanted = self._wanted, None
                ahead = self._ahead.pop(0) if opening is None and wanted is None and self._ahead else None
            if drop:
                self._release()
            if opening is not None:
                self._open(*opening)
            if wanted is not None:
                self._deliver(wanted)
            elif ahead is not None:
                self._decode_ahead(ahead)
        self._release()

    def _release(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source, self._ahead, self._last = None, [], -1

    def _open(self, request: int, path: str) -> None:
        try:
            source = self._opener(path)
            try:
                opened = _describe(source, path)
            except BaseException:
                source.close()
                raise
        except Exception as error:
            log.warning("opening %s failed", path, exc_info=error)
            text = sentence(error)
            self._post(lambda: self.open_failed.emit(request, text))
            return
        self._release()
        self._source = source
        self._post(lambda: self.opened.emit(request, opened))

    def _deliver(self, index: int) -> None:
        source = self._source
        if source is None or not 0 <= index < len(source):
            return
        try:
            rgb = source[index]
        except Exception as error:
            log.warning("frame %d failed", index, exc_info=error)
            text = sentence(error)
            self._post(lambda: self.frame_failed.emit(index, text))
            return
        self._post(lambda: self.frame_ready.emit(index, rgb))
        step = 1 if index >= self._last else -1
        self._last = index
        upcoming = [index + step * n for n in range(1, AHEAD + 1)]
        with self._wake:
            self._ahead = [i for i in upcoming if 0 <= i < len(source)]

    def _decode_ahead(self, index: int) -> None:
        source = self._source
        if source is None or not 0 <= index < len(source):
            return
        try:
            source[index]
        except Exception as error:
            log.debug("decoding ahead stopped at frame %d", index, exc_info=error)
            with self._wake:
                self._ahead = []


def _describe(source: Any, path: str) -> OpenedVideo:
    absolute = Path(path).resolve()
    height, width = source.size
    info = VideoInfo(
        path=str(absolute),
        relative_path=None,
        width=int(width),
        height=int(height),
        fps=float(source.fps),
        frame_count=len(source),
        size_bytes=int(source.size_bytes),
        fingerprint=str(source.fingerprint),
    )
    return OpenedVideo(
        info, np.asarray(source.timestamps, np.float64), source.reopen(cache_bytes=ENGINE_CACHE_BYTES)
    )
