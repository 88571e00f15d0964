"""The canvas driven with mouse, wheel and keys, as a person would."""

from __future__ import annotations

import numpy as np
import pytest
from PySide6.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QAction, QDropEvent, QKeyEvent, QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QPushButton

from app.ui.canvas.brush import apply_stroke
from app.ui.canvas.canvas import Canvas
from app.ui.canvas.empty_state import EmptyState
from app.ui.canvas.view_model import MaskLayer, PromptMark, Tool

LEFT, RIGHT, MIDDLE = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton
CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
NONE = Qt.KeyboardModifier.NoModifier
RED = "#d04040"


@pytest.fixture
def canvas(qtbot):
    """A canvas of 500 x 400 with a grey frame of 200 x 100."""
    widget = Canvas()
    qtbot.addWidget(widget)
    widget.resize(500, 400)
    widget.show()
    widget.set_frame(np.full((100, 200, 3), 128, np.uint8))
    return widget


def at(canvas: Canvas, x: float, y: float) -> QPoint:
    """The widget position of a video pixel's middle."""
    return QPointF(*canvas.transform.to_widget(x, y)).toPoint()


def drag(canvas, start, *stops, button=LEFT, modifiers=NONE, release=True):
    QTest.mousePress(canvas, button, modifiers, at(canvas, *start))
    for stop in stops:
        QTest.mouseMove(canvas, at(canvas, *stop))
    if release:
        QTest.mouseRelease(canvas, button, modifiers, at(canvas, *stops[-1]))


def wheel(canvas, position: QPoint, notches: int, modifiers=NONE):
    event = QWheelEvent(
        QPointF(position),
        canvas.mapToGlobal(QPointF(position)),
        QPoint(0, 0),
        QPoint(0, 120 * notches),
        Qt.MouseButton.NoButton,
        modifiers,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(canvas, event)


def recorded(signal):
    """A list that fills with what a signal carries."""
    heard = []
    signal.connect(lambda *values: heard.append(values))
    return heard


class TestClicks:
    def test_left_adds_and_right_takes_away(self, canvas):
        points = recorded(canvas.point_added)
        QTest.mouseClick(canvas, LEFT, NONE, at(canvas, 50, 40))
        QTest.mouseClick(canvas, RIGHT, NONE, at(canvas, 150, 80))
        assert [label for _, _, label in points] == [1, 0]
        assert points[0][:2] == pytest.approx((50, 40), abs=0.6)
        assert points[1][:2] == pytest.approx((150, 80), abs=0.6)

    def test_two_fast_clicks_are_two_points(self, canvas):
        points = recorded(canvas.point_added)
        place = at(canvas, 50, 40)
        QTest.mouseClick(canvas, LEFT, NONE, place)
        QTest.mouseDClick(canvas, LEFT, NONE, place)  # Qt tells of the second press in this way
        QTest.mouseRelease(canvas, LEFT, NONE, place)
        assert len(points) == 2

    def test_a_click_beside_the_picture_is_none(self, canvas):
        points = recorded(canvas.point_added)
        QTest.mouseClick(canvas, LEFT, NONE, QPoint(250, 5))
        QTest.mouseClick(canvas, RIGHT, NONE, QPoint(250, 5))
        assert points == []

    def test_a_held_q_or_e_forces_the_sign(self, canvas):
        points = recorded(canvas.point_added)
        QTest.keyPress(canvas, Qt.Key.Key_E)
        QTest.mouseClick(canvas, LEFT, NONE, at(canvas, 50, 40))
        QTest.keyRelease(canvas, Qt.Key.Key_E)
        QTest.keyPress(canvas, Qt.Key.Key_Q)
        QTest.mouseClick(canvas, RIGHT, NONE, at(canvas, 50, 40))
        QTest.keyRelease(canvas, Qt.Key.Key_Q)
        QTest.mouseClick(canvas, LEFT, NONE, at(canvas, 50, 40))
        assert [label for _, _, label in points] == [0, 1, 1]

    def test_control_click_picks_the_object(self, canvas):
        points, picks = recorded(canvas.point_added), recorded(canvas.object_picked)
        QTest.mouseClick(canvas, LEFT, CONTROL, at(canvas, 50, 40))
        assert points == []
        assert picks[0] == pytest.approx((50, 40), abs=0.6)

    def test_shift_right_click_asks_for_the_menu(self, canvas):
        points, menus = recorded(canvas.point_added), recorded(canvas.menu_requested)
        QTest.mouseClick(canvas, RIGHT, SHIFT, at(canvas, 50, 40))
        assert points == []
        assert menus[0][1:] == pytest.approx((50, 40), abs=0.6)

    def test_a_click_on_a_disc_removes_it_when_somebody_listens(self, canvas):
        canvas.set_marks([PromptMark(3, RED, ((50.0, 40.0), (90.0, 40.0)), (1, 0))])
        points = recorded(canvas.point_added)
        QTest.mouseClick(canvas, LEFT, NONE, at(canvas, 90, 40))
        assert len(points) == 1
        removed = recorded(canvas.point_removed)
        QTest.mouseClick(canvas, LEFT, NONE, at(canvas, 90, 40))
        assert removed == [(3, 1)] and len(points) == 1

    def test_nothing_is_reported_without_a_frame(self, canvas):
        points, boxes = recorded(canvas.point_added), recorded(canvas.box_drawn)
        canvas.set_frame(None)
        QTest.mouseClick(canvas, LEFT, NONE, QPoint(250, 200))
        drag(canvas, (10, 10), (90, 90))
        assert points == [] and boxes == []


class TestBoxes:
    @pytest.mark.parametrize("tool", [Tool.POINT, Tool.BOX])
    def test_a_drag_is_a_box_from_corner_to_corner(self, canvas, tool):
        canvas.set_tool(tool)
        boxes, points = recorded(canvas.box_drawn), recorded(canvas.point_added)
        drag(canvas, (150, 80), (100, 60), (20, 10))
        assert boxes[0] == pytest.approx((20, 10, 150, 80), abs=0.6)
        assert points == [] and len(boxes) == 1

    def test_a_box_ends_at_the_edge_of_the_frame(self, canvas):
        boxes = recorded(canvas.box_drawn)
        drag(canvas, (150, 80), (180, 90), (205, 130))
        assert boxes[0] == pytest.approx((150, 80, 200, 100), abs=0.6)

    def test_a_right_drag_is_no_box(self, canvas):
        boxes = recorded(canvas.box_drawn)
        drag(canvas, (20, 10), (100, 60), button=RIGHT)
        assert boxes == []

    def test_escape_gives_the_box_up(self, canvas):
        boxes, points, states = (
            recorded(canvas.box_drawn),
            recorded(canvas.point_added),
            recorded(canvas.gesture_changed),
        )
        drag(canvas, (20, 10), (50, 30), (90, 60), release=False)
        assert canvas.is_gesture_active
        QTest.keyClick(canvas, Qt.Key.Key_Escape)
        assert not canvas.is_gesture_active
        QTest.mouseRelease(canvas, LEFT, NONE, at(canvas, 90, 60))
        assert boxes == [] and points == [] and states == [(True,), (False,)]

    def test_dragging_a_handle_reports_the_changed_box(self, canvas):
        canvas.set_marks([PromptMark(3, RED, box_xyxy=(20.0, 10.0, 150.0, 80.0))])
        boxes = recorded(canvas.box_drawn)
        drag(canvas, (150, 80), (160, 85), (180, 95))
        assert boxes[0] == pytest.approx((20, 10, 180, 95), abs=0.6)

    def test_the_handles_of_another_object_do_not_react(self, canvas):
        canvas.set_marks([PromptMark(3, RED, box_xyxy=(20.0, 10.0, 150.0, 80.0))])
        canvas.set_active_object(4, RED)
        boxes = recorded(canvas.box_drawn)
        drag(canvas, (150, 80), (160, 85), (180, 95))
        assert boxes[0] == pytest.approx((150, 80, 180, 95), abs=0.6)


class TestBrush:
    def test_a_stroke_is_reported_once_where_the_mouse_went(self, canvas):
        canvas.set_tool(Tool.BRUSH)
        canvas.brush_radius = 6
        strokes = recorded(canvas.stroke_finished)
        drag(canvas, (30, 50), (60, 50), (100, 50), (150, 50))
        (stroke,) = strokes[0]
        painted = apply_stroke(None, (100, 200), stroke)
        assert len(strokes) == 1 and not stroke.erase
        assert painted[50, 30:150].all() and painted[45, 35:145].all()
        assert not painted[40].any() and not painted[60].any()
        assert stroke.patch_hw.size < 200 * 20

    def test_the_eraser_erases_and_the_right_button_does_the_opposite(self, canvas):
        strokes = recorded(canvas.stroke_finished)
        canvas.set_tool(Tool.ERASER)
        drag(canvas, (30, 50), (60, 50))
        drag(canvas, (30, 50), (60, 50), button=RIGHT)
        assert [stroke.erase for (stroke,) in strokes] == [True, False]

    def test_escape_gives_the_stroke_up(self, canvas):
        strokes = recorded(canvas.stroke_finished)
        canvas.set_tool(Tool.BRUSH)
        drag(canvas, (30, 50), (60, 50), release=False)
        QTest.keyClick(canvas, Qt.Key.Key_Escape)
        QTest.mouseRelease(canvas, LEFT, NONE, at(canvas, 60, 50))
        assert strokes == []

    def test_brackets_and_wheel_resize_the_brush(self, canvas):
        canvas.set_tool(Tool.BRUSH)
        radii = recorded(canvas.brush_radius_changed)
        start, zoom = canvas.brush_radius, canvas.zoom
        QTest.keyClick(canvas, Qt.Key.Key_BracketRight)
        assert canvas.brush_radius > start
        QTest.keyClick(canvas, Qt.Key.Key_BracketLeft)
        QTest.keyClick(canvas, Qt.Key.Key_BracketLeft)
        assert canvas.brush_radius < start
        wheel(canvas, QPoint(250, 200), 3)
        assert canvas.brush_radius > start and canvas.zoom == zoom
        assert len(radii) == 4

    def test_the_brush_keeps_within_its_limits(self, canvas):
        canvas.brush_radius = 1e9
        assert canvas.brush_radius == 512
        canvas.brush_radius = 0
        assert canvas.brush_radius == 0.5


class TestView:
    def test_a_new_frame_is_fitted_and_stays_so(self, canvas):
        assert canvas.transform.scale == pytest.approx((500 - 32) / 200)
        canvas.resize(300, 400)
        assert canvas.transform.scale == pytest.approx((300 - 32) / 200)

    def test_the_wheel_zooms_at_the_cursor(self, canvas):
        zooms = recorded(canvas.zoom_changed)
        place = QPoint(120, 170)
        before = canvas.transform.to_video(place.x(), place.y())
        wheel(canvas, place, 2)
        assert canvas.transform.to_video(place.x(), place.y()) == pytest.approx(before)
        assert zooms == [(pytest.approx(canvas.zoom),)]

    def test_the_wheel_can_be_told_to_scroll_instead(self, canvas):
        canvas.set_wheel_zooms(False)
        canvas.zoom_by(4)
        before = canvas.transform
        wheel(canvas, QPoint(250, 200), 1)
        assert canvas.transform.scale == before.scale
        assert canvas.transform.offset_y == before.offset_y + 60
        wheel(canvas, QPoint(250, 200), 1, CONTROL)
        assert canvas.transform.scale > before.scale

    def test_one_hundred_percent_is_one_screen_pixel_a_video_pixel(self, canvas):
        canvas.zoom_actual()
        assert canvas.zoom == pytest.approx(1.0)
        canvas.fit()
        assert canvas.transform.scale == pytest.approx((500 - 32) / 200)

    def test_the_middle_button_pans(self, canvas):
        points, before = recorded(canvas.point_added), canvas.transform
        QTest.mousePress(canvas, MIDDLE, NONE, QPoint(200, 200))
        QTest.mouseMove(canvas, QPoint(230, 210))
        QTest.mouseRelease(canvas, MIDDLE, NONE, QPoint(230, 210))
        assert canvas.transform == before.panned(30, 10)
        assert points == []

    def test_the_pan_tool_pans_on_a_drag_and_picks_on_a_click(self, canvas):
        canvas.set_tool(Tool.PAN)
        picks, before = recorded(canvas.object_picked), canvas.transform
        QTest.mousePress(canvas, LEFT, NONE, QPoint(200, 200))
        QTest.mouseMove(canvas, QPoint(190, 180))
        QTest.mouseRelease(canvas, LEFT, NONE, QPoint(190, 180))
        assert canvas.transform == before.panned(-10, -20) and picks == []
        QTest.mouseClick(canvas, LEFT, NONE, at(canvas, 50, 40))
        assert picks[0] == pytest.approx((50, 40), abs=0.6)

    def test_the_same_size_of_frame_keeps_the_view(self, canvas):
        canvas.center_on(50, 40, 8)
        before = canvas.transform
        canvas.set_frame(np.zeros((100, 200, 3), np.uint8))
        assert canvas.transform == before
        canvas.set_frame(np.zeros((50, 60, 3), np.uint8))
        assert canvas.transform != before


class TestSpace:
    def test_a_tap_is_reported_and_a_drag_pans_instead(self, canvas):
        taps, points, before = recorded(canvas.space_tapped), recorded(canvas.point_added), canvas.transform
        QTest.keyClick(canvas, Qt.Key.Key_Space)
        assert len(taps) == 1
        QTest.keyPress(canvas, Qt.Key.Key_Space)
        QTest.mousePress(canvas, LEFT, NONE, QPoint(200, 200))
        QTest.mouseMove(canvas, QPoint(220, 230))
        QTest.mouseRelease(canvas, LEFT, NONE, QPoint(220, 230))
        QTest.keyRelease(canvas, Qt.Key.Key_Space)
        assert len(taps) == 1 and points == []
        assert canvas.transform == before.panned(20, 30)

    def test_space_is_kept_from_shortcuts_only_when_somebody_listens(self, canvas):
        def is_kept():
            event = QKeyEvent(QEvent.Type.ShortcutOverride, Qt.Key.Key_Space, NONE)
            event.ignore()
            QApplication.sendEvent(canvas, event)
            return event.isAccepted()

        assert not is_kept()
        canvas.space_tapped.connect(lambda: None)
        assert is_kept()

    def test_escape_is_kept_from_shortcuts_only_during_a_gesture(self, canvas):
        def is_kept():
            event = QKeyEvent(QEvent.Type.ShortcutOverride, Qt.Key.Key_Escape, NONE)
            event.ignore()
            QApplication.sendEvent(canvas, event)
            return event.isAccepted()

        assert not is_kept()
        drag(canvas, (20, 10), (90, 60), release=False)
        assert is_kept()


class TestHover:
    def test_coordinates_are_reported_inside_and_their_end_outside(self, canvas):
        places, left = recorded(canvas.hovered), recorded(canvas.hover_left)
        QTest.mouseMove(canvas, at(canvas, 50, 40))
        QTest.mouseMove(canvas, QPoint(250, 5))
        assert places[-1] == pytest.approx((50, 40), abs=0.6)
        assert len(places) == 1 and len(left) == 1

    def test_leaving_the_widget_ends_the_hover(self, canvas):
        left = recorded(canvas.hover_left)
        QTest.mouseMove(canvas, at(canvas, 50, 40))
        QApplication.sendEvent(canvas, QEvent(QEvent.Type.Leave))
        assert len(left) == 1


class TestTool:
    def test_a_new_tool_is_announced_once(self, canvas):
        tools = recorded(canvas.tool_changed)
        canvas.set_tool(Tool.BRUSH)
        canvas.set_tool(Tool.BRUSH)
        assert tools == [(Tool.BRUSH,)] and canvas.tool is Tool.BRUSH

    def test_a_new_tool_gives_the_gesture_up(self, canvas):
        boxes = recorded(canvas.box_drawn)
        drag(canvas, (20, 10), (90, 60), release=False)
        canvas.set_tool(Tool.PAN)
        QTest.mouseRelease(canvas, LEFT, NONE, at(canvas, 90, 60))
        assert boxes == []

    def test_the_selected_layer_is_the_active_object(self, canvas):
        mask = np.ones((100, 200), np.uint8)
        canvas.set_layers([MaskLayer(4, mask, RED), MaskLayer(5, mask, "#00ff00", selected=True)])
        assert canvas.active_object == 5 and canvas.active_color == "#00ff00"
        canvas.set_active_object(4)
        assert canvas.active_object == 4 and canvas.active_color == RED


class TestFilesAndEmptyState:
    def test_dropped_files_are_reported(self, canvas):
        files = recorded(canvas.files_dropped)
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile("/clips/a b.mp4"), QUrl("https://example.org/b.mp4")])
        event = QDropEvent(QPointF(10, 10), Qt.DropAction.CopyAction, mime, LEFT, NONE)
        canvas.dropEvent(event)
        assert files == [(["/clips/a b.mp4"],)]

    def test_the_empty_state_covers_the_canvas_with_working_buttons(self, canvas, qtbot):
        chosen = []
        actions = []
        for text in ("Open video", "Sample clip", "Last project"):
            action = QAction(text, canvas)
            action.triggered.connect(lambda checked=False, text=text: chosen.append(text))
            actions.append(action)
        state = EmptyState("Drop a video", "or a folder", actions=tuple(actions[:2]), recent=(actions[2],))
        canvas.set_empty_state(state)
        buttons = [b for b in canvas.findChildren(QPushButton) if b.isVisible()]
        for button in buttons:
            QTest.mouseClick(button, LEFT)
        assert chosen == ["Open video", "Sample clip", "Last project"]
        canvas.set_empty_state(None)
        assert not any(button.isVisible() for button in buttons)
