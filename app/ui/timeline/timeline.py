"""The timeline: ruler, playhead, range, one presence lane an object, confidence curve, encoded strip.

It knows nothing of projects: it is told plain arrays (`view_model`) and reports what the user asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QContextMenuEvent,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QNativeGestureEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QMenu, QToolTip, QWidget

from app.ui import theme
from app.ui.timeline.layout import Layout, Part, Place
from app.ui.timeline.ruler_painter import paint_playhead
from app.ui.timeline.still import Content, small_font, still_image
from app.ui.timeline.time_axis import TimeAxis, format_time, frames_near
from app.ui.timeline.tips import tip
from app.ui.timeline.view_model import Cell, Lane

LOW_CONFIDENCE = 0.5
"""Below it a frame counts as a dip that wants a look."""
ZOOM_PER_NOTCH = 1.25
SNAP_REACH = 4.0
"""The playhead jumps to prompted and edited frames this near, in pixels, when frames are narrower."""


class Timeline(QAbstractScrollArea):
    """All frames of the clip at a glance. Frames are counted from 0."""

    frame_requested = Signal(int)
    range_changed = Signal(object, object)
    """In and out frame, both inclusive; None where not set."""
    object_selected = Signal(int)
    menu_requested = Signal(int, QPoint)
    """Right click on an object's name: object id, global position."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._fps = 25.0
        self._current = 0
        self._axis = TimeAxis(0, 1.0)
        self._lanes: tuple[Lane, ...] = ()
        self._encoded: npt.NDArray[np.bool_] | None = None
        self._range: tuple[int | None, int | None] = (None, None)
        self._low_confidence = LOW_CONFIDENCE
        self._drag: str | None = None
        self._drag_from = 0.0
        self._hover = Place(Part.NOTHING)
        self._revision = 0
        self._still = QImage()
        self._still_key: tuple[object, ...] = ()

        self.setFrameShape(QAbstractScrollArea.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setMouseTracking(True)
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.setAccessibleName(self.tr("Timeline"))
        self.horizontalScrollBar().valueChanged.connect(self._scrolled_across)
        self.verticalScrollBar().valueChanged.connect(self._touch)
        theme.manager().changed.connect(self._touch)

    # --- what to show -----------------------------------------------------------------------------

    def set_clip(self, frame_count: int, fps: float) -> None:
        """Another clip, wholly in view; everything else is forgotten."""
        self._fps = fps
        self._current = 0
        self._range = (None, None)
        self._encoded = None
        self._lanes = ()
        self._axis = TimeAxis(frame_count, self._layout().time_width).fitted()
        self._update_scroll_bars()
        self._touch()

    def set_current(self, frame: int) -> None:
        """Move the playhead; the view follows it."""
        frame = min(max(frame, 0), max(self._axis.frame_count - 1, 0))
        if frame == self._current:
            return
        before = self._playhead_area()
        self._current = frame
        axis = self._axis if self._drag is not None else self._axis.showing(frame)
        if axis != self._axis:
            self._set_axis(axis)
        else:
            self.viewport().update(before)
            self.viewport().update(self._playhead_area())
        self.setAccessibleDescription(
            self.tr("Frame {0} of {1}, {2}").format(
                frame, self._axis.frame_count, format_time(frame, self._fps)
            )
        )

    def set_lanes(self, lanes: Sequence[Lane]) -> None:
        """Show these objects, from top to bottom."""
        self._lanes = tuple(lanes)
        self._update_scroll_bars()
        self._touch()

    def set_encoded(self, encoded: npt.NDArray[np.bool_] | None) -> None:
        """Which frames' features are at hand, one flag a frame; None hides the strip's content."""
        self._encoded = encoded
        self._touch()

    def set_range(self, first: int | None, last: int | None) -> None:
        """The in and out marks, both inclusive; reports nothing."""
        if (first, last) != self._range:
            self._range = (first, last)
            self._touch()

    def set_low_confidence(self, threshold: float) -> None:
        """Below which confidence a frame is marked as a dip, 0..1."""
        self._low_confidence = threshold
        self._touch()

    @property
    def current(self) -> int:
        """The playhead's frame."""
        return self._current

    @property
    def range(self) -> tuple[int | None, int | None]:
        """In and out frame, both inclusive; None where not set."""
        return self._range

    @property
    def axis(self) -> TimeAxis:
        """The frames in view."""
        return self._axis

    # --- view -------------------------------------------------------------------------------------

    def zoom_fit(self) -> None:
        """Show the whole clip."""
        self._set_axis(self._axis.fitted())

    def zoom_by(self, factor: float, at_x: float | None = None) -> None:
        """Zoom around a position from the ruler's left end, or around the playhead."""
        if at_x is None:
            at_x = min(max(self._axis.center_of(self._current), 0.0), self._axis.width)
        self._set_axis(self._axis.zoomed(factor, at_x))

    def reveal_lane(self, object_id: int) -> None:
        """Scroll an object's lane into view."""
        layout = self._layout()
        for index, lane in enumerate(self._lanes):
            if lane.object_id == object_id:
                top, bar = layout.lane_height * index, self.verticalScrollBar()
                lowest = top + layout.lane_height - math.floor(layout.lanes.height())
                bar.setValue(round(min(max(bar.value(), lowest), top)))

    def sizeHint(self) -> QSize:
        """Room for about four objects."""
        return QSize(800, round(Layout.height_for(4)))

    def minimumSizeHint(self) -> QSize:
        """Room for one."""
        return QSize(320, round(Layout.height_for(1)))

    def _set_axis(self, axis: TimeAxis) -> None:
        if axis != self._axis:
            self._axis = axis
            self._update_scroll_bars()
            self._touch()

    def _layout(self) -> Layout:
        size = self.viewport().size()
        has_selected = any(lane.selected for lane in self._lanes)
        return Layout(
            float(size.width()),
            float(size.height()),
            len(self._lanes),
            has_selected,
            float(self.verticalScrollBar().value()),
        )

    def _update_scroll_bars(self) -> None:
        layout, axis = self._layout(), self._axis
        across = self.horizontalScrollBar()
        across.blockSignals(True)
        whole = axis.frame_count * axis.px_per_frame
        across.setPageStep(round(axis.width))
        across.setSingleStep(round(max(axis.px_per_frame, 16)))
        across.setRange(0, max(round(whole - axis.width), 0))
        across.setValue(round(axis.first * axis.px_per_frame))
        across.blockSignals(False)
        down = self.verticalScrollBar()
        down.setPageStep(round(layout.lanes.height()))
        down.setSingleStep(round(layout.lane_height))
        down.setRange(0, max(math.ceil(layout.lanes_height - layout.lanes.height()), 0))

    def _scrolled_across(self, value: int) -> None:
        wanted = self._axis.scrolled(value / self._axis.px_per_frame - self._axis.first)
        if wanted != self._axis:
            self._axis = wanted
            self._touch()

    def _touch(self) -> None:
        self._revision += 1
        self.viewport().update()

    # --- painting ---------------------------------------------------------------------------------

    def _playhead_area(self) -> QRect:
        x = self._layout().left + self._axis.center_of(self._current)
        reach = 200 + self._axis.px_per_frame  # with the label that its number may hide
        return QRectF(x - reach, 0, 2 * reach, self.viewport().height()).toAlignedRect()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the still image and the playhead over it."""
        viewport, layout = self.viewport(), self._layout()
        ratio = viewport.devicePixelRatioF()
        key = (self._revision, viewport.size(), ratio, self._hover)
        if key != self._still_key:
            self._still = still_image(self._content(), layout, ratio, self.font())
            self._still_key = key
        painter = QPainter(viewport)
        painter.drawImage(0, 0, self._still)
        if self._axis.frame_count == 0:
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setClipRect(QRectF(layout.left, 0, layout.time_width, layout.height))
        painter.setFont(small_font(self.font()))
        dragged = self._drag == "playhead"
        paint_playhead(painter, layout.ruler, layout.height, self._axis, self._fps, self._current, dragged)

    def _content(self) -> Content:
        return Content(
            self._axis, self._fps, self._lanes, self._encoded, self._range, self._low_confidence, self._hover
        )

    # --- mouse ------------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Scrub, drag a range mark, pan or select a lane."""
        layout = self._layout()
        place = layout.place(event.position().x(), event.position().y(), self._axis, self._range)
        if event.button() == Qt.MouseButton.MiddleButton:
            self._drag, self._drag_from = "pan", event.position().x()
            self.viewport().setCursor(Qt.CursorShape.ClosedHandCursor)
            return
        if event.button() != Qt.MouseButton.LeftButton or self._axis.frame_count == 0:
            return
        if place.part in (Part.LANE, Part.LANE_NAME):
            lane = self._lanes[place.lane]
            if not lane.selected or sum(other.selected for other in self._lanes) > 1:
                self.object_selected.emit(lane.object_id)
        if place.part is Part.RANGE_IN:
            self._drag = "in"
        elif place.part is Part.RANGE_OUT:
            self._drag = "out"
        elif place.part in (Part.RULER, Part.LANE, Part.CONFIDENCE, Part.BELOW_LANES):
            self._drag = "playhead"
            self._scrub(event.position().x() - layout.left)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Follow the drag, or show what lies under the pointer."""
        layout, x = self._layout(), event.position().x()
        if self._drag == "playhead":
            self._scrub(x - layout.left)
        elif self._drag in ("in", "out"):
            self._drag_range(self._drag, self._axis.frame_at(x - layout.left))
        elif self._drag == "pan":
            self._set_axis(self._axis.scrolled((self._drag_from - x) / self._axis.px_per_frame))
            self._drag_from = x
        else:
            self._hover_over(layout.place(x, event.position().y(), self._axis, self._range))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """End the drag."""
        if self._drag is not None:
            self._drag = None
            self.viewport().update()
            layout = self._layout()
            self._hover_over(
                layout.place(event.position().x(), event.position().y(), self._axis, self._range)
            )

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """A double click on the ruler shows the whole clip."""
        layout = self._layout()
        place = layout.place(event.position().x(), event.position().y(), self._axis, self._range)
        if place.part is Part.RULER and event.button() == Qt.MouseButton.LeftButton:
            self.zoom_fit()
        else:
            self.mousePressEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing lies under the pointer any more."""
        self._hover_over(Place(Part.NOTHING))

    def _hover_over(self, place: Place) -> None:
        shape = Qt.CursorShape.ArrowCursor
        if place.part in (Part.RANGE_IN, Part.RANGE_OUT):
            shape = Qt.CursorShape.SizeHorCursor
        self.viewport().setCursor(shape)
        if place != self._hover:
            self._hover = place
            self.viewport().update()

    def _scrub(self, x: float) -> None:
        frame = self._axis.frame_at(x)
        if self._axis.px_per_frame < 2 * SNAP_REACH:
            marked = frames_near(self._marked_frames(x), self._axis, x, SNAP_REACH)
            frame = frame if marked is None else marked
        if frame != self._current:
            self.set_current(frame)
            self.frame_requested.emit(frame)
        if not 0 <= x <= self._axis.width:  # dragged past the end: bring more of the clip into view
            step = (x if x < 0 else x - self._axis.width) / self._axis.px_per_frame * 0.2
            self._set_axis(self._axis.scrolled(step))

    def _marked_frames(self, x: float) -> list[int]:
        """Prompted and edited frames of the selected object near a position."""
        reach = SNAP_REACH / self._axis.px_per_frame
        middle = self._axis.first + x / self._axis.px_per_frame
        start, stop = max(int(middle - reach) - 1, 0), int(middle + reach) + 2
        for lane in self._lanes:
            if lane.selected:
                cells = lane.cells[start:stop]
                return (np.flatnonzero(cells >= Cell.EDITED) + start).tolist()
        return []

    def _drag_range(self, end: str, frame: int) -> None:
        first, last = self._range
        wanted: tuple[int | None, int | None]
        if end == "in":
            wanted = (frame if last is None else min(frame, last), last)
        else:
            wanted = (first, frame if first is None else max(frame, first))
        if wanted != self._range:
            self.set_range(*wanted)
            self.range_changed.emit(*wanted)

    # --- wheel, keys, menu, tips ------------------------------------------------------------------

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Ctrl or over the ruler: zoom. Shift or sideways: along the clip. Else: through the lanes."""
        layout, delta = self._layout(), event.angleDelta()
        modifiers = event.modifiers()
        x, y = event.position().x(), event.position().y()
        if modifiers & Qt.KeyboardModifier.ControlModifier or layout.ruler.top() <= y < layout.ruler.bottom():
            self.zoom_by(ZOOM_PER_NOTCH ** (delta.y() / 120), x - layout.left)
        else:
            along = delta.x()
            can_scroll_down = self.verticalScrollBar().maximum() > 0
            if modifiers & Qt.KeyboardModifier.ShiftModifier or (not can_scroll_down and along == 0):
                along = along or delta.y()
            if along:
                self._set_axis(self._axis.scrolled(-along / 120 * 64 / self._axis.px_per_frame))
            else:
                bar = self.verticalScrollBar()
                bar.setValue(bar.value() - round(delta.y() / 120 * layout.lane_height))
        event.accept()

    def viewportEvent(self, event: QEvent) -> bool:
        """Tool tips and pinches."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            text = self.tip_at(event.pos().x(), event.pos().y())
            QToolTip.showText(event.globalPos(), text, self.viewport())
            return True
        if isinstance(event, QNativeGestureEvent):
            if event.gestureType() == Qt.NativeGestureType.ZoomNativeGesture:
                at = event.position().x() - self._layout().left
                self.zoom_by(max(1.0 + event.value(), 0.2), at)
            return True
        return super().viewportEvent(event)

    def tip_at(self, x: float, y: float) -> str:
        """What the tool tip says at a position of the viewport; empty where there is nothing to say."""
        layout = self._layout()
        place = layout.place(x, y, self._axis, self._range)
        return tip(self._content(), place, self._axis.frame_at(x - layout.left))

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Range marks on the ruler; the window's own menu on an object's name."""
        layout = self._layout()
        position = self.viewport().mapFromGlobal(event.globalPos())
        place = layout.place(position.x(), position.y(), self._axis, self._range)
        if place.part is Part.LANE_NAME:
            self.menu_requested.emit(self._lanes[place.lane].object_id, event.globalPos())
        elif self._axis.frame_count and place.part in (Part.RULER, Part.RANGE_IN, Part.RANGE_OUT):
            self.range_menu(self._axis.frame_at(position.x() - layout.left)).popup(event.globalPos())

    def range_menu(self, frame: int) -> QMenu:
        """The ruler's menu at a frame."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        first, last = self._range

        def change(new_first: int | None, new_last: int | None) -> None:
            self.set_range(new_first, new_last)
            self.range_changed.emit(new_first, new_last)

        start_here = menu.addAction(self.tr("Start range at frame {0}").format(frame))
        start_here.triggered.connect(
            lambda: change(frame, last if last is not None and last >= frame else None)
        )
        end_here = menu.addAction(self.tr("End range at frame {0}").format(frame))
        end_here.triggered.connect(
            lambda: change(first if first is not None and first <= frame else None, frame)
        )
        clear = menu.addAction(self.tr("Clear range"))
        clear.setEnabled(self._range != (None, None))
        clear.triggered.connect(lambda: change(None, None))
        menu.addSeparator()
        menu.addAction(self.tr("Show whole clip")).triggered.connect(self.zoom_fit)
        return menu

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows step through frames and objects; + and - zoom."""
        step = 10 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1
        last = max(self._axis.frame_count - 1, 0)
        frames = {
            Qt.Key.Key_Left: self._current - step,
            Qt.Key.Key_Right: self._current + step,
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: last,
        }
        key = Qt.Key(event.key())
        if key in frames:
            frame = min(max(frames[key], 0), last)
            if frame != self._current:
                self.set_current(frame)
                self.frame_requested.emit(frame)
        elif key in (Qt.Key.Key_Up, Qt.Key.Key_Down) and self._lanes:
            self._step_lane(1 if key == Qt.Key.Key_Down else -1)
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self.zoom_by(ZOOM_PER_NOTCH)
        elif key == Qt.Key.Key_Minus:
            self.zoom_by(1 / ZOOM_PER_NOTCH)
        else:
            event.ignore()

    def _step_lane(self, direction: int) -> None:
        selected = next((i for i, lane in enumerate(self._lanes) if lane.selected), None)
        index = 0 if selected is None else min(max(selected + direction, 0), len(self._lanes) - 1)
        if index != selected:
            self.reveal_lane(self._lanes[index].object_id)
            self.object_selected.emit(self._lanes[index].object_id)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep the clip in view."""
        self._axis = self._axis.resized(self._layout().time_width)
        self._update_scroll_bars()
        self._touch()

    def scrollContentsBy(self, dx: int, dy: int) -> None:
        """Everything is painted at its place: nothing to shift."""
        self.viewport().update()
