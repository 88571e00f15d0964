"""What to calibrate on: the open project's video, files and folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QIcon, QImage, QPixmap
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.engine.engine import sentence
from app.ui.background import Background
from app.ui.i18n import tr
from app.ui.theme import GRID
from qcore.quant.clip_selection import ClipRequest, plan_clips, read_frames

FEW_FRAMES = 40
THUMBNAIL = QSize(112, 63)


class ClipsPage(QWidget):
    """The list of videos, with what was found wrong with any of them."""

    changed = Signal()

    def __init__(self, background: Background, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._background = background
        self._entries: list[tuple[ClipRequest, QListWidgetItem, int | None]] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(GRID)
        self.list = QListWidget()
        self.list.setIconSize(THUMBNAIL)
        layout.addWidget(self.list, 1)
        row = QHBoxLayout()
        for title, slot in (
            (tr("Add videos…"), self._add_files),
            (tr("Add a folder of frames…"), self._add_folder),
            (tr("Take out"), self._remove),
        ):
            button = QPushButton(title)
            button.setAutoDefault(False)
            button.clicked.connect(slot)
            row.addWidget(button)
        row.addStretch(1)
        self.clips = self._number(row, tr("Clips"), 1, 64, 8)
        self.frames = self._number(row, tr("Frames a clip"), 2, 200, 20)
        layout.addLayout(row)
        self.note = QLabel()
        self.note.setWordWrap(True)
        self.note.setProperty("muted", True)
        layout.addWidget(self.note)
        self._show_note()

    def _number(self, row: QHBoxLayout, title: str, low: int, high: int, value: int) -> QSpinBox:
        row.addWidget(QLabel(title))
        box = QSpinBox()
        box.setRange(low, high)
        box.setValue(value)
        box.setAccessibleName(title)
        box.valueChanged.connect(lambda _v: self._show_note())
        row.addWidget(box)
        return box

    def requests(self) -> list[ClipRequest]:
        """The videos that can be read."""
        return [request for request, _, count in self._entries if count is not None]

    def add(self, request: ClipRequest) -> None:
        """Put a video on the list; it is looked at off the GUI thread."""
        if any(known.path == request.path for known, _, _ in self._entries):
            return
        item = QListWidgetItem(f"{request.path.name}\n{tr('Looking…')}")
        self.list.addItem(item)
        self._entries.append((request, item, None))

        def work() -> tuple[int, QImage]:
            (plan,) = plan_clips([request], 1, self.frames.value())
            frame = read_frames(plan.path, plan.indices[:1])[0]
            height, width = frame.shape[:2]
            image = QImage(frame.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
            fit, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            return len(plan.indices), image.scaled(THUMBNAIL, fit, smooth)

        def done(found: tuple[int, QImage]) -> None:
            objects = len(request.prompts)
            prompts = tr("{0} own objects").format(objects) if objects else tr("the model picks an object")
            item.setText(f"{request.path.name}\n{prompts}")
            item.setIcon(QIcon(QPixmap.fromImage(found[1])))
            self._update(item, found[0])

        def failed(error: Exception) -> None:
            item.setText(f"{request.path.name}\n{tr('Left out: {0}').format(sentence(error))}")
            self._update(item, None)

        self._background.run(work, done, failed, "calibration clip")

    def _update(self, item: QListWidgetItem, frames: int | None) -> None:
        self._entries = [(r, i, frames if i is item else n) for r, i, n in self._entries]
        self._show_note()

    def _show_note(self) -> None:
        found = [min(n, self.frames.value()) for _, _, n in self._entries if n is not None]
        clips = max(self.clips.value(), len(found)) if found else 0
        total = sum(found) * clips // len(found) if found else 0
        if not found:
            text = tr("Add at least one video that looks like what you annotate.")
        elif total < FEW_FRAMES:
            text = tr(
                "About {0} frames: that works, but 8 clips of 20 are better; check the report well."
            ).format(total)
        else:
            text = tr("About {0} frames in {1} clips.").format(total, clips)
        self.note.setText(text)
        self.changed.emit()

    def _add_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, tr("Videos to calibrate on"), str(Path.home()))
        self.add_paths(paths)

    def _add_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, tr("A folder of frames"), str(Path.home()))
        self.add_paths([path] if path else [])

    def add_paths(self, paths: Sequence[str]) -> None:
        """Put files on the list."""
        for path in paths:
            self.add(ClipRequest(Path(path)))

    def _remove(self) -> None:
        row = self.list.currentRow()
        if row >= 0:
            self.list.takeItem(row)
            del self._entries[row]
            self._show_note()
