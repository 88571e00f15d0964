"""Small fixes to Qt's form fields that a style sheet cannot make."""

from __future__ import annotations

from typing import TypeVar

from PySide6.QtWidgets import QAbstractSpinBox, QLabel, QWidget

Box = TypeVar("Box", bound=QAbstractSpinBox)

TEXT_INSET = 6


def inset(box: Box) -> Box:
    """A spin box whose number stands as far from the edge as the text of other fields; returns the box."""
    box.lineEdit().setTextMargins(TEXT_INSET, 0, 0, 0)
    return box


def label_for(editor: QWidget, text: str) -> QLabel:
    """A label for a row of a form, level with its field: a form puts lower labels at the top."""
    label = QLabel(text)
    label.setBuddy(editor)
    label.setMinimumHeight(editor.sizeHint().height())
    return label
