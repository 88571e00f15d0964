"""Reading a calibration's report with its pictures, and writing it as HTML or PDF. Safe in any thread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QMarginsF, QSize, Qt
from PySide6.QtGui import QImage, QPageLayout, QPainter, QPdfWriter, QTextDocument
from PySide6.QtSvg import QSvgRenderer

from qcore.quant.report import CalibrationReport
from qcore.quant.report_html import agreement_svg, flip_pictures, layers_svg, losses_svg, report_html

PRINT_WIDTH, PRINT_SCALE = 640, 3
"""Of charts in a PDF: pixels on a page of 96 dots an inch, and how much finer they are drawn."""
SHOWN_SIZE = QSize(480, 270)


@dataclass(frozen=True, slots=True)
class ShownReport:
    """A report with its frames as pictures: with the original's mask, and with the quantized model's."""

    report: CalibrationReport
    flips: tuple[tuple[QImage, QImage], ...]


def read_report(path: Path) -> ShownReport:
    """Read what ``quantize --report-json`` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is something else.
    """
    return with_pictures(CalibrationReport.from_json(json.loads(path.read_text(encoding="utf-8"))))


def with_pictures(report: CalibrationReport) -> ShownReport:
    """Draw the masks over the report's frames."""
    flips = []
    for flip in report.flips:
        full, quantized = (_shown(jpeg) for jpeg in flip_pictures(flip))
        flips.append((full, quantized))
    return ShownReport(report, tuple(flips))


def _shown(jpeg: bytes) -> QImage:
    fit, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    return QImage.fromData(jpeg).scaled(SHOWN_SIZE, fit, smooth)


def write_report(report: CalibrationReport, path: Path) -> None:
    """Write the report in the format of the file's ending: PDF, else HTML.

    Raises:
        OSError: the disk refuses.
    """
    if path.suffix.lower() != ".pdf":
        path.write_text(report_html(report), encoding="utf-8")
        return
    with path.open("wb"):
        pass  # says why it cannot be written, which Qt's writer does not
    document = QTextDocument()
    document.setHtml(report_html(report, printed_charts(report)))
    writer = QPdfWriter(str(path))
    writer.setPageMargins(QMarginsF(15, 15, 15, 15), QPageLayout.Unit.Millimeter)
    document.print_(writer)


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
