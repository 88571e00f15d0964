"""The still part of the canvas, frame and masks, kept as one image between changes.

Moving the pointer, dragging a box or painting a stroke then costs one copy of that image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPainterPath, QPen

from app.ui import theme
from app.ui.canvas.frame_painter import FramePainter
from app.ui.canvas.mask_painter import FILL_OPACITY, ScreenSize, ShapeCache, Stamp, layer_stamp, to_widget
from app.ui.canvas.view_model import MaskLayer
from app.ui.canvas.view_transform import ViewTransform
from qcore.masks import MaskArray

SPARE_STAMPS_BYTES = 48 << 20
"""Images of masks beyond this are kept only while they are on show."""


@dataclass(frozen=True, slots=True)
class View:
    """Where and how large the picture is shown."""

    width: int
    """Of the canvas, in logical pixels."""
    height: int
    ratio: float
    """Screen pixels per logical pixel."""
    transform: ViewTransform

    @property
    def screen(self) -> ScreenSize:
        """The canvas's size on the screen."""
        size = (max(round(self.width * self.ratio), 1), max(round(self.height * self.ratio), 1))
        return ScreenSize(size, self.ratio)


@dataclass(frozen=True, slots=True)
class LiveStroke:
    """A stroke under way, as it is shown before it is part of a mask."""

    path_xy: tuple[tuple[float, float], ...]
    radius: float
    erase: bool
    color: str


class Scene:
    """Frame and mask layers, and the image of both."""

    def __init__(self) -> None:
        self.frame = FramePainter()
        self.shapes = ShapeCache()
        self.layers: tuple[MaskLayer, ...] = ()
        self.hidden = False
        self._reference: MaskArray | None = None
        self._difference: MaskArray | None = None
        self._revision = 0
        self._image = QImage()
        self._image_key: tuple[object, ...] = ()
        self._stamps: dict[tuple[object, ...], tuple[View, MaskArray, Stamp | None]] = {}
        """Of the masks on show; each holds its array, so that the array's id stays its own."""

    def set_frame(self, rgb_hwc: npt.NDArray[np.uint8] | None) -> None:
        """Show another frame (uint8 RGB, (H, W, 3)) or none."""
        self.frame.set_frame(rgb_hwc)
        self.touch()

    def set_layers(self, layers: Sequence[MaskLayer]) -> None:
        """Show these masks, the last on top, the selected one above all."""
        arranged = tuple(sorted(layers, key=lambda layer: layer.selected))
        if len(arranged) == len(self.layers) and all(map(_looks_alike, arranged, self.layers)):
            return  # drawing them is what costs
        self.layers = arranged
        self._compare()

    def set_reference(self, mask_hw: MaskArray | None) -> None:
        """Highlight where the selected mask differs from this one; None ends it."""
        if mask_hw is not self._reference:
            self._reference = mask_hw
            self._compare()

    def touch(self) -> None:
        """Draw everything anew next time."""
        self._revision += 1

    def selected_layer(self, active_object: int | None) -> MaskLayer | None:
        """The layer of the active object, or else the selected one."""
        for layer in reversed(self.layers):
            if layer.object_id == active_object or (active_object is None and layer.selected):
                return layer
        return None

    def image(self, view: View, without_object: int | None = None) -> QImage:
        """Everything still, at the screen's resolution; leaves one object's mask out while it is painted."""
        key = (self._revision, view, without_object, self.hidden)
        if key != self._image_key:
            self._image = self._render(view, without_object)
            self._image_key = key
        return self._image

    def _compare(self) -> None:
        self._difference = None
        layer = self.selected_layer(None)
        if self._reference is not None and layer is not None and layer.mask_hw.shape == self._reference.shape:
            self._difference = ((layer.mask_hw != 0) != (self._reference != 0)).view(np.uint8)
        masks = [layer.mask_hw for layer in self.layers]
        self.shapes.keep_only([*masks, *([] if self._difference is None else [self._difference])])
        self.touch()

    def _render(self, view: View, without_object: int | None) -> QImage:
        image = new_image(view, QImage.Format.Format_RGB32)
        image.fill(QColor(theme.current().canvas))
        painter = QPainter(image)
        self.frame.paint(painter, view.transform, (view.width, view.height), view.ratio)
        if not self.hidden:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            for stamp in self._layer_stamps(view, without_object):
                stamp.paint(painter)
            if self._difference is not None:
                path = self.shapes.shape(self._difference).path(view.transform.scale * view.ratio)
                warning = theme.with_alpha(theme.current().warning, 0.9)
                painter.fillPath(to_widget(path, view.transform), warning)
        painter.end()
        return image

    def _layer_stamps(self, view: View, without_object: int | None) -> list[Stamp]:
        """The masks from the lowest to the topmost; those that look as they did are not drawn again."""
        some_selected = any(layer.selected for layer in self.layers)
        stamps: list[Stamp] = []
        for layer in self.layers:
            if layer.object_id == without_object:
                continue
            dimmed = some_selected and not layer.selected
            color = theme.display_color(layer.color)
            key = (id(layer.mask_hw), color, layer.selected, layer.protected, dimmed)
            known = self._stamps.pop(key, None)
            if known is None or known[0] != view:
                shape = self.shapes.shape(layer.mask_hw)
                known = view, layer.mask_hw, layer_stamp(layer, shape, view.transform, view.screen, dimmed)
            self._stamps[key] = known  # behind those that were not used
            if known[2] is not None:
                stamps.append(known[2])
        self._drop_spare_stamps(view, len(self.layers))
        return stamps

    def _drop_spare_stamps(self, view: View, used: int) -> None:
        """Keep what the next selection may need: the same masks, dimmed or not, within a budget."""
        shown = {id(layer.mask_hw) for layer in self.layers}
        size_bytes = 0
        for position, (key, (of, _, stamp)) in enumerate(reversed(list(self._stamps.items()))):
            size_bytes += 0 if stamp is None else stamp.image.sizeInBytes()
            if position >= used and (of != view or key[0] not in shown or size_bytes > SPARE_STAMPS_BYTES):
                del self._stamps[key]


def _looks_alike(one: MaskLayer, other: MaskLayer) -> bool:
    """Whether two layers are drawn the same; arrays that are shown do not change."""
    return one.mask_hw is other.mask_hw and (
        (one.object_id, one.color, one.selected, one.protected)
        == (other.object_id, other.color, other.selected, other.protected)
    )


def new_image(view: View, image_format: QImage.Format) -> QImage:
    """An image that covers the canvas at the screen's resolution."""
    image = QImage(*view.screen.pixels, image_format)
    image.setDevicePixelRatio(view.ratio)
    return image


def paint_live_stroke(
    painter: QPainter, scene: Scene, layer: MaskLayer | None, stroke: LiveStroke, view: View
) -> None:
    """Draw the painted mask as it will be: the layer with the stroke added or taken away, in one tone."""
    color = QColor(theme.display_color(stroke.color))
    transform = view.transform
    stroke_path = QPainterPath()
    for index, position in enumerate(stroke.path_xy):
        point = QPointF(*transform.to_widget(*position))
        if index == 0:
            stroke_path.moveTo(point)
            point += QPointF(0.01, 0)  # a stroke of one point is a dot; Qt draws nothing without a length
        stroke_path.lineTo(point)
    mask_path = QPainterPath()
    if layer is not None:
        shape = scene.shapes.shape(layer.mask_hw)
        mask_path = to_widget(shape.path(transform.scale * view.ratio), transform)
    reach = max(stroke.radius * transform.scale, 0.5)
    area = stroke_path.boundingRect().adjusted(-reach - 2, -reach - 2, reach + 2, reach + 2)
    area = area.united(mask_path.boundingRect()).intersected(QRectF(0, 0, view.width, view.height))
    if area.isEmpty():
        return
    left, top = int(area.left()), int(area.top())
    part = View(int(area.width()) + 2, int(area.height()) + 2, view.ratio, transform)
    overlay = new_image(part, QImage.Format.Format_ARGB32_Premultiplied)
    overlay.fill(Qt.GlobalColor.transparent)
    inner = QPainter(overlay)
    inner.setRenderHint(QPainter.RenderHint.Antialiasing)
    inner.translate(-left, -top)
    inner.fillPath(mask_path, color)
    if stroke.erase:
        inner.setCompositionMode(QPainter.CompositionMode.CompositionMode_DestinationOut)
    pen = QPen(color, 2 * reach)
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    pen.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
    inner.strokePath(stroke_path, pen)
    inner.end()
    painter.save()
    painter.setOpacity(FILL_OPACITY)
    painter.drawImage(QPointF(left, top), overlay)
    painter.restore()
