"""What a calibration cost and brought: verdict, figures, masks to flip between, layers, parts that hurt."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QMarginsF, QSize, Qt, Signal
from PySide6.QtGui import QImage, QPageLayout, QPainter, QPdfWriter, QPixmap, QTextDocument
from PySide6.QtSvg import QSvgRenderer
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
from app.ui.i18n import tr
from app.ui.theme import GRID
from qcore.quant.report import CalibrationReport
from qcore.quant.report_html import agreement_svg, flip_pictures, layers_svg, losses_svg, report_html

PRINT_WIDTH, PRINT_SCALE = 640, 3
"""Of charts in a PDF: pixels on a page of 96 dots an inch, and how much finer they are drawn."""


def printed_charts(report: CalibrationReport) -> dict[str, str]:
    """The charts as pictures, because Qt's rich text draws no SVG."""
    drawn = {
        "agreement": agreement_svg(report), "losses": losses_svg(report), "layers": layers_svg(report)
    }  # fmt: skip
    return {name: _picture(svg) if svg else "" for name, svg in drawn.items()}


def _picture(svg: str) -> str:
    renderer = QSvgRenderer(QByteArray(svg.encode()))
    size = renderer.defaultSize()
    image = QImage(size * PRINT_SCALE, QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.white)
    painter = QPainter(image)
    renderer.render(painter)
    painter.end()
    data = QByteArray()
    buffer = QBuffer(data)
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    image.save(buffer, "PNG")  # type: ignore[call-overload]
    width = min(PRINT_WIDTH, size.width())
    png = bytes(data.toBase64().data()).decode("ascii")
    return f'<p><img width="{width}" src="data:image/png;base64,{png}"></p>'


class ReportPage(QScrollArea):
    """One finished calibration."""

    keep_wanted = Signal(object)
    """Globs of a part to keep in full precision in another run."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self._report: CalibrationReport | None = None
        self._pictures: list[tuple[QPixmap, QPixmap]] = []

    def show_report(self, report: CalibrationReport) -> None:
        """Fill the page."""
        self._report = report
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
        self._add_flips(column, report)
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

    def _add_flips(self, column: QVBoxLayout, report: CalibrationReport) -> None:
        self._pictures = []
        if not report.flips:
            return
        for flip in report.flips:
            pair = []
            for jpeg in flip_pictures(flip):
                pixmap = QPixmap()
                pixmap.loadFromData(jpeg)
                pair.append(pixmap.scaled(QSize(480, 270), Qt.AspectRatioMode.KeepAspectRatio,
                                          Qt.TransformationMode.SmoothTransformation))  # fmt: skip
            self._pictures.append((pair[0], pair[1]))
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
        self.chosen.setRange(0, len(report.flips) - 1)
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
        """Ask where to, and write the report as HTML or PDF."""
        if self._report is None:
            return
        name = str(Path.home() / f"{self._report.name}-report.html")
        path, _ = QFileDialog.getSaveFileName(
            self, tr("Export the report"), name, "HTML (*.html);;PDF (*.pdf)"
        )
        if path:
            self.write(Path(path))

    def write(self, path: Path) -> None:
        """Write the report in the format of the file's ending."""
        assert self._report is not None
        if path.suffix.lower() != ".pdf":
            path.write_text(report_html(self._report), encoding="utf-8")
            return
        document = QTextDocument()
        document.setHtml(report_html(self._report, printed_charts(self._report)))
        writer = QPdfWriter(str(path))
        writer.setPageMargins(QMarginsF(15, 15, 15, 15), QPageLayout.Unit.Millimeter)
        document.print_(writer)
