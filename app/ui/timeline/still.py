"""The timeline without its playhead, drawn as one image and kept until something changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QCoreApplication, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QImage, QPainter, QPen

from app.ui import theme
from app.ui.timeline.columns import Bins, bins
from app.ui.timeline.lane_painter import (
    paint_confidence,
    paint_encoded,
    paint_lane,
    paint_lane_header,
)
from app.ui.timeline.layout import Layout, Part, Place
from app.ui.timeline.ruler_painter import paint_range, paint_ruler
from app.ui.timeline.time_axis import TimeAxis
from app.ui.timeline.view_model import Lane

_MIDDLE = Qt.AlignmentFlag.AlignVCenter


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """Everything the timeline shows but the playhead."""

    axis: TimeAxis
    fps: float
    lanes: tuple[Lane, ...]
    encoded: npt.NDArray[np.bool_] | None
    marks: tuple[int | None, int | None]
    """In and out frame, both inclusive."""
    low_confidence: float
    hover: Place

    @property
    def selected(self) -> tuple[Lane, ...]:
        """The selected objects' lanes."""
        return tuple(lane for lane in self.lanes if lane.selected)


def small_font(font: QFont) -> QFont:
    """The font of numbers and captions."""
    small = QFont(font)
    small.setPointSizeF(max(font.pointSizeF() * 0.86, 7.0))
    return small


def still_image(content: Content, layout: Layout, ratio: float, font: QFont) -> QImage:
    """Draw everything for a screen with ``ratio`` pixels to a logical one."""
    image = QImage(
        max(round(layout.width * ratio), 1), max(round(layout.height * ratio), 1), QImage.Format.Format_RGB32
    )
    image.setDevicePixelRatio(ratio)
    image.fill(QColor(theme.current().surface))
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setFont(font)
    columns = bins(content.axis, ratio)
    _paint_lanes(painter, content, layout, columns)
    _paint_confidence(painter, content, layout, columns, font)
    _paint_top(painter, content, layout, columns, font)
    _paint_lines(painter, layout)
    painter.end()
    return image


def _paint_lanes(painter: QPainter, content: Content, layout: Layout, columns: Bins) -> None:
    colors = theme.current()
    painter.setClipRect(layout.lanes_with_header)
    for index, lane in enumerate(content.lanes):
        row = layout.lane_row(index)
        if row.bottom() < layout.lanes.top() or row.top() > layout.lanes.bottom():
            continue
        if lane.selected:
            painter.fillRect(row, theme.with_alpha(colors.accent_soft, 0.35))
        hovered = content.hover.part in (Part.LANE, Part.LANE_NAME) and content.hover.lane == index
        paint_lane_header(painter, lane, QRectF(0, row.top(), layout.left, row.height()), hovered)
        if len(lane.cells) == content.axis.frame_count:
            area = QRectF(layout.left, row.top(), layout.time_width, row.height())
            paint_lane(painter, lane, area, content.axis, columns, content.low_confidence)
        painter.setPen(QPen(QColor(colors.border), 1))
        painter.drawLine(QPointF(0, row.bottom() - 0.5), QPointF(layout.width, row.bottom() - 0.5))
    painter.setClipping(False)
    if not content.lanes and content.axis.frame_count:
        painter.setPen(QColor(colors.text_muted))
        text = _tr("Click or box something in the picture: its track appears here.")
        painter.drawText(layout.lanes, Qt.AlignmentFlag.AlignCenter, text)


def _paint_confidence(
    painter: QPainter, content: Content, layout: Layout, columns: Bins, font: QFont
) -> None:
    colors = theme.current()
    area = layout.confidence
    if not content.selected or area.height() <= 0:
        return
    painter.fillRect(QRectF(0, area.top(), layout.width, area.height()), QColor(colors.window))
    painter.setPen(QColor(colors.text_muted))
    painter.setFont(small_font(font))
    painter.drawText(QRectF(12, area.top(), layout.left - 16, area.height()), _MIDDLE, _tr("Confidence"))
    painter.setFont(font)
    painter.setClipRect(area)
    for lane in content.selected:
        if len(lane.confidence) == content.axis.frame_count:
            filled = len(content.selected) == 1
            paint_confidence(painter, lane, area, content.axis, columns, content.low_confidence, filled)
    painter.setClipping(False)


def _paint_top(painter: QPainter, content: Content, layout: Layout, columns: Bins, font: QFont) -> None:
    colors, axis, strip = theme.current(), content.axis, layout.strip
    painter.fillRect(QRectF(0, 0, layout.width, strip.bottom()), QColor(colors.window))
    if not axis.frame_count:
        return
    painter.setFont(small_font(font))
    painter.setPen(QColor(colors.text_muted))
    painter.drawText(QRectF(12, 0, layout.left - 16, layout.ruler.height()), _MIDDLE, _tr("Frame"))
    painter.setClipRect(QRectF(layout.left, 0, layout.time_width, layout.height))
    paint_ruler(painter, layout.ruler, axis, content.fps)
    if content.encoded is not None and len(content.encoded) == axis.frame_count:
        paint_encoded(painter, content.encoded, strip.adjusted(0, 1, 0, -2), axis, columns)
    below = QRectF(layout.left, strip.bottom(), layout.time_width, layout.height - strip.bottom())
    paint_range(painter, layout.ruler, below, axis, *content.marks)
    painter.setClipping(False)


def _paint_lines(painter: QPainter, layout: Layout) -> None:
    painter.setPen(QPen(QColor(theme.current().border), 1))
    for y in (layout.strip.bottom() - 0.5, layout.confidence.top() + 0.5):
        painter.drawLine(QPointF(0, y), QPointF(layout.width, y))
    painter.drawLine(QPointF(layout.left - 0.5, 0), QPointF(layout.left - 0.5, layout.height))


def _tr(text: str) -> str:
    return QCoreApplication.translate("Timeline", text)
