"""The canvas: shows a frame with masks and prompts, and turns the pointer into clicks, boxes and strokes.

It knows nothing of projects or models: it is told what to show and reports what the user did (`view_model`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QEvent, QMetaMethod, QPoint, QPointF, QRectF, Qt, QTimer, Signal, SignalInstance
from PySide6.QtGui import (
    QDragEnterEvent,
    QDragLeaveEvent,
    QDropEvent,
    QFocusEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QWidget

from app.ui import theme
from app.ui.canvas.brush import MAX_RADIUS, MIN_RADIUS, resized
from app.ui.canvas.empty_state import EmptyState, EmptyStateView, paint_drop_zone
from app.ui.canvas.gestures import BoxGesture, HandleGesture, StrokeGesture
from app.ui.canvas.hit_test import BoxHit
from app.ui.canvas.labels import paint_label, paint_pill
from app.ui.canvas.mask_painter import ShapeCache, Stamp, preview_stamp
from app.ui.canvas.pointer import Pointer
from app.ui.canvas.prompt_painter import (
    paint_box,
    paint_brush_ring,
    paint_crosshair,
    paint_mark,
    paint_sign,
)
from app.ui.canvas.scene import LiveStroke, Scene, View, paint_live_stroke
from app.ui.canvas.view_model import BrushStroke, MaskLayer, PromptMark, Tool
from app.ui.canvas.view_transform import ViewTransform, fitted
from qcore.masks import MaskArray

FIT_MARGIN = 2 * theme.GRID
PENDING_STROKE_MS = 400
"""How long a finished stroke stays on show when nobody answers it with new layers."""


class Canvas(QWidget):
    """Frame, masks and prompts, with the armed tool. All coordinates are video pixels."""

    point_added = Signal(float, float, int)
    """x, y, label: 1 = part of the object, 0 = not."""
    point_removed = Signal(int, int)
    """object id, position in its mark's points: its disc was clicked. Without a listener, discs do not
    react."""
    box_drawn = Signal(float, float, float, float)
    """x0, y0, x1, y1 of a new box, or of the active object's box after a handle was dragged."""
    stroke_finished = Signal(object)
    """A `BrushStroke`."""
    hovered = Signal(float, float)
    hover_left = Signal()
    object_picked = Signal(float, float)
    """Ctrl+click, or a click with the pan tool: select what lies there."""
    menu_requested = Signal(QPoint, float, float)
    """Shift + right click: global position, x, y."""
    files_dropped = Signal(list)
    """Paths, as text."""
    tool_changed = Signal(object)
    """The `Tool`."""
    zoom_changed = Signal(float)
    """Screen pixels per video pixel; 1.0 is 100 %."""
    brush_radius_changed = Signal(float)
    """In video pixels."""
    space_tapped = Signal()
    """Space pressed and released without panning. Without a listener, Space is left to the window's shortcuts
    and does not pan."""
    gesture_changed = Signal(bool)
    """True while a box, stroke or pan is under way: no hover preview then."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pointer = Pointer(self)  # first: events come from here on
        self._scene = Scene()
        self._previews = ShapeCache()
        self._preview: tuple[MaskArray, str] | None = None
        self._preview_stamp: tuple[tuple[object, ...], Stamp | None] | None = None
        self._marks: tuple[PromptMark, ...] = ()
        self._active_object: int | None = None
        self._active_color: str | None = None
        self._tool = Tool.POINT
        self._brush_radius = 12.0
        self._transform = ViewTransform()
        self._is_fitted = True
        self._hint = ""
        self._dropping = False
        self._pending_stroke: LiveStroke | None = None
        self._pending_timer = QTimer(self)
        self._pending_timer.setSingleShot(True)
        self._pending_timer.timeout.connect(self._drop_pending_stroke)
        self._empty_view = EmptyStateView(self)
        self._empty_view.hide()

        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAcceptDrops(True)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.grabGesture(Qt.GestureType.PinchGesture)
        self.setMinimumSize(160, 120)
        self.setAccessibleName(self.tr("Video frame"))
        self._pointer.update_cursor()
        theme.manager().changed.connect(self._theme_changed)

    # --- what to show -----------------------------------------------------------------------------

    def set_frame(self, rgb_hwc: npt.NDArray[np.uint8] | None) -> None:
        """Show a uint8 RGB (H, W, 3) frame; a frame of another size is fitted into view."""
        before = self._scene.frame.size
        self._scene.set_frame(rgb_hwc)
        self._drop_pending_stroke()
        if self._scene.frame.size != before:
            self._pointer.cancel()
            self.fit()
        self.update()

    def set_layers(self, layers: Sequence[MaskLayer]) -> None:
        """Show these masks. Pass the same array again for an unchanged mask: it is not traced again."""
        self._scene.set_layers(layers)
        self._drop_pending_stroke()
        self.update()

    def set_marks(self, marks: Sequence[PromptMark]) -> None:
        """Show these prompts."""
        self._marks = tuple(marks)
        self._pointer.forget_hover()
        self.update()

    def set_active_object(self, object_id: int | None, color: str | None = None) -> None:
        """The object that prompts and strokes go to; its marks have handles, its colour is the brush's."""
        self._active_object = object_id
        self._active_color = color
        self._pointer.forget_hover()
        self.update()

    def set_preview(self, mask_hw: MaskArray | None, color: str = "") -> None:
        """Show what the next click would give (uint8 (H, W)); None hides it."""
        if mask_hw is None and self._preview is None:
            return
        self._preview = None if mask_hw is None else (mask_hw, color or self.active_color)
        self._preview_stamp = None
        self._previews.keep_only([] if mask_hw is None else [mask_hw])
        self.update()

    def set_reference(self, mask_hw: MaskArray | None) -> None:
        """Highlight where the selected mask differs from this one, e.g. of the frame before; None ends it."""
        self._scene.set_reference(mask_hw)
        self.update()

    def set_overlay_hidden(self, hidden: bool) -> None:
        """Show the bare frame, without masks and prompts."""
        self._scene.hidden = hidden
        self.update()

    @property
    def overlay_hidden(self) -> bool:
        """True while masks and prompts are not shown."""
        return self._scene.hidden

    def set_empty_state(self, state: EmptyState | None) -> None:
        """Cover the canvas with what to do next; None uncovers it."""
        if state is not None:
            self._empty_view.set_state(state)
            self._empty_view.setGeometry(self.rect())
            self._empty_view.raise_()
        self._empty_view.setVisible(state is not None)

    def set_hint(self, text: str) -> None:
        """Show one short line over the lower edge of the picture; an empty text hides it."""
        if text != self._hint:
            self._hint = text
            self.update()

    # --- tool -------------------------------------------------------------------------------------

    @property
    def tool(self) -> Tool:
        """The armed tool."""
        return self._tool

    def set_tool(self, tool: Tool) -> None:
        """Arm a tool; a gesture under way is given up."""
        if tool == self._tool:
            return
        self._pointer.cancel()
        self._tool = tool
        self._pointer.forget_hover()
        self.tool_changed.emit(tool)
        self.update()

    @property
    def brush_radius(self) -> float:
        """Radius of brush and eraser in video pixels."""
        return self._brush_radius

    @brush_radius.setter
    def brush_radius(self, radius: float) -> None:
        radius = min(max(float(radius), MIN_RADIUS), MAX_RADIUS)
        if radius != self._brush_radius:
            self._brush_radius = radius
            self.brush_radius_changed.emit(radius)
            self.update()

    def resize_brush(self, steps: float) -> None:
        """Make the brush larger (or smaller, negative) by some notches."""
        self.brush_radius = resized(self._brush_radius, steps)

    def set_forced_label(self, label: int | None) -> None:
        """Give every click this label (1 or 0), whatever the button; None: left adds, right takes away."""
        self._pointer.forced_label = label
        self.update()

    def set_wheel_zooms(self, zooms: bool) -> None:
        """True: the wheel zooms. False: it scrolls, and Ctrl+wheel zooms."""
        self._pointer.wheel_zooms = zooms

    @property
    def is_gesture_active(self) -> bool:
        """True while a button is held for a click, box, stroke or pan."""
        return self._pointer.gesture is not None

    def cancel_gesture(self) -> bool:
        """Give up the box, stroke or click under way; False when there is none."""
        return self._pointer.cancel()

    # --- view -------------------------------------------------------------------------------------

    @property
    def video_size(self) -> tuple[int, int] | None:
        """(width, height) of the frame on show."""
        return self._scene.frame.size

    @property
    def transform(self) -> ViewTransform:
        """Where the picture lies now."""
        return self._transform

    @property
    def zoom(self) -> float:
        """Screen pixels per video pixel; 1.0 is 100 %."""
        return self._transform.scale * self.devicePixelRatioF()

    def fit(self) -> None:
        """Show the whole frame, and keep doing so while the canvas is resized."""
        if self.video_size is not None:
            view = (float(self.width()), float(self.height()))
            self._set_transform(fitted(self.video_size, view, FIT_MARGIN))
        self._is_fitted = True

    def zoom_actual(self) -> None:
        """Show one video pixel on one screen pixel, around the middle of the view."""
        if self.video_size is not None:
            self.zoom_by(1.0 / self.zoom)

    def zoom_by(self, factor: float, at: QPointF | None = None) -> None:
        """Zoom around a widget position, or the middle of the canvas."""
        if self.video_size is None:
            return
        at = QPointF(self.width() / 2, self.height() / 2) if at is None else at
        self.move_view(self._transform.zoomed(factor, at.x(), at.y()))

    def move_view(self, transform: ViewTransform) -> None:
        """Show another part of the picture; some of it always stays in view."""
        if self.video_size is not None:
            self._is_fitted = False
            self._set_transform(transform.kept_in_view(self.video_size, (self.width(), self.height())))

    def center_on(self, x: float, y: float, zoom: float | None = None) -> None:
        """Bring a video position into the middle, at a zoom or the present one."""
        scale = self._transform.scale if zoom is None else zoom / self.devicePixelRatioF()
        view = (float(self.width()), float(self.height()))
        self.move_view(ViewTransform(scale, view[0] / 2 - x * scale, view[1] / 2 - y * scale))

    def _set_transform(self, transform: ViewTransform) -> None:
        if transform == self._transform:
            return
        before = self._transform.scale
        self._transform = transform
        self.update()
        if transform.scale != before:
            self.zoom_changed.emit(self.zoom)

    # --- for the pointer --------------------------------------------------------------------------

    @property
    def marks(self) -> tuple[PromptMark, ...]:
        """The prompts on show."""
        return self._marks

    @property
    def layers(self) -> tuple[MaskLayer, ...]:
        """The masks on show."""
        return self._scene.layers

    @property
    def active_object(self) -> int | None:
        """The object that prompts go to, as set or as the selected layer tells."""
        if self._active_object is not None:
            return self._active_object
        return next((layer.object_id for layer in self._scene.layers if layer.selected), None)

    @property
    def active_color(self) -> str:
        """The colour of the active object."""
        if self._active_color is not None:
            return self._active_color
        layer = self._scene.selected_layer(self.active_object)
        return theme.current().accent if layer is None else layer.color

    def has_listener(self, signal: SignalInstance) -> bool:
        """True when somebody is connected to one of this canvas's signals."""
        return self.isSignalConnected(QMetaMethod.fromSignal(signal))

    def finish_stroke(self, gesture: StrokeGesture, stroke: BrushStroke | None) -> None:
        """Report a stroke; it stays on show until new layers come."""
        if stroke is None:
            return
        self._pending_stroke = self._live_stroke(gesture)
        self._pending_timer.start(PENDING_STROKE_MS)
        self.stroke_finished.emit(stroke)

    def _drop_pending_stroke(self) -> None:
        self._pending_timer.stop()
        if self._pending_stroke is not None:
            self._pending_stroke = None
            self.update()

    def _live_stroke(self, gesture: StrokeGesture) -> LiveStroke:
        builder = gesture.builder
        return LiveStroke(tuple(builder.path_xy), gesture.radius, builder.erase, self.active_color)

    # --- painting ---------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the still image and what moves over it."""
        view = self._view()
        painter = QPainter(self)
        gesture = self._pointer.gesture
        stroke = self._live_stroke(gesture) if isinstance(gesture, StrokeGesture) else self._pending_stroke
        layer = self._scene.selected_layer(self.active_object) if stroke is not None else None
        painter.drawImage(0, 0, self._scene.image(view, None if layer is None else layer.object_id))
        if self.video_size is None:
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if not self._scene.hidden:
            if stroke is not None:
                paint_live_stroke(painter, self._scene, layer, stroke, view)
            if gesture is None:
                self._paint_preview(painter, view)
            self._paint_marks(painter, view)
        if isinstance(gesture, BoxGesture):
            paint_box(painter, gesture.box_xyxy, self.active_color, view.transform, handles=False)
            self._paint_size(painter, gesture, view)
        self._paint_pointer(painter)
        if self._hint and not self._empty_view.isVisible():
            size = self.video_size
            bottom = min(self._transform.to_widget(0, size[1])[1], float(self.height()))
            paint_pill(painter, self._hint, self.width() / 2, bottom - 2 * theme.GRID)
        if self._dropping:
            paint_drop_zone(painter, QRectF(self.rect()), True)

    def _view(self) -> View:
        """The view, with the picture moved onto whole screen pixels so that it stays sharp."""
        ratio = self.devicePixelRatioF()
        shown = self._transform
        snapped = ViewTransform(
            shown.scale, round(shown.offset_x * ratio) / ratio, round(shown.offset_y * ratio) / ratio
        )
        return View(self.width(), self.height(), ratio, snapped)

    def _paint_preview(self, painter: QPainter, view: View) -> None:
        if self._preview is None:
            self._preview_stamp = None
            return
        mask_hw, color = self._preview
        key = (id(mask_hw), theme.display_color(color), view)
        if self._preview_stamp is None or self._preview_stamp[0] != key:
            shape = self._previews.shape(mask_hw)
            self._preview_stamp = key, preview_stamp(shape, color, view.transform, view.screen)
        if self._preview_stamp[1] is not None:
            self._preview_stamp[1].paint(painter)

    def _paint_marks(self, painter: QPainter, view: View) -> None:
        active = self.active_object
        gesture = self._pointer.gesture
        for mark in sorted(self._marks, key=lambda mark: mark.object_id == active):
            shown = mark
            hovered = self._pointer.hover
            if isinstance(gesture, HandleGesture) and gesture.object_id == mark.object_id:
                shown = PromptMark(
                    mark.object_id, mark.color, mark.points_xy, mark.labels, gesture.box_xyxy
                )  # fmt: skip
                hovered = BoxHit(mark.object_id, gesture.handle)
            is_active = active is None or mark.object_id == active
            paint_mark(painter, shown, view.transform, is_active, hovered)

    def _paint_pointer(self, painter: QPainter) -> None:
        position = self._pointer.position
        if position is None or not self._pointer.is_over_frame or self._pointer.is_panning:
            return
        if self._tool in (Tool.BRUSH, Tool.ERASER):
            radius = self._brush_radius * self._transform.scale
            paint_brush_ring(painter, position, radius, self._pointer.erases)
        elif self._tool is Tool.BOX and self._pointer.gesture is None and self._pointer.hover is None:
            paint_crosshair(painter, position, self.width(), self.height())
        elif self._tool is Tool.POINT and self._pointer.forced_label is not None:
            paint_sign(painter, position + QPointF(14, 14), self._pointer.forced_label == 1)

    def _paint_size(self, painter: QPainter, gesture: BoxGesture, view: View) -> None:
        x0, y0, x1, y1 = gesture.box_xyxy
        x, y = view.transform.to_widget(x1, y1)
        paint_label(painter, f"{x1 - x0:.0f} × {y1 - y0:.0f}", QPointF(x + 8, y + 8))

    def _theme_changed(self) -> None:
        self._scene.touch()
        self.update()

    # --- events -----------------------------------------------------------------------------------

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep the picture fitted, or its middle in the middle."""
        self._empty_view.setGeometry(self.rect())
        if self.video_size is None:
            return
        if self._is_fitted:
            self.fit()
        else:
            old = event.oldSize()
            shift = ((self.width() - old.width()) / 2, (self.height() - old.height()) / 2)
            self.move_view(self._transform.panned(*shift))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Start a gesture."""
        self._pointer.press(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Follow the pointer."""
        self._pointer.move(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Finish a gesture."""
        self._pointer.release(event)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """The second of two fast clicks is a click like any other."""
        self._pointer.press(event)

    def leaveEvent(self, event: QEvent) -> None:
        """The pointer is gone."""
        self._pointer.leave()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Zoom, scroll or resize the brush."""
        self._pointer.wheel(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Keys that belong to a gesture; all others are the window's."""
        if not self._pointer.key_press(event):
            super().keyPressEvent(event)

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        """End of a held key."""
        if not self._pointer.key_release(event):
            super().keyReleaseEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Held keys are released elsewhere."""
        self._pointer.forget_keys()
        super().focusOutEvent(event)

    def event(self, event: QEvent) -> bool:
        """Pinches, and the keys that must not become a shortcut of the window."""
        return self._pointer.special_event(event) or super().event(event)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept files."""
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()
            self._set_dropping(True)

    def _set_dropping(self, dropping: bool) -> None:
        self._dropping = dropping
        self._empty_view.set_dropping(dropping)
        self.update()

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        """The files went elsewhere."""
        self._set_dropping(False)

    def dropEvent(self, event: QDropEvent) -> None:
        """Report dropped files."""
        self._set_dropping(False)
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if paths:
            event.acceptProposedAction()
            self.files_dropped.emit(paths)
