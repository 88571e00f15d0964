"""Turns mouse, wheel, pinch and keys over the canvas into gestures, and gestures into its signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QEvent, QPointF, QRectF, Qt
from PySide6.QtGui import QKeyEvent, QMouseEvent, QNativeGestureEvent, QWheelEvent
from PySide6.QtWidgets import QGestureEvent, QPinchGesture

from app.ui.canvas.brush import StrokeBuilder
from app.ui.canvas.gestures import (
    BoxGesture,
    ClickGesture,
    Gesture,
    HandleGesture,
    PanGesture,
    StrokeGesture,
)
from app.ui.canvas.hit_test import (
    BoxHit,
    Handle,
    Hit,
    PointHit,
    clipped_box,
    find_mark,
    inside_frame,
)
from app.ui.canvas.view_model import Tool

if TYPE_CHECKING:
    from app.ui.canvas.canvas import Canvas

ZOOM_PER_NOTCH = 1.2
_LEFT, _RIGHT, _MIDDLE = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton
_CURSORS = {
    Handle.NW: Qt.CursorShape.SizeFDiagCursor,
    Handle.SE: Qt.CursorShape.SizeFDiagCursor,
    Handle.NE: Qt.CursorShape.SizeBDiagCursor,
    Handle.SW: Qt.CursorShape.SizeBDiagCursor,
    Handle.N: Qt.CursorShape.SizeVerCursor,
    Handle.S: Qt.CursorShape.SizeVerCursor,
    Handle.W: Qt.CursorShape.SizeHorCursor,
    Handle.E: Qt.CursorShape.SizeHorCursor,
}


class Pointer:
    """The pointer's state over one canvas: what is held, what lies under it."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self.gesture: Gesture | None = None
        self.hover: Hit | None = None
        self.position: QPointF | None = None
        """In widget coordinates; None while the pointer is elsewhere."""
        self.forced_label: int | None = None
        self.wheel_zooms = True
        self._was_inside = False
        self._button = Qt.MouseButton.NoButton
        self._space_held = False
        self._space_used = False

    # --- state ------------------------------------------------------------------------------------

    @property
    def is_over_frame(self) -> bool:
        """True when the pointer is on a pixel of the frame."""
        size = self._canvas.video_size
        return self.position is not None and size is not None and inside_frame(*self._video(), size)

    @property
    def is_panning(self) -> bool:
        """True while the picture is, or could at once be, dragged."""
        return self._space_held or isinstance(self.gesture, PanGesture)

    @property
    def erases(self) -> bool:
        """True when the stroke under way, or the next one, takes away."""
        if isinstance(self.gesture, StrokeGesture):
            return self.gesture.builder.erase
        return self._canvas.tool is Tool.ERASER

    def cancel(self) -> bool:
        """Give up the gesture under way."""
        if self.gesture is None:
            return False
        self._set_gesture(None)
        self.update_cursor()
        return True

    def forget_hover(self) -> None:
        """Marks or tool changed: look again what lies under the pointer."""
        self.hover = None
        if self.position is not None and self.gesture is None:
            self._find_hover()
        self.update_cursor()

    def forget_keys(self) -> None:
        """Treat every held key as released."""
        self._space_held = False
        self.forced_label = None
        self.update_cursor()

    def update_cursor(self) -> None:
        """Show the pointer that fits what a press would do."""
        canvas = self._canvas
        shape = Qt.CursorShape.ArrowCursor
        if isinstance(self.gesture, PanGesture):
            shape = Qt.CursorShape.ClosedHandCursor
        elif self._space_held or (canvas.tool is Tool.PAN and canvas.video_size is not None):
            shape = Qt.CursorShape.OpenHandCursor
        elif isinstance(self.gesture, HandleGesture):
            shape = _CURSORS[self.gesture.handle]
        elif isinstance(self.hover, BoxHit):
            shape = _CURSORS[self.hover.handle]
        elif isinstance(self.hover, PointHit):
            shape = Qt.CursorShape.PointingHandCursor
        elif self.is_over_frame:
            paints = canvas.tool in (Tool.BRUSH, Tool.ERASER)
            shape = Qt.CursorShape.BlankCursor if paints else Qt.CursorShape.CrossCursor
        if canvas.cursor().shape() != shape:
            canvas.setCursor(shape)

    def _set_gesture(self, gesture: Gesture | None) -> None:
        was_active = self.gesture is not None
        self.gesture = gesture
        self._canvas.update()
        if was_active != (gesture is not None):
            self._canvas.gesture_changed.emit(gesture is not None)

    def _video(self) -> tuple[float, float]:
        assert self.position is not None
        return self._canvas.transform.to_video(self.position.x(), self.position.y())

    # --- mouse ------------------------------------------------------------------------------------

    def press(self, event: QMouseEvent) -> None:
        """A button goes down."""
        canvas = self._canvas
        self.position = event.position()
        if self.gesture is not None or canvas.video_size is None:
            return
        self._button = event.button()
        self._find_hover()
        gesture = self._gesture_for(event)
        if gesture is not None:
            self._set_gesture(gesture)
        self.update_cursor()

    def _gesture_for(self, event: QMouseEvent) -> Gesture | None:
        canvas, button, modifiers = self._canvas, event.button(), event.modifiers()
        assert self.position is not None
        place = (self.position.x(), self.position.y())
        if button == _MIDDLE or (button == _LEFT and self._space_held):
            self._space_used = True
            return PanGesture(place, place, with_space=self._space_held)
        if button not in (_LEFT, _RIGHT):
            return None
        x, y = self._video()
        if button == _RIGHT and modifiers & Qt.KeyboardModifier.ShiftModifier:
            canvas.menu_requested.emit(event.globalPosition().toPoint(), x, y)
            return None
        picks = button == _LEFT and bool(modifiers & Qt.KeyboardModifier.ControlModifier)
        if picks:
            return ClickGesture(place, (x, y), 1, may_become_box=False, picks=True)
        if canvas.tool is Tool.PAN:
            return PanGesture(place, place, picks=button == _LEFT) if button == _LEFT else None
        if canvas.tool in (Tool.BRUSH, Tool.ERASER):
            return self._start_stroke(x, y, other=button == _RIGHT)
        if isinstance(self.hover, BoxHit) and button == _LEFT:
            return self._start_handle(self.hover)
        label = self._label(button)
        box = button == _LEFT
        on_point = self.hover if isinstance(self.hover, PointHit) else None
        if not self.is_over_frame and not box:
            return None
        return ClickGesture(place, (x, y), label, may_become_box=box, on_point=on_point)

    def _label(self, button: Qt.MouseButton) -> int:
        if self.forced_label is not None:
            return self.forced_label
        return 1 if button == _LEFT else 0

    def _start_stroke(self, x: float, y: float, other: bool) -> StrokeGesture | None:
        canvas = self._canvas
        size = canvas.video_size
        assert size is not None
        erase = (canvas.tool is Tool.ERASER) != other
        builder = StrokeBuilder((size[1], size[0]), erase)
        builder.add(x, y, canvas.brush_radius)
        return StrokeGesture(builder, canvas.brush_radius)

    def _start_handle(self, hit: BoxHit) -> HandleGesture | None:
        for mark in self._canvas.marks:
            if mark.object_id == hit.object_id and mark.box_xyxy is not None:
                return HandleGesture(hit.object_id, hit.handle, mark.box_xyxy, mark.box_xyxy)
        return None

    def move(self, event: QMouseEvent) -> None:
        """The pointer moves, with or without a button."""
        canvas = self._canvas
        before = self.position
        self.position = event.position()
        if canvas.video_size is None:
            return
        gesture = self.gesture
        x, y = self._video()
        if isinstance(gesture, PanGesture):
            self._pan(gesture)
        elif isinstance(gesture, ClickGesture):
            moved = gesture.has_moved(self.position.x(), self.position.y())
            if gesture.may_become_box and moved:
                self._set_gesture(BoxGesture(gesture.video_xy, (x, y)))
        elif isinstance(gesture, BoxGesture):
            gesture.end_xy = (x, y)
            canvas.update()
        elif isinstance(gesture, HandleGesture):
            gesture.move(x, y)
            canvas.update()
        elif isinstance(gesture, StrokeGesture):
            gesture.builder.add(x, y, gesture.radius)
            canvas.update()
        else:
            self._find_hover()
        self._report_hover()
        if gesture is None:
            self._update_pointer_area(before)
        self.update_cursor()

    def _pan(self, gesture: PanGesture) -> None:
        assert self.position is not None
        place = (self.position.x(), self.position.y())
        dx, dy = place[0] - gesture.last_xy[0], place[1] - gesture.last_xy[1]
        gesture.last_xy = place
        start = gesture.start_xy
        if not gesture.moved and (place[0] - start[0]) ** 2 + (place[1] - start[1]) ** 2 >= 9:
            gesture.moved = True
        self._canvas.move_view(self._canvas.transform.panned(dx, dy))

    def release(self, event: QMouseEvent) -> None:
        """A button goes up."""
        if self.gesture is None or event.button() != self._button:
            return
        self.position = event.position()
        canvas, gesture = self._canvas, self.gesture
        size = canvas.video_size
        x, y = self._video()
        self._set_gesture(None)
        if size is None:
            return
        if isinstance(gesture, ClickGesture):
            self._click(gesture, size)
        elif isinstance(gesture, BoxGesture | HandleGesture):
            box = clipped_box(gesture.box_xyxy, size)
            if box is not None:
                canvas.box_drawn.emit(*box)
        elif isinstance(gesture, StrokeGesture):
            gesture.builder.add(x, y, gesture.radius)
            canvas.finish_stroke(gesture, gesture.builder.finish(gesture.radius))
        elif gesture.picks and not gesture.moved and inside_frame(x, y, size):
            canvas.object_picked.emit(x, y)
        self.forget_hover()

    def _click(self, gesture: ClickGesture, size: tuple[int, int]) -> None:
        canvas = self._canvas
        x, y = gesture.video_xy
        if not inside_frame(x, y, size):
            return
        if gesture.picks:
            canvas.object_picked.emit(x, y)
        elif gesture.on_point is not None:
            canvas.point_removed.emit(gesture.on_point.object_id, gesture.on_point.index)
        elif canvas.tool is Tool.POINT or gesture.label == 0:
            canvas.point_added.emit(x, y, gesture.label)

    def leave(self) -> None:
        """The pointer left the canvas."""
        self.position = None
        self.hover = None
        if self._was_inside:
            self._was_inside = False
            self._canvas.hover_left.emit()
        self._canvas.update()

    def _report_hover(self) -> None:
        inside = self.is_over_frame
        if inside:
            self._canvas.hovered.emit(*self._video())
        elif self._was_inside:
            self._canvas.hover_left.emit()
        self._was_inside = inside

    def _find_hover(self) -> None:
        canvas = self._canvas
        found: Hit | None = None
        if canvas.tool in (Tool.POINT, Tool.BOX) and not self._space_held and not canvas.overlay_hidden:
            assert self.position is not None
            found = find_mark(
                canvas.marks, canvas.transform, self.position.x(), self.position.y(), canvas.active_object
            )
            if isinstance(found, PointHit) and not canvas.has_listener(canvas.point_removed):
                found = None
        if found != self.hover:
            self.hover = found
            canvas.update()

    def _update_pointer_area(self, before: QPointF | None) -> None:
        """Repaint what the drawn pointer covers and covered."""
        canvas = self._canvas
        if canvas.tool is Tool.BOX:
            canvas.update()
        elif canvas.tool in (Tool.BRUSH, Tool.ERASER) or self.forced_label is not None:
            reach = max(canvas.brush_radius * canvas.transform.scale, 24) + 4
            for place in (before, self.position):
                if place is not None:
                    area = QRectF(place.x() - reach, place.y() - reach, 2 * reach, 2 * reach)
                    canvas.update(area.toAlignedRect())

    # --- wheel and pinch --------------------------------------------------------------------------

    def wheel(self, event: QWheelEvent) -> None:
        """Zoom at the pointer, scroll, or resize the brush."""
        canvas = self._canvas
        delta, pixels = event.angleDelta(), event.pixelDelta()
        notches = delta.y() / 120
        control = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        shift = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        paints = canvas.tool in (Tool.BRUSH, Tool.ERASER)
        if paints and not control and not shift:
            if not isinstance(self.gesture, StrokeGesture):
                canvas.resize_brush(notches)
        elif control or (self.wheel_zooms and not shift):
            canvas.zoom_by(ZOOM_PER_NOTCH**notches, event.position())
        else:
            dx, dy = (pixels.x(), pixels.y()) if not pixels.isNull() else (delta.x() / 2, delta.y() / 2)
            if shift and dx == 0:
                dx, dy = dy, 0
            canvas.move_view(canvas.transform.panned(dx, dy))
        event.accept()

    def special_event(self, event: QEvent) -> bool:
        """Handle pinches; keep keys of a gesture from becoming shortcuts. True when handled."""
        canvas = self._canvas
        if isinstance(event, QNativeGestureEvent):
            if event.gestureType() == Qt.NativeGestureType.ZoomNativeGesture:
                canvas.zoom_by(max(1.0 + event.value(), 0.2), event.position())
                return True
            return False
        if isinstance(event, QGestureEvent):
            pinch = event.gesture(Qt.GestureType.PinchGesture)
            if isinstance(pinch, QPinchGesture):
                canvas.zoom_by(pinch.scaleFactor(), canvas.mapFromGlobal(pinch.centerPoint()))
                return True
            return False
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            wanted = (event.key() == Qt.Key.Key_Escape and self.gesture is not None) or (
                self._is_plain_space(event) and canvas.has_listener(canvas.space_tapped)
            )
            if wanted:
                event.accept()
                return True
        return False

    # --- keys -------------------------------------------------------------------------------------

    @staticmethod
    def _is_plain_space(event: QKeyEvent) -> bool:
        return event.key() == Qt.Key.Key_Space and event.modifiers() == Qt.KeyboardModifier.NoModifier

    def key_press(self, event: QKeyEvent) -> bool:
        """True when the key was one of the canvas's own."""
        canvas, key = self._canvas, event.key()
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            return False
        if key == Qt.Key.Key_Space and canvas.has_listener(canvas.space_tapped):
            if not event.isAutoRepeat():
                self._space_held, self._space_used = True, False
                self.hover = None
                self.update_cursor()
                canvas.update()
            return True
        if key == Qt.Key.Key_Escape:
            return self.cancel()
        if key in (Qt.Key.Key_Q, Qt.Key.Key_E):
            canvas.set_forced_label(1 if key == Qt.Key.Key_Q else 0)
            return True
        if key in (Qt.Key.Key_BracketLeft, Qt.Key.Key_BracketRight):
            if not isinstance(self.gesture, StrokeGesture):
                canvas.resize_brush(1 if key == Qt.Key.Key_BracketRight else -1)
            return True
        return False

    def key_release(self, event: QKeyEvent) -> bool:
        """True when the key was one of the canvas's own."""
        if event.isAutoRepeat():
            return event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Q, Qt.Key.Key_E)
        if event.key() == Qt.Key.Key_Space and self._space_held:
            self._space_held = False
            self.forget_hover()
            self._canvas.update()
            if not self._space_used:
                self._canvas.space_tapped.emit()
            return True
        if event.key() in (Qt.Key.Key_Q, Qt.Key.Key_E):
            self._canvas.set_forced_label(None)
            return True
        return False
