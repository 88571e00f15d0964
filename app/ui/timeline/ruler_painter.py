"""Draws the ruler, the in and out range and the playhead."""

from __future__ import annotations

from PySide6.QtCore import QLineF, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen, QPolygonF

from app.ui import theme
from app.ui.timeline.time_axis import TimeAxis, format_time, ticks

RANGE_HANDLE_WIDTH = 6.0


def paint_ruler(painter: QPainter, area: QRectF, axis: TimeAxis, fps: float) -> None:
    """Draw ticks with frame numbers and, beside them, their time."""
    colors = theme.current()
    metrics = QFontMetricsF(painter.font())
    number_width, time_width, spacing = _label_widths(metrics, axis, fps)
    minor_pen, major_pen = QPen(QColor(colors.border_strong), 1), QPen(QColor(colors.text_muted), 1)
    for tick in ticks(axis, spacing):
        x = round(area.left() + axis.x_of(tick.frame)) + 0.5
        if x < area.left() - spacing:
            continue
        painter.setPen(major_pen if tick.is_major else minor_pen)
        length = 9 if tick.is_major else 4
        painter.drawLine(QLineF(x, area.bottom() - length, x, area.bottom()))
        if tick.is_major:
            place = QRectF(x + 4, area.top() + 2, number_width + 8, area.height() - 8)
            painter.setPen(QColor(colors.text))
            flags = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft
            painter.drawText(place, flags, str(tick.frame))
            used = metrics.horizontalAdvance(str(tick.frame)) + 8
            painter.setPen(QColor(colors.text_disabled))
            painter.drawText(
                QRectF(place.left() + used, place.top(), time_width + 8, place.height()),
                flags,
                format_time(tick.frame, fps),
            )


def _label_widths(metrics: QFontMetricsF, axis: TimeAxis, fps: float) -> tuple[float, float, float]:
    """Widths of a frame number and a time, and the least distance of two labels."""
    number_width = metrics.horizontalAdvance(str(max(axis.frame_count, 100)))
    time_width = metrics.horizontalAdvance(format_time(max(axis.frame_count, 1), fps))
    return number_width, time_width, number_width + time_width + 40


def paint_range(
    painter: QPainter, area: QRectF, lanes: QRectF, axis: TimeAxis, start: int | None, stop: int | None
) -> None:
    """Draw the in and out marks (frames, both inclusive) and darken what lies outside."""
    if start is None and stop is None:
        return
    colors = theme.current()
    clip_end = area.left() + min(axis.x_of(axis.frame_count), axis.width)
    left = area.left() if start is None else area.left() + axis.x_of(start)
    right = clip_end if stop is None else area.left() + axis.x_of(stop + 1)
    shade = theme.with_alpha(colors.window, 0.6)
    if left > area.left():
        painter.fillRect(QRectF(area.left(), lanes.top(), left - area.left(), lanes.height()), shade)
    if right < clip_end:
        painter.fillRect(QRectF(right, lanes.top(), clip_end - right, lanes.height()), shade)
    painter.fillRect(QRectF(left, area.bottom() - 3, right - left, 3), theme.with_alpha(colors.accent, 0.55))
    painter.setPen(QPen(QColor(colors.accent), 1))
    painter.setBrush(QColor(colors.accent))
    for x, is_set, direction in ((left, start is not None, 1), (right, stop is not None, -1)):
        if not is_set:
            continue
        width = RANGE_HANDLE_WIDTH * direction
        painter.drawPolygon(
            QPolygonF(
                [
                    QPointF(x, area.top() + 8),
                    QPointF(x + width, area.top() + 8),
                    QPointF(x + width, area.top() + 11),
                    QPointF(x + 2.5 * direction, area.top() + 11),
                    QPointF(x + 2.5 * direction, area.bottom()),
                    QPointF(x, area.bottom()),
                ]
            )
        )
        painter.drawLine(QLineF(x, lanes.top(), x, lanes.bottom()))


def paint_playhead(
    painter: QPainter, area: QRectF, bottom: float, axis: TimeAxis, fps: float, frame: int, dragged: bool
) -> None:
    """Draw the playhead with its frame number over the ruler, in place of a label it would cut."""
    colors = theme.current()
    x = area.left() + axis.center_of(frame)
    if axis.px_per_frame >= 3:
        cell = QRectF(
            area.left() + axis.x_of(frame), area.bottom(), axis.px_per_frame, bottom - area.bottom()
        )
        painter.fillRect(cell, theme.with_alpha(colors.accent, 0.18))
    painter.setPen(QPen(QColor(colors.accent), 1.5))
    painter.drawLine(QLineF(x, area.top() + 20, x, bottom))
    text = str(frame)
    metrics = QFontMetricsF(painter.font())
    pill = playhead_pill(area, x, max(metrics.horizontalAdvance(text) + 12, 22))
    number_width, time_width, spacing = _label_widths(metrics, axis, fps)
    for tick in ticks(axis, spacing):
        left = area.left() + axis.x_of(tick.frame) + 2
        label = QRectF(left, area.top(), number_width + time_width + 16, area.height() - 10)
        if tick.is_major and label.intersects(pill):
            painter.fillRect(label, QColor(colors.window))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(colors.accent_fill_hover if dragged else colors.accent_fill))
    painter.drawRoundedRect(pill, 4, 4)
    painter.setPen(QColor(colors.on_accent))
    painter.drawText(pill, Qt.AlignmentFlag.AlignCenter, text)


def playhead_pill(area: QRectF, x: float, width: float) -> QRectF:
    """Where the frame number of the playhead goes: centred on it, kept inside the ruler."""
    left = min(max(x - width / 2, area.left() + 1), area.right() - width - 1)
    return QRectF(left, area.top() + 3, width, area.height() - 10)
