"""Draws masks: filled, outlined and hatched at any zoom from outlines that are traced once per mask.

A mask becomes a `Stamp`, an image of the part of the canvas it covers; only a mask that changed is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from PySide6.QtCore import QByteArray, QDataStream, QPointF, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPainterPath, QPen, QPolygonF, QTransform

from app.ui import theme
from app.ui.canvas.contours import MaskOutline, PointsNx2, outline
from app.ui.canvas.raster import Coverage, Patch, Raster, blend
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


@dataclass(frozen=True, slots=True)
class ScreenSize:
    """How large a canvas is on the screen."""

    pixels: tuple[int, int]
    """Width and height in screen pixels."""
    ratio: float
    """Screen pixels per logical pixel."""


@dataclass(slots=True)
class MaskShape:
    """A mask's outline, also as painter paths in video pixels."""

    outline: MaskOutline
    _smooth: QPainterPath | None = field(default=None)
    _exact: QPainterPath | None = field(default=None)

    def rings(self, zoom: float) -> tuple[PointsNx2, ...]:
        """Closed rings for a zoom (screen pixels per video pixel), in video pixels."""
        return self.outline.exact if zoom >= EXACT_FROM else self.outline.smooth

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


@dataclass(frozen=True, slots=True)
class Stamp:
    """A part of the canvas, painted once and put in its place as often as needed."""

    image: QImage
    place: QPointF
    """In logical pixels."""
    pixels: object
    """What the image's memory is."""

    def paint(self, painter: QPainter) -> None:
        """Put it over what is there."""
        painter.drawImage(self.place, self.image)


def layer_stamp(
    layer: MaskLayer, shape: MaskShape, transform: ViewTransform, view: ScreenSize, dimmed: bool
) -> Stamp | None:
    """One object's mask; ``dimmed`` when another object is the selected one. None when it is out of view."""
    width = OUTLINE_WIDTH * view.ratio
    rim = width + 1.5 * view.ratio
    raster = _raster(shape, transform, view, rim)
    if not raster.is_visible:
        return None
    color = theme.display_color(layer.color)
    fill = raster.fill()
    parts = [(fill, _rgb(color), DIMMED_FILL_OPACITY if dimmed else FILL_OPACITY)]
    if layer.protected:
        hatch = _hatch(raster.patch, view.ratio)
        lines = theme.mix(color, "#ffffff", 0.75)
        hatched = np.asarray(cv2.multiply(fill, hatch, scale=1 / 255), np.uint8)
        parts.append((hatched, _rgb(lines), 0.35 if dimmed else 0.75))
    if layer.selected:
        # A thin dark rim keeps the outline readable where the picture has the object's own colour.
        parts.append((raster.line(rim), (0, 0, 0), 70 / 255))
    parts.append((raster.line(width), _rgb(color), DIMMED_OUTLINE_OPACITY if dimmed else 1.0))
    return _stamp(raster, parts, view.ratio)


def preview_stamp(shape: MaskShape, color: str, transform: ViewTransform, view: ScreenSize) -> Stamp | None:
    """What the next click would give: a light fill with a dashed outline. None when it is out of view."""
    width = OUTLINE_WIDTH * view.ratio
    rim = width + view.ratio
    raster = _raster(shape, transform, view, rim)
    if not raster.is_visible:
        return None
    shown = theme.display_color(color)
    bright = theme.mix(shown, "#ffffff", 0.35)
    parts = [
        (raster.fill(), _rgb(shown), 0.25),
        (raster.line(rim), (0, 0, 0), 90 / 255),
        (raster.dashes(width, 4 * width, 3 * width), _rgb(bright), 1.0),
    ]
    return _stamp(raster, parts, view.ratio)


def _raster(shape: MaskShape, transform: ViewTransform, view: ScreenSize, widest: float) -> Raster:
    scale = transform.scale * view.ratio
    offset = (transform.offset_x * view.ratio, transform.offset_y * view.ratio)
    rings = [ring * scale + offset for ring in shape.rings(scale)]
    return Raster(rings, view.pixels, widest / 2)


def _stamp(raster: Raster, parts: list[tuple[Coverage, tuple[int, int, int], float]], ratio: float) -> Stamp:
    pixels = blend(parts)
    patch = raster.patch
    image = QImage(
        pixels.data, patch.width, patch.height, 4 * patch.width, QImage.Format.Format_ARGB32_Premultiplied
    )
    image.setDevicePixelRatio(ratio)
    return Stamp(image, QPointF(patch.left / ratio, patch.top / ratio), pixels)


def _rgb(color: str | QColor) -> tuple[int, int, int]:
    shown = QColor(color)
    return shown.red(), shown.green(), shown.blue()


def _hatch(patch: Patch, ratio: float) -> Coverage:
    """Diagonal lines for protected masks: of the same pitch at any zoom, and at rest when a mask moves."""
    tile = _hatch_tile(ratio)
    side = len(tile)
    rows = (np.arange(patch.height) + patch.top) % side
    columns = (np.arange(patch.width) + patch.left) % side
    return np.ascontiguousarray(tile[rows][:, columns])


@lru_cache(maxsize=8)
def _hatch_tile(ratio: float) -> Coverage:
    side = max(round(HATCH_PITCH * ratio), 4)
    image = QImage(side, side, QImage.Format.Format_Alpha8)
    image.fill(Qt.GlobalColor.transparent)
    image.setDevicePixelRatio(ratio)
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(QColor("#ffffff"), 1.1))
    pitch = side / ratio
    for shift in (-pitch, 0.0, pitch):
        painter.drawLine(QPointF(shift - 1, pitch + 1), QPointF(shift + pitch + 1, -1))
    painter.end()
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(side, image.bytesPerLine())
    return rows[:, :side].copy()
