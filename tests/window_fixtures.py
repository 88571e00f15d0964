"""Fixtures shared by the tests of the user interface and the end-to-end tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_tracking import FakeBackend, write_clip
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtWidgets import QWidget

from app.engine.records import ModelPhase
from app.project.project import Project
from app.ui.main_window import MainWindow
from app.ui.settings import Settings


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A test that leaves a thread running has leaked it."""
    before = set(threading.enumerate())
    yield
    left = [t.name for t in threading.enumerate() if t not in before and t.is_alive() and not t.daemon]
    assert not left, f"threads left running: {left}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings in a file of the test's own."""
    return Settings(tmp_path / "settings" / "settings.json")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """24 frames with a moving and a still square."""
    folder = tmp_path / "clips"
    folder.mkdir()
    return write_clip(folder / "squares.mp4")


@pytest.fixture
def engine_backend() -> FakeBackend:
    """A model that needs no time."""
    return FakeBackend()


class Driver:
    """A window, and hands to use it with: everything goes through its widgets and keys."""

    def __init__(self, window: MainWindow, qtbot: Any) -> None:
        self.window = window
        self.qtbot = qtbot

    @property
    def project(self) -> Project:
        return self.window.document.need()

    def until(self, condition: Callable[[], object], timeout_ms: int = 20_000) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=timeout_ms)

    def open(self, path: Path) -> None:
        self.window.documents.open(str(path))
        self.until(lambda: self.window.document.is_open)
        self.at(self.window.workspace.frame)

    def at(self, frame: int) -> None:
        """Wait until a frame is on the screen."""
        self.until(lambda: self.window.presenter.shown_frame == frame)
        self.until(lambda: self.window.canvas.video_size is not None)

    def ready(self) -> None:
        self.until(lambda: self.window.engine.model.phase is ModelPhase.READY)

    def key(self, key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
        target: QWidget = self.window.canvas
        if not self.window.isActiveWindow():  # a window manager would have done it when a dialog closed
            self.window.activateWindow()
            self.until(self.window.isActiveWindow)
        self.qtbot.keyClick(target, key, modifier)

    def place(self, x: float, y: float) -> QPoint:
        at = self.window.canvas.transform.to_widget(x, y)
        return QPointF(*at).toPoint()

    def click(self, x: float, y: float, button: Qt.MouseButton = Qt.MouseButton.LeftButton) -> None:
        self.qtbot.mouseClick(self.window.canvas, button, pos=self.place(x, y))

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        canvas = self.window.canvas
        self.qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=self.place(x0, y0))
        for part in (0.3, 0.7, 1.0):
            self.qtbot.mouseMove(canvas, self.place(x0 + part * (x1 - x0), y0 + part * (y1 - y0)))
        self.qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=self.place(x1, y1))

    def answered(self) -> None:
        """Wait until no prompt is without an answer."""
        self.until(lambda: not self.window.prompts.is_waiting)

    def tracked(self) -> None:
        """Wait until no propagation runs."""
        self.until(lambda: not self.window.tracking.is_running, 120_000)

    def close(self) -> None:
        self.window.close()


@pytest.fixture
def open_window(qtbot: Any, settings: Settings) -> Iterator[Callable[..., Driver]]:
    """Makes windows with a given backend, and closes them at the end."""
    windows: list[MainWindow] = []

    def make(backend: Any, path: Path | None = None) -> Driver:
        window = MainWindow(settings, backend)
        windows.append(window)
        qtbot.addWidget(window)
        window.show()
        qtbot.waitExposed(window)
        window.start(None)
        driver = Driver(window, qtbot)
        if path is not None:
            driver.open(path)
            driver.ready()
        return driver

    yield make
    for window in windows:
        window.close()
