"""Draws the rows of the timeline: presence lanes, the encoded strip and the confidence curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QByteArray, QDataStream, QLineF, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QImage, QPainter, QPen, QPolygonF

from app.ui import theme
from app.ui.timeline.columns import Bins, lane_columns, thinned
from app.ui.timeline.time_axis import TimeAxis
from app.ui.timeline.view_model import Cell, Lane

BAR_INSET = 6.0
MARK_SPACING = 7.0
FRAME_GAPS_FROM = 7.0
"""From this many pixels a frame on, frames are drawn apart."""


def paint_lane(
    painter: QPainter, lane: Lane, area: QRectF, axis: TimeAxis, columns: Bins, low_confidence: float
) -> None:
    """Draw one object's presence into ``area``, whose left end is the axis's."""
    colors = theme.current()
    color = QColor(theme.display_color(lane.color))
    ratio = painter.device().devicePixelRatioF()
    reduced = lane_columns(lane, columns, low_confidence)
    bar = area.adjusted(0, BAR_INSET, 0, -BAR_INSET)
    faded = 0.4 if not lane.visible else 1.0

    middle = QRectF(bar.left(), bar.center().y() - 1, bar.width(), 2)
    _strip(painter, middle, axis, columns, color, reduced.absent * 0.55 * faded, ratio)

    strength = np.choose(np.minimum(reduced.kind, 5), [0.0, 0.0, 0.62, 0.62, 1.0, 1.0]).astype(np.float32)
    # A column with any mask stays readable, however few of its frames have one.
    cover = np.where(reduced.present > 0, 0.35 + 0.65 * reduced.present, 0)
    _strip(painter, bar, axis, columns, color, strength * cover * faded, ratio)

    imported = (reduced.kind == Cell.IMPORTED) & (reduced.present > 0)
    if imported.any():
        stripe = QRectF(bar.left(), bar.center().y() - 1, bar.width(), 2)
        _strip(painter, stripe, axis, columns, QColor(colors.surface), imported * 0.9, ratio)
    if reduced.reviewed.any():
        line = QRectF(bar.left(), bar.bottom() + 1.5, bar.width(), 2)
        _strip(
            painter, line, axis, columns, QColor(colors.positive), (reduced.reviewed > 0) * 1.0 * faded, ratio
        )
    if reduced.low.any():
        line = QRectF(bar.left(), bar.top() - 3.5, bar.width(), 2)
        _strip(painter, line, axis, columns, QColor(colors.warning), reduced.low * 1.0 * faded, ratio)
    if axis.px_per_frame >= FRAME_GAPS_FROM:
        _paint_gaps(painter, lane, bar, axis, QColor(colors.surface))
    painter.setOpacity(0.5 if not lane.visible else 1.0)
    _paint_marks(painter, lane, bar, axis)
    painter.setOpacity(1.0)


def _strip(
    painter: QPainter,
    area: QRectF,
    axis: TimeAxis,
    columns: Bins,
    color: QColor,
    opacity: npt.NDArray[np.float32],
    ratio: float,
) -> None:
    """Fill a row of columns, each with its own opacity (0..1), as one image stretched to the row."""
    if columns.count == 0 or not opacity.any():
        return
    alpha = np.clip(opacity, 0, 1).astype(np.float32)
    pixels = np.empty((columns.count, 4), np.uint8)
    for channel, value in enumerate((color.blue(), color.green(), color.red())):
        pixels[:, channel] = np.round(value * alpha)
    pixels[:, 3] = np.round(255 * alpha)
    image = QImage(
        pixels.data, columns.count, 1, 4 * columns.count, QImage.Format.Format_ARGB32_Premultiplied
    )
    if columns.is_gather:
        width = columns.count / ratio
    else:
        width = min(axis.x_of(columns.stop), axis.width)
    painter.drawImage(QRectF(area.left(), area.top(), width, area.height()), image, QRectF(image.rect()))


def _paint_gaps(painter: QPainter, lane: Lane, bar: QRectF, axis: TimeAxis, color: QColor) -> None:
    """Part the frames that have a mask from their neighbours."""
    start, stop = axis.visible_range()
    has_mask = lane.present[start:stop]
    painter.setPen(QPen(color, 1))
    for offset in np.flatnonzero(has_mask[1:] & has_mask[:-1]).tolist():
        x = bar.left() + axis.x_of(start + 1 + offset)
        painter.drawLine(QLineF(x, bar.top(), x, bar.bottom()))


def _paint_marks(painter: QPainter, lane: Lane, bar: QRectF, axis: TimeAxis) -> None:
    colors = theme.current()
    middle = bar.center().y()
    for cell in (Cell.EDITED, Cell.PROMPTED):
        frames = thinned(np.flatnonzero(lane.cells == cell), axis, MARK_SPACING)
        for frame in frames.tolist():
            x = bar.left() + axis.center_of(frame)
            painter.setPen(QPen(QColor(colors.surface), 1.5))
            painter.setBrush(QColor(colors.text))
            if cell is Cell.PROMPTED:
                side = 5.0
                diamond = [(0, -side), (side, 0), (0, side), (-side, 0)]
                painter.drawPolygon(QPolygonF([QPointF(x + dx, middle + dy) for dx, dy in diamond]))
            else:
                painter.drawRoundedRect(QRectF(x - 3.0, middle - 3.0, 6.0, 6.0), 1.5, 1.5)


def paint_encoded(
    painter: QPainter, encoded: npt.NDArray[np.bool_], area: QRectF, axis: TimeAxis, columns: Bins
) -> None:
    """Draw which frames' features are at hand."""
    colors = theme.current()
    ratio = painter.device().devicePixelRatioF()
    width = min(axis.x_of(axis.frame_count), axis.width)
    painter.fillRect(QRectF(area.left(), area.top(), width, area.height()), QColor(colors.pressed))
    share = columns.share(encoded)
    _strip(
        painter, area, axis, columns, QColor(colors.accent), np.where(share > 0, 0.25 + 0.6 * share, 0), ratio
    )


def paint_confidence(
    painter: QPainter,
    lane: Lane,
    area: QRectF,
    axis: TimeAxis,
    columns: Bins,
    threshold: float,
    filled: bool = True,
) -> None:
    """Draw a lane's confidence curve: the lowest value of each column, dips below the threshold filled.

    Among several curves in one area, none is ``filled`` down to the ground.
    """
    colors = theme.current()
    value = columns.minimum(lane.confidence)
    if columns.is_gather:
        x = (np.arange(columns.count) + 0.5) / painter.device().devicePixelRatioF()
    else:
        x = (columns.starts + 0.5 - axis.first) * axis.px_per_frame
    x = x + area.left()
    top, height = area.top() + 6, area.height() - 12
    y = top + (1 - np.clip(value, 0, 1)) * height
    level = top + (1 - threshold) * height

    pen = QPen(theme.with_alpha(colors.warning, 0.6), 1)
    pen.setDashPattern([3, 4])
    painter.setPen(pen)
    painter.drawLine(QLineF(area.left(), level, area.right(), level))
    color = QColor(theme.display_color(lane.color))
    for start, stop in _runs(~np.isnan(value)):
        run_x, run_y = x[start:stop], y[start:stop]
        if stop - start == 1:
            painter.setPen(QPen(color, 2))
            painter.drawPoint(QPointF(float(run_x[0]), float(run_y[0])))
            continue
        ground = np.full(2, top + height)
        outline_x = np.concatenate([run_x, run_x[[-1, 0]]])
        painter.setPen(Qt.PenStyle.NoPen)
        if filled:
            painter.setBrush(theme.with_alpha(color, 0.13))
            painter.drawPolygon(_polygon(outline_x, np.concatenate([run_y, ground])))
        dip = np.maximum(run_y, level)
        if (run_y > level).any():
            painter.setBrush(theme.with_alpha(colors.warning, 0.55))
            painter.drawPolygon(_polygon(outline_x, np.concatenate([dip, [level, level]])))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(color, 1.5))
        painter.drawPolyline(_polygon(run_x, run_y))


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _polygon(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> QPolygonF:
    points = np.stack([x, y], axis=1).astype(">f8")
    stream = QDataStream(QByteArray(np.array([len(points)], ">u4").tobytes() + points.tobytes()))
    polygon = QPolygonF()
    stream >> polygon
    return polygon


def paint_lane_header(painter: QPainter, lane: Lane, area: QRectF, hovered: bool) -> None:
    """Draw a lane's colour and name."""
    colors = theme.current()
    if lane.selected:
        painter.fillRect(area, QColor(colors.accent_soft))
        painter.fillRect(QRectF(area.left(), area.top(), 3, area.height()), QColor(colors.accent))
    elif hovered:
        painter.fillRect(area, QColor(colors.raised))
    color = QColor(theme.display_color(lane.color))
    swatch = QRectF(area.left() + 12, area.center().y() - 5, 10, 10)
    painter.setPen(QPen(color, 1.5))
    painter.setBrush(color if lane.visible else Qt.BrushStyle.NoBrush)
    painter.drawRoundedRect(swatch, 3, 3)
    painter.setPen(QColor(colors.text if lane.visible else colors.text_disabled))
    room = area.adjusted(30, 0, -8, 0)
    name = QFontMetricsF(painter.font()).elidedText(lane.name, Qt.TextElideMode.ElideRight, room.width())
    painter.drawText(room, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, name)
