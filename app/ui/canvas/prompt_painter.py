"""Draws prompts, the box being dragged and the brush's ring over the picture."""

from __future__ import annotations

from PySide6.QtCore import QLineF, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen

from app.ui import theme
from app.ui.canvas.hit_test import Box, BoxHit, Hit, PointHit
from app.ui.canvas.view_model import PromptMark
from app.ui.canvas.view_transform import ViewTransform

POINT_RADIUS = 6.5
HANDLE_SIDE = 8.0
SHADOW = QColor(0, 0, 0, 120)
# The signs are drawn over pictures, not over the window: they look the same in the light and the dark theme.
POSITIVE = QColor("#27b35a")
NEGATIVE = QColor("#e5483f")
RIM = QColor("#ffffff")


def paint_mark(
    painter: QPainter, mark: PromptMark, transform: ViewTransform, active: bool, hovered: Hit | None
) -> None:
    """Draw one object's box and clicks; ``active`` ones carry handles, others are faint."""
    painter.save()
    painter.setOpacity(1.0 if active else 0.45)
    if mark.box_xyxy is not None:
        on_handle = hovered if isinstance(hovered, BoxHit) and hovered.object_id == mark.object_id else None
        paint_box(painter, mark.box_xyxy, mark.color, transform, handles=active, hovered=on_handle)
    for index, (position, label) in enumerate(zip(mark.points_xy, mark.labels)):
        is_hovered = (
            isinstance(hovered, PointHit) and (hovered.object_id, hovered.index) == (mark.object_id, index)
        )  # fmt: skip
        paint_point(painter, QPointF(*transform.to_widget(*position)), label == 1, is_hovered)
    painter.restore()


def paint_point(painter: QPainter, centre: QPointF, positive: bool, hovered: bool = False) -> None:
    """Draw a click: a green disc with a plus or a red one with a minus, white rim."""
    radius = POINT_RADIUS + (1.5 if hovered else 0.0)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(SHADOW)
    painter.drawEllipse(centre, radius + 2.4, radius + 2.4)
    painter.setBrush(RIM)
    painter.drawEllipse(centre, radius + 1.5, radius + 1.5)
    painter.setBrush(POSITIVE if positive else NEGATIVE)
    painter.drawEllipse(centre, radius, radius)
    pen = QPen(RIM, 2.0)
    pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    painter.setPen(pen)
    arm = 3.5
    painter.drawLine(QLineF(centre.x() - arm, centre.y(), centre.x() + arm, centre.y()))
    if positive:
        painter.drawLine(QLineF(centre.x(), centre.y() - arm, centre.x(), centre.y() + arm))


def paint_box(
    painter: QPainter,
    box: Box,
    color: str,
    transform: ViewTransform,
    handles: bool,
    hovered: BoxHit | None = None,
    dashed: bool = False,
) -> None:
    """Draw a box given in video pixels."""
    rect = QRectF(
        QPointF(*transform.to_widget(box[0], box[1])), QPointF(*transform.to_widget(box[2], box[3]))
    )
    shown = QColor(theme.display_color(color))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(QColor(0, 0, 0, 70), 3.5))
    painter.drawRect(rect)
    pen = QPen(shown, 1.5)
    if dashed:
        pen = QPen(RIM, 1.5)
        pen.setDashPattern([4, 3])
    painter.setPen(pen)
    painter.drawRect(rect)
    if not handles:
        return
    # Edge handles only where they do not crowd the corners.
    middles_x = [rect.center().x()] if rect.width() > 5 * HANDLE_SIDE else []
    middles_y = [rect.center().y()] if rect.height() > 5 * HANDLE_SIDE else []
    places = {
        "nw": rect.topLeft(),
        "ne": rect.topRight(),
        "se": rect.bottomRight(),
        "sw": rect.bottomLeft(),
    }
    for x in middles_x:
        places["n"], places["s"] = QPointF(x, rect.top()), QPointF(x, rect.bottom())
    for y in middles_y:
        places["w"], places["e"] = QPointF(rect.left(), y), QPointF(rect.right(), y)
    painter.setPen(QPen(SHADOW, 1.0))
    for name, place in places.items():
        lit = hovered is not None and hovered.handle.value == name
        side = HANDLE_SIDE + (2.0 if lit else 0.0)
        painter.setBrush(shown if lit else RIM)
        painter.drawRoundedRect(QRectF(place.x() - side / 2, place.y() - side / 2, side, side), 2, 2)


def paint_crosshair(painter: QPainter, position: QPointF, width: float, height: float) -> None:
    """Draw hair lines through the pointer, to start a box exactly."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
    for color, shift in ((QColor(0, 0, 0, 90), 1.0), (QColor(255, 255, 255, 130), 0.0)):
        painter.setPen(QPen(color, 0))
        painter.drawLine(QLineF(0, position.y() + shift, width, position.y() + shift))
        painter.drawLine(QLineF(position.x() + shift, 0, position.x() + shift, height))
    painter.restore()


def paint_brush_ring(painter: QPainter, centre: QPointF, radius: float, erase: bool) -> None:
    """Draw the outline of the brush (widget pixels); the eraser's is dashed."""
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.setPen(QPen(QColor(0, 0, 0, 150), 2.5))
    painter.drawEllipse(centre, radius, radius)
    pen = QPen(QColor(255, 255, 255, 235), 1.2)
    if erase:
        pen.setDashPattern([4, 3])
    painter.setPen(pen)
    painter.drawEllipse(centre, radius, radius)
    if radius > 6:
        painter.drawLine(QLineF(centre.x() - 2.5, centre.y(), centre.x() + 2.5, centre.y()))
        painter.drawLine(QLineF(centre.x(), centre.y() - 2.5, centre.x(), centre.y() + 2.5))


def paint_sign(painter: QPainter, centre: QPointF, positive: bool) -> None:
    """Draw the small sign beside the pointer while a key forces what a click means."""
    painter.save()
    painter.translate(centre)
    painter.scale(0.75, 0.75)
    paint_point(painter, QPointF(0, 0), positive)
    painter.restore()
