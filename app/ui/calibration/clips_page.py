"""What to calibrate on: the open project's video, files and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QIcon, QImage, QPainter, QPixmap
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
from shiboken6 import isValid

from app.engine.engine import sentence
from app.ui.background import Background
from app.ui.document_controller import VIDEO_SUFFIXES
from app.ui.fields import inset
from app.ui.i18n import tr
from app.ui.theme import GRID
from qcore.quant.clip_selection import ClipRequest, Rgb, plan_clips, read_frames

FEW_FRAMES = 40
THUMBNAIL = QSize(112, 63)
SHOWN_FRAMES = 4
"""Thumbnails a video, evenly spread over what will be used of it."""


@dataclass(frozen=True, slots=True)
class ProjectClip:
    """A project's video; its masks are read when ``load`` is called, off the GUI thread."""

    path: Path
    """Of the project or the video: its name is shown until the video's is known."""
    load: Callable[[], ClipRequest]


@dataclass(slots=True)
class _Entry:
    path: Path
    item: QListWidgetItem
    request: ClipRequest | None = None
    """None until the video was looked at, and for one that cannot be used."""
    frames: int = 0


class ClipsPage(QWidget):
    """The list of videos, with what was found wrong with any of them."""

    changed = Signal()

    def __init__(self, background: Background, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._background = background
        self._entries: list[_Entry] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(GRID)
        self.list = QListWidget()
        self.list.setIconSize(QSize(SHOWN_FRAMES * (THUMBNAIL.width() + 2), THUMBNAIL.height()))
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
        box = inset(QSpinBox())
        box.setRange(low, high)
        box.setValue(value)
        box.setAccessibleName(title)
        box.valueChanged.connect(lambda _v: self._show_note())
        row.addWidget(box)
        return box

    def requests(self) -> list[ClipRequest]:
        """The videos that can be read."""
        return [entry.request for entry in self._entries if entry.request is not None]

    def add(self, request: ClipRequest) -> None:
        """Put a video on the list; it is looked at off the GUI thread."""
        self.add_project(ProjectClip(request.path, lambda: request))

    def add_project(self, clip: ProjectClip) -> None:
        """Put a project's video on the list, with the prompts and masks that its project knows."""
        if any(known.path == clip.path for known in self._entries):
            return
        item = QListWidgetItem(QIcon(QPixmap.fromImage(_strip([]))), f"{clip.path.name}\n{tr('Looking…')}")
        self.list.addItem(item)
        entry = _Entry(clip.path, item)
        self._entries.append(entry)
        frames_a_clip = self.frames.value()

        def work() -> tuple[ClipRequest, int, QImage]:
            request = clip.load()
            (plan,) = plan_clips([request], 1, frames_a_clip)
            step = max(1, (len(plan.indices) - 1) // (SHOWN_FRAMES - 1))
            shown = read_frames(plan.path, plan.indices[::step][:SHOWN_FRAMES])
            return request, len(plan.indices), _strip([_thumbnail(frame) for frame in shown])

        def is_listed() -> bool:
            """False when it was taken out, or the wizard is gone, while the video was looked at."""
            return isValid(self) and entry in self._entries

        def done(found: tuple[ClipRequest, int, QImage]) -> None:
            if not is_listed():
                return
            entry.request, entry.frames = found[0], found[1]
            entry.path = entry.request.path
            item.setText(f"{entry.path.name}\n{_prompts(entry.request)}")
            item.setIcon(QIcon(QPixmap.fromImage(found[2])))
            self._show_note()

        def failed(error: Exception) -> None:
            if is_listed():
                item.setText(f"{clip.path.name}\n{tr('Left out: {0}').format(sentence(error))}")
                self._show_note()

        self._background.run(work, done, failed, "calibration clip")

    def _show_note(self) -> None:
        found = [min(e.frames, self.frames.value()) for e in self._entries if e.request is not None]
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
        patterns = " ".join(f"*{suffix}" for suffix in VIDEO_SUFFIXES)
        paths, _ = QFileDialog.getOpenFileNames(
            self,
            tr("Videos to calibrate on"),
            self._folder(),
            f"{tr('Videos')} ({patterns});;{tr('All files')} (*)",
        )
        self.add_paths(paths)

    def _add_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, tr("A folder of frames"), self._folder())
        self.add_paths([path] if path else [])

    def _folder(self) -> str:
        """Where to look first: beside the newest clip."""
        return str(self._entries[-1].path.parent if self._entries else Path.home())

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


def _prompts(request: ClipRequest) -> str:
    objects = len(request.prompts)
    if not objects:
        return tr("the model picks an object")
    accepted = sum(len(entry.masks) for entry in request.accepted)
    text = tr("1 own object") if objects == 1 else tr("{0} own objects").format(objects)
    return tr("{0}, {1} accepted masks to measure against").format(text, accepted) if accepted else text


def _thumbnail(frame_hwc: Rgb) -> QImage:
    height, width = frame_hwc.shape[:2]
    image = QImage(frame_hwc.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    fit, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    return image.scaled(THUMBNAIL, fit, smooth)


def _strip(pictures: Sequence[QImage]) -> QImage:
    """Pictures of one size side by side, on a ground of the full strip's size so that names stay in line."""
    strip = QImage(
        SHOWN_FRAMES * (THUMBNAIL.width() + 2), THUMBNAIL.height(), QImage.Format.Format_ARGB32_Premultiplied
    )
    strip.fill(Qt.GlobalColor.transparent)
    painter = QPainter(strip)
    for number, picture in enumerate(pictures):
        top = (THUMBNAIL.height() - picture.height()) // 2
        painter.drawImage(number * (THUMBNAIL.width() + 2), top, picture)
    painter.end()
    return strip
