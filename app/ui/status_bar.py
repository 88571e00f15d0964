"""The bottom line: model and device on the left, pointer, frame and saved state on the right."""

from __future__ import annotations

import time

import psutil
from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QToolButton, QWidget

from app.engine.records import ModelPhase, ModelState
from app.engine.workbench import Timing
from app.ui import icons
from app.ui.i18n import tr
from app.ui.models import precision_phrase
from app.ui.theme import GRID


def _kernel_lines(state: ModelState) -> list[str]:
    """Which parts run on our own kernels, and which do not and why."""
    ours, others = state.kernels
    lines = [tr("Own kernels: {0}").format(", ".join(ours))] if ours else []
    return lines + [tr("PyTorch: {0}").format(part) for part in others]


class StatusBar(QWidget):
    """Facts only; nothing here asks for attention."""

    model_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(GRID // 2, 0, GRID, 0)
        layout.setSpacing(2 * GRID)
        self.model = QToolButton()
        self.model.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.model.setIcon(icons.icon("model", "text_muted"))
        self.model.setAccessibleName(tr("Model and device"))
        self.model.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.model.clicked.connect(self.model_clicked)
        layout.addWidget(self.model)
        self.device = self._label()
        self.speed = self._label()
        layout.addWidget(self.device)
        layout.addWidget(self.speed)
        self.memory = self._label()
        self.memory.setToolTip(tr("Memory that the program uses"))
        layout.addWidget(self.memory)
        layout.addStretch(1)
        self.pointer = self._label()
        self.pointer.setMinimumWidth(self.pointer.fontMetrics().horizontalAdvance("x 00000  y 00000"))
        self.clip = self._label()
        self.saved = self._label()
        layout.addWidget(self.pointer)
        layout.addWidget(self.clip)
        layout.addWidget(self.saved)
        self._saved_at: float | None = None
        self._project = ""
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._show_saved)
        self._clock.timeout.connect(self._show_memory)
        self._process = psutil.Process()

    def _label(self) -> QLabel:
        label = QLabel()
        label.setProperty("muted", True)
        return label

    def set_model(self, state: ModelState) -> None:
        """Which model answers, or why none does."""
        if state.phase is ModelPhase.READY:
            name = state.title.partition(" (")[0]  # the precision is said right after
            text = f"{name} · {precision_phrase(state.precision)}" if state.precision else name
        elif state.phase is ModelPhase.LOADING:
            text = tr("Loading {0}…").format(state.title)
        elif state.phase is ModelPhase.FAILED:
            text = tr("No model: {0}").format(state.title)
        else:
            text = tr("No model")
        self.model.setText(text)
        self.model.setIcon(
            icons.icon("warning", "warning")
            if state.phase is ModelPhase.FAILED
            else icons.icon("model", "text_muted")
        )
        self.model.setToolTip(state.message or tr("Choose the model and the device"))
        ready = state.phase is ModelPhase.READY
        self.device.setText(" · ".join(filter(None, (state.device, state.back_end))) if ready else "")
        self.device.setToolTip("\n".join(_kernel_lines(state)))
        if state.phase is not ModelPhase.READY:
            self.speed.clear()

    def set_timing(self, timing: Timing) -> None:
        """Measured cost of a frame."""
        if timing.encode_s is None:
            return
        total = timing.encode_s + (timing.track_s or 0.0)
        self.speed.setText(tr("{0} ms/frame").format(round(1000 * total)))
        self.speed.setToolTip(
            tr("Encoding {0} ms, tracking one object {1} ms").format(
                round(1000 * timing.encode_s), "–" if timing.track_s is None else round(1000 * timing.track_s)
            )
        )

    def set_pointer(self, x: float | None, y: float | None) -> None:
        """Pixel under the pointer; None when it is elsewhere."""
        self.pointer.setText("" if x is None or y is None else f"x {int(x)}  y {int(y)}")

    def set_clip(self, text: str) -> None:
        """Size and rate of the clip."""
        self.clip.setText(text)

    def set_project(self, name: str) -> None:
        """Name of the project file; empty when there is none."""
        self._project = name
        if name:
            self._clock.start()
        else:
            self._saved_at = None
            self._clock.stop()
        self._show_saved()

    def set_saved(self, saved_at: float) -> None:
        """When the last change reached the disk, seconds since the epoch."""
        self._saved_at = saved_at
        self._show_saved()

    def _show_memory(self) -> None:
        size = self._process.memory_info().rss
        text = tr("{0} GB").format(f"{size / 1e9:.1f}") if size >= 1e9 else tr("{0} MB").format(size // 10**6)
        self.memory.setText(text)

    def _show_saved(self) -> None:
        if not self._project or self._saved_at is None:
            self.saved.setText("")
            return
        age = max(0, round(time.time() - self._saved_at))
        if age < 2:
            text = tr("saved")
        elif age < 60:
            text = tr("saved {0} s ago").format(age)
        elif age < 3600:
            text = tr("saved {0} min ago").format(age // 60)
        else:
            text = tr("saved at {0}").format(time.strftime("%H:%M", time.localtime(self._saved_at)))
        self.saved.setText(text)
        self.saved.setToolTip(self._project)
