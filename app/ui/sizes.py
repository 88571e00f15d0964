"""First sizes of windows: comfortable, and never larger than the screen they open on."""

from __future__ import annotations

from PySide6.QtCore import QSize
from PySide6.QtWidgets import QWidget

FRAME_SPACE = QSize(16, 56)
"""Pixels that a window's frame and title may take of a screen."""


def first_size(wanted: QSize, available: QSize) -> QSize:
    """The wanted size as far as it fits a screen's free area."""
    return wanted.boundedTo(available - FRAME_SPACE)


def open_at(window: QWidget, width: int, height: int) -> None:
    """Give a window its first size."""
    window.resize(first_size(QSize(width, height), window.screen().availableSize()))
