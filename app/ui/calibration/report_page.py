"""What a calibration cost and brought: verdict, figures, masks to flip between, layers, parts that hurt."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from app.ui.calibration.charts import LayerChart, UnitChart
from app.ui.calibration.report_files import ShownReport
from app.ui.i18n import tr
from app.ui.theme import GRID
from qcore.quant.report import CalibrationReport


class ReportPage(QScrollArea):
    """One finished calibration."""

    keep_wanted = Signal(object)
    """Globs of a part to keep in full precision in another run."""
    export_wanted = Signal(object, object)
    """`CalibrationReport` and the path to write it to."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self._report: CalibrationReport | None = None
        self._pictures: list[tuple[QPixmap, QPixmap]] = []

    def show_report(self, shown: ShownReport) -> None:
        """Fill the page."""
        report = self._report = shown.report
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, GRID, 0)
        column.setSpacing(GRID)
        self.verdict = QLabel(report.verdict())
        self.verdict.setWordWrap(True)
        font = self.verdict.font()
        font.setPointSizeF(font.pointSizeF() * 1.15)
        self.verdict.setFont(font)
        column.addWidget(self.verdict)
        column.addLayout(self._figures(report))
        self._add_flips(column, shown)
        for part in report.parts[:2]:
            if part.hurts:
                row = QHBoxLayout()
                text = tr("Quantizing the {0} causes {1} % of the difference; exact it adds {2} MB.")
                share = f"{100 * part.error_share:.0f}"
                label = QLabel(text.format(part.title, share, f"{part.extra_bytes / 1e6:.2f}"))
                label.setWordWrap(True)
                button = QPushButton(tr("Run again with it in full precision"))
                button.setAutoDefault(False)
                button.clicked.connect(lambda _=False, p=part.patterns: self.keep_wanted.emit(p))
                row.addWidget(label, 1)
                row.addWidget(button)
                column.addLayout(row)
        heading = QLabel(tr("Signal to noise of the layers that lose most"))
        heading.setProperty("heading", True)
        column.addWidget(heading)
        column.addWidget(LayerChart(report.layers))
        if report.losses:
            heading = QLabel(tr("Loss of each unit"))
            heading.setProperty("heading", True)
            column.addWidget(heading)
            column.addWidget(UnitChart(report.losses))
        column.addStretch(1)
        self.setWidget(page)

    def _figures(self, report: CalibrationReport) -> QGridLayout:
        before, after = report.before, report.after

        def number(value: float | None, unit: str) -> str:
            return tr("not measured") if value is None else f"{value:.0f} {unit}"

        rows = [
            ("", tr("original"), tr("quantized")),
            (tr("Precision"), before.precision, after.precision),
            (tr("File"), f"{before.size_bytes / 1e6:.1f} MB", f"{after.size_bytes / 1e6:.1f} MB"),
            (tr("Time a frame"), number(before.frame_ms, "ms"), number(after.frame_ms, "ms")),
            (tr("Peak memory"), number(before.peak_rss_mb, "MiB"), number(after.peak_rss_mb, "MiB")),
        ]
        if report.frames:
            rows.append((tr("Agreement J&F"), "100", f"{100 * report.jf:.1f}"))
        accepted = report.accepted_jf
        if accepted is not None:
            title = tr("J&F on your accepted masks")
            rows.append((title, f"{100 * accepted[0]:.1f}", f"{100 * accepted[1]:.1f}"))
        grid = QGridLayout()
        grid.setHorizontalSpacing(3 * GRID)
        for r, cells in enumerate(rows):
            for c, text in enumerate(cells):
                label = QLabel(text)
                label.setProperty("muted", r == 0 or c == 0)
                grid.addWidget(label, r, c)
        grid.setColumnStretch(3, 1)
        return grid

    def _add_flips(self, column: QVBoxLayout, shown: ShownReport) -> None:
        self._pictures = [(QPixmap.fromImage(a), QPixmap.fromImage(b)) for a, b in shown.flips]
        if not self._pictures:
            return
        heading = QLabel(tr("Where they differ most"))
        heading.setProperty("heading", True)
        column.addWidget(heading)
        self.picture = QLabel()
        self.caption = QLabel()
        self.caption.setProperty("muted", True)
        self.flip = QPushButton()
        self.flip.setCheckable(True)
        self.flip.setAutoDefault(False)
        self.chosen = QSlider(Qt.Orientation.Horizontal)
        self.chosen.setRange(0, len(self._pictures) - 1)
        self.chosen.setAccessibleName(tr("Frame, worst first"))
        self.flip.toggled.connect(lambda _on: self._show_flip())
        self.chosen.valueChanged.connect(lambda _v: self._show_flip())
        row = QHBoxLayout()
        row.addWidget(self.flip)
        row.addWidget(self.chosen, 1)
        column.addWidget(self.picture)
        column.addWidget(self.caption)
        column.addLayout(row)
        self._show_flip()

    def _show_flip(self) -> None:
        assert self._report is not None
        index, quantized = self.chosen.value(), self.flip.isChecked()
        self.picture.setPixmap(self._pictures[index][int(quantized)])
        self.flip.setText(tr("Quantized") if quantized else tr("Original"))
        score = self._report.flips[index].score
        text = tr("{0}, frame {1}: J&F {2}").format(score.clip, score.frame_index, f"{100 * score.jf:.1f}")
        self.caption.setText(text)

    def export(self) -> None:
        """Ask where to, and have the report written as HTML or PDF."""
        if self._report is None:
            return
        name = str(Path.home() / f"{self._report.name}-report.html")
        path, _ = QFileDialog.getSaveFileName(
            self, tr("Export the report"), name, "HTML (*.html);;PDF (*.pdf)"
        )
        if path:
            self.export_wanted.emit(self._report, Path(path))
