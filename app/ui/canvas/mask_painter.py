"""Draws masks: filled, outlined and hatched at any zoom from outlines that are traced once per mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PySide6.QtCore import QByteArray, QDataStream, QPointF, Qt
from PySide6.QtGui import QBrush, QColor, QImage, QPainter, QPainterPath, QPen, QPixmap, QPolygonF, QTransform

from app.ui import theme
from app.ui.canvas.contours import MaskOutline, PointsNx2, outline
from app.ui.canvas.view_model import MaskLayer
from app.ui.canvas.view_transform import ViewTransform
from qcore.masks import MaskArray

FILL_OPACITY = 0.45
OUTLINE_WIDTH = 1.5
"""In logical pixels, at any zoom."""
DIMMED_FILL_OPACITY = 0.16
DIMMED_OUTLINE_OPACITY = 0.6
EXACT_FROM = 6.0
"""From this zoom on, the outline follows the edges of single pixels."""
HATCH_PITCH = 10


@dataclass(slots=True)
class MaskShape:
    """A mask's outline as painter paths in video pixels."""

    outline: MaskOutline
    _smooth: QPainterPath | None = field(default=None)
    _exact: QPainterPath | None = field(default=None)

    def path(self, zoom: float) -> QPainterPath:
        """The path to draw at a zoom (screen pixels per video pixel)."""
        if zoom >= EXACT_FROM:
            if self._exact is None:
                self._exact = painter_path(self.outline.exact)
            return self._exact
        if self._smooth is None:
            self._smooth = painter_path(self.outline.smooth)
        return self._smooth


class ShapeCache:
    """Traces each mask array once, as long as it stays in use. Arrays must not change once shown."""

    def __init__(self) -> None:
        self._shapes: dict[int, tuple[MaskArray, MaskShape]] = {}

    def shape(self, mask_hw: MaskArray) -> MaskShape:
        """The shape of a mask, traced now or earlier."""
        known = self._shapes.get(id(mask_hw))
        if known is not None:
            return known[1]
        shape = MaskShape(outline(mask_hw))
        self._shapes[id(mask_hw)] = (mask_hw, shape)
        return shape

    def keep_only(self, masks: Iterable[MaskArray]) -> None:
        """Forget every mask but these."""
        wanted = {id(mask_hw) for mask_hw in masks}
        self._shapes = {key: value for key, value in self._shapes.items() if key in wanted}


def painter_path(rings: Sequence[PointsNx2]) -> QPainterPath:
    """Closed rings as one path with odd-even filling.

    The points go to Qt through its serial format: a Python call per point would take longer than the tracing.
    """
    path = QPainterPath()
    path.setFillRule(Qt.FillRule.OddEvenFill)
    for ring in rings:
        if len(ring) < 2:
            continue
        header = np.array([len(ring) + 1], ">u4").tobytes()
        closed = np.concatenate([ring, ring[:1]]).astype(">f8")
        stream = QDataStream(QByteArray(header + closed.tobytes()))
        polygon = QPolygonF()
        stream >> polygon
        path.addPolygon(polygon)
        path.closeSubpath()
    return path


def to_widget(path: QPainterPath, transform: ViewTransform) -> QPainterPath:
    """A path in video pixels, mapped to widget coordinates."""
    scale = transform.scale
    return QTransform(scale, 0, 0, scale, transform.offset_x, transform.offset_y).map(path)


def paint_layer(
    painter: QPainter,
    layer: MaskLayer,
    shape: MaskShape,
    transform: ViewTransform,
    ratio: float,
    dimmed: bool,
    outlined: bool = True,
) -> None:
    """Draw one object's mask; ``dimmed`` when another object is the selected one."""
    path = to_widget(shape.path(transform.scale * ratio), transform)
    color = QColor(theme.display_color(layer.color))
    fill = theme.with_alpha(color, DIMMED_FILL_OPACITY if dimmed else FILL_OPACITY)
    painter.fillPath(path, fill)
    if layer.protected:
        painter.fillPath(path, hatch_brush(color.name(), ratio, 0.35 if dimmed else 0.75))
    if not outlined:
        return
    if layer.selected:
        # A thin dark rim keeps the outline readable where the picture has the object's own colour.
        painter.strokePath(path, _pen(QColor(0, 0, 0, 70), OUTLINE_WIDTH + 1.5))
    opacity = DIMMED_OUTLINE_OPACITY if dimmed else 1.0
    painter.strokePath(path, _pen(theme.with_alpha(color, opacity), OUTLINE_WIDTH))


def paint_preview(
    painter: QPainter, shape: MaskShape, color: str, transform: ViewTransform, ratio: float
) -> None:
    """Draw what the next click would give: a light fill with a dashed outline."""
    path = to_widget(shape.path(transform.scale * ratio), transform)
    shown = QColor(theme.display_color(color))
    painter.fillPath(path, theme.with_alpha(shown, 0.25))
    painter.strokePath(path, _pen(QColor(0, 0, 0, 90), OUTLINE_WIDTH + 1))
    pen = _pen(theme.mix(shown, "#ffffff", 0.35), OUTLINE_WIDTH)
    pen.setDashPattern([4, 3])
    painter.strokePath(path, pen)


def _pen(color: QColor, width: float) -> QPen:
    pen = QPen(color, width)
    # Round joins at every step of the outline would take three times as long and look the same.
    pen.setJoinStyle(Qt.PenJoinStyle.BevelJoin)
    return pen


def hatch_brush(color: str, ratio: float, opacity: float) -> QBrush:
    """Diagonal lines for protected masks, of the same pitch at any zoom."""
    brush = QBrush(_hatch_tile(color, ratio, opacity))
    return brush


@lru_cache(maxsize=64)
def _hatch_tile(color: str, ratio: float, opacity: float) -> QPixmap:
    side = max(round(HATCH_PITCH * ratio), 4)
    image = QImage(side, side, QImage.Format.Format_ARGB32_Premultiplied)
    image.fill(Qt.GlobalColor.transparent)
    image.setDevicePixelRatio(ratio)
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(theme.with_alpha(theme.mix(color, "#ffffff", 0.75), opacity), 1.1))
    pitch = side / ratio
    for shift in (-pitch, 0.0, pitch):
        painter.drawLine(QPointF(shift - 1, pitch + 1), QPointF(shift + pitch + 1, -1))
    painter.end()
    return QPixmap.fromImage(image)
