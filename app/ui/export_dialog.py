"""What to export, and what it would cost: a dry run tells the losses before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.engine.engine import sentence
from app.formats import FORMATS, OPTION_SPECS, ExportCancelled, ExportOptions, ExportReport, Format, dry_run
from app.formats.overlay_video import ID as OVERLAY
from app.project.project import Project
from app.ui.background import Background
from app.ui.fields import inset, label_for
from app.ui.i18n import frame_count_phrase, masks_phrase, tr
from app.ui.sizes import open_at
from app.ui.theme import GRID

CHECK_DELAY_MS = 400
SLOW_TO_CHECK = (OVERLAY,)
"""Formats whose dry run would take as long as the export."""


class ExportDialog(QDialog):
    """Formats on the left, choices and expected losses on the right."""

    chosen = Signal(str, object, object)
    """Format id, path, `ExportOptions`."""

    def __init__(
        self,
        project: Project,
        background: Background,
        selection: Sequence[int],
        marks: tuple[int | None, int | None],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._project = project
        self._background = background
        self._selection = tuple(selection)
        self._marks = marks
        self._values: dict[str, Callable[[], Any]] = {}
        self._check_number = 0
        self._closed = False
        self.setWindowTitle(tr("Export"))
        open_at(self, 760, 520)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(2 * GRID, 2 * GRID, 2 * GRID, 2 * GRID)
        outer.setSpacing(2 * GRID)
        row = QHBoxLayout()
        row.setSpacing(2 * GRID)
        self.formats = QListWidget()
        self.formats.setFixedWidth(200)
        for entry in FORMATS.values():
            item = QListWidgetItem(entry.title)
            item.setData(Qt.ItemDataRole.UserRole, entry.id)
            item.setSizeHint(QSize(0, 4 * GRID))
            self.formats.addItem(item)
        row.addWidget(self.formats)
        right = QVBoxLayout()
        right.setSpacing(GRID)
        self._form_holder = QWidget()
        self._form_layout = QVBoxLayout(self._form_holder)
        self._form_layout.setContentsMargins(0, 0, 0, 0)
        right.addWidget(self._form_holder)
        right.addStretch(1)
        self.losses = QLabel()
        self.losses.setWordWrap(True)
        self.losses.setTextFormat(Qt.TextFormat.PlainText)
        box = QFrame()
        box.setProperty("card", True)
        inside = QVBoxLayout(box)
        inside.setContentsMargins(GRID + 4, GRID, GRID + 4, GRID)
        heading = QLabel(tr("What it will hold"))
        heading.setProperty("heading", True)
        inside.addWidget(heading)
        inside.addWidget(self.losses)
        right.addWidget(box)
        row.addLayout(right, 1)
        outer.addLayout(row, 1)
        place = QHBoxLayout()
        self.path = QLineEdit()
        self.path.setAccessibleName(tr("Where to write"))
        browse = QPushButton(tr("Browse…"))
        browse.setAutoDefault(False)
        browse.clicked.connect(self._browse)
        place.addWidget(QLabel(tr("Write to")))
        place.addWidget(self.path, 1)
        place.addWidget(browse)
        outer.addLayout(place)
        buttons = QHBoxLayout()
        cancel = QPushButton(tr("Cancel"))
        cancel.setAutoDefault(False)
        cancel.clicked.connect(self.reject)
        self.export_button = QPushButton(tr("Export"))
        self.export_button.setDefault(True)
        self.export_button.clicked.connect(self._export)
        buttons.addStretch(1)
        buttons.addWidget(cancel)
        buttons.addWidget(self.export_button)
        outer.addLayout(buttons)
        self._check = QTimer(self)
        self._check.setSingleShot(True)
        self._check.setInterval(CHECK_DELAY_MS)
        self._check.timeout.connect(self._dry_run)
        self.formats.currentItemChanged.connect(lambda *_: self._show_format())
        self.formats.setCurrentRow(0)

    @property
    def format(self) -> Format:
        """The chosen format."""
        return FORMATS[self.formats.currentItem().data(Qt.ItemDataRole.UserRole)]

    def options(self) -> ExportOptions:
        """The choices of the form."""
        values = {name: read() for name, read in self._values.items()}
        if values.pop("selected_only", False):
            values["object_ids"] = self._selection
        return ExportOptions(**values)

    # ---- form ------------------------------------------------------------------------------------------

    def _show_format(self) -> None:
        entry = self.format
        folder = Path(self._project.video.path).parent
        self.path.setText(str(_free(folder / entry.default_name(self._project.video))))
        old = self._form_layout.takeAt(0)
        widget = old.widget() if old is not None else None
        if widget is not None:
            widget.hide()
            widget.setParent(None)
        form_widget = QWidget()
        form = QFormLayout(form_widget)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(2 * GRID)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        form.setVerticalSpacing(GRID)
        self._values = {}
        self._editors: dict[str, QWidget] = {}
        if self._selection and len(self._selection) < len(self._project.objects):
            self._switch(form, "selected_only", tr("Only the selected objects"), "", False)
        for name in entry.options:
            self._add_option(form, name)
        self._form_layout.addWidget(form_widget)
        self._changed()

    def _add_option(self, form: QFormLayout, name: str) -> None:
        spec = OPTION_SPECS[name]
        default = getattr(ExportOptions(), name)
        last = self._project.video.frame_count - 1
        if spec.kind == "bool":
            self._switch(form, name, tr(spec.title), tr(spec.help), bool(default))
            return
        if spec.kind == "float":
            box = inset(QDoubleSpinBox())
            box.setRange(0.0, 1.0 if name == "fill_opacity" else 20.0)
            box.setSingleStep(0.05 if name == "fill_opacity" else 0.1)
            box.setValue(float(default))
            box.valueChanged.connect(lambda _v: self._changed())
            self._add(form, name, tr(spec.title), tr(spec.help), box, box.value)
            return
        number = inset(QSpinBox())
        if name in ("start", "stop"):
            number.setRange(0, last)
            mark = self._marks[0 if name == "start" else 1]
            number.setValue(mark if mark is not None else (0 if name == "start" else last))
            read: Callable[[], Any] = number.value
        elif name == "stride":
            number.setRange(1, 1000)
            usual = self.format.default_stride(self._project.video.fps)
            number.setValue(usual)
            # the usual one is left to the format, which then says so where it departs from its standard
            read = lambda: None if number.value() == usual else number.value()  # noqa: E731
        else:
            number.setRange(0, 100)
            number.setValue(int(default))
            read = number.value
        number.valueChanged.connect(lambda _v: self._changed())
        self._add(form, name, tr(spec.title), tr(spec.help), number, read)

    def _switch(self, form: QFormLayout, name: str, title: str, tip: str, on: bool) -> None:
        box = QCheckBox(title)
        box.setChecked(on)
        box.setToolTip(tip)
        box.toggled.connect(lambda _on: self._changed())
        self._values[name] = box.isChecked
        self._editors[name] = box
        form.addRow("", box)

    def _add(
        self, form: QFormLayout, name: str, title: str, tip: str, editor: QWidget, read: Callable[[], Any]
    ) -> None:
        editor.setToolTip(tip)
        editor.setMinimumWidth(140)
        self._values[name] = read
        self._editors[name] = editor
        form.addRow(label_for(editor, title), editor)

    def editor(self, name: str) -> QWidget:
        """The widget of an option."""
        return self._editors[name]

    # ---- dry run ---------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._check_number += 1
        if "polygons" in self._editors:
            self._editors["polygon_tolerance_px"].setEnabled(bool(self._values["polygons"]()))
        if self.format.id in SLOW_TO_CHECK:
            self._check.stop()
            self.export_button.setEnabled(True)
            self.losses.setText(tr("The clip with its masks drawn over it; for looking, not for training."))
            return
        self.losses.setText(tr("Checking…"))
        self.export_button.setEnabled(True)
        self._check.start()

    def _dry_run(self) -> None:
        number, options, format_id = self._check_number, self.options(), self.format.id

        def watch(_done: int, _total: int) -> None:
            if number != self._check_number or self._closed:
                raise ExportCancelled

        def show(text: str, can_export: bool) -> None:
            if number == self._check_number and not self._closed:
                self.losses.setText(text)
                self.export_button.setEnabled(can_export)

        self._background.run(
            lambda: dry_run(format_id, self._project, _without_frames(options), watch),
            lambda report: show(_describe(report), True),
            lambda error: show(sentence(error), False),
            "dry run",
        )

    # ---- buttons ---------------------------------------------------------------------------------------

    def _browse(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self,
            tr("Write to"),
            self.path.text(),
            "" if self.format.is_folder else f"{self.format.title} (*{self.format.suffix})",
            options=QFileDialog.Option.DontConfirmOverwrite
            if self.format.is_folder
            else QFileDialog.Option(0),
        )
        if path:
            self.path.setText(path)

    def _export(self) -> None:
        text = self.path.text().strip()
        if text:
            self.chosen.emit(self.format.id, Path(text).expanduser(), self.options())
            self.accept()

    def done(self, result: int) -> None:
        """The dialog goes away: a running check stops."""
        self._closed = True
        self._check.stop()
        super().done(result)


def _without_frames(options: ExportOptions) -> ExportOptions:
    return replace(options, with_frames=False)


def _free(path: Path) -> Path:
    """The path, numbered when something is there already."""
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate


def _describe(report: ExportReport) -> str:
    held = tr("{0} on {1}.")
    lines = [held.format(masks_phrase(report.mask_count), frame_count_phrase(report.frame_count))]
    iou = report.details.get("polygon_iou_mean")
    if isinstance(iou, float):
        lines.append(tr("Polygons match the masks to {0} % (IoU).").format(f"{100 * iou:.1f}"))
    if report.losses:
        lines += [f"• {loss.text}" for loss in report.losses]
    else:
        lines.append(tr("Nothing is lost."))
    return "\n".join(lines)
