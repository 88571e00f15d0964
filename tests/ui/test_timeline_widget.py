"""The timeline driven with mouse and keys, and what it paints."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QColor, QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from app.ui import theme
from app.ui.timeline.timeline import Timeline
from app.ui.timeline.view_model import Cell, Lane

LEFT, MIDDLE = Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton
NONE, SHIFT, CONTROL = (
    Qt.KeyboardModifier.NoModifier,
    Qt.KeyboardModifier.ShiftModifier,
    Qt.KeyboardModifier.ControlModifier,
)
RULER_Y = 10


def lane(number, count=200, selected=False, color="#e02020", **cells):
    values = np.zeros(count, np.uint8)
    for kind, part in cells.items():
        values[part] = Cell[kind.upper()]
    confidence = np.where(values >= Cell.TRACKED, np.float32(0.9), np.float32(np.nan))
    return Lane(
        number, f"object {number}", color, values, confidence, np.zeros(count, np.bool_), selected=selected
    )


@pytest.fixture
def timeline(qtbot):
    """200 frames at 10 fps; frame n's cell begins at 152 + 4 n."""
    widget = Timeline()
    qtbot.addWidget(widget)
    widget.resize(952, 220)
    widget.show()
    widget.set_clip(200, 10.0)
    return widget


def recorded(signal):
    heard = []
    signal.connect(lambda *values: heard.append(values))
    return heard


def x_of(timeline: Timeline, frame: int) -> int:
    return round(152 + timeline.axis.center_of(frame))


def lane_y(index: int) -> int:
    return 28 + 7 + 28 * index + 14


def click(timeline, x, y, button=LEFT):
    QTest.mouseClick(timeline.viewport(), button, NONE, QPoint(x, y))


def drag(timeline, start, *stops, button=LEFT):
    QTest.mousePress(timeline.viewport(), button, NONE, QPoint(*start))
    for stop in stops:
        QTest.mouseMove(timeline.viewport(), QPoint(*stop))
    QTest.mouseRelease(timeline.viewport(), button, NONE, QPoint(*stops[-1]))


def wheel(timeline, x, y, notches, modifiers=NONE):
    event = QWheelEvent(
        QPointF(x, y),
        timeline.viewport().mapToGlobal(QPointF(x, y)),
        QPoint(0, 0),
        QPoint(0, 120 * notches),
        Qt.MouseButton.NoButton,
        modifiers,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(timeline.viewport(), event)


def pixel(timeline, x, y):
    return timeline.viewport().grab().toImage().pixelColor(x, y)


class TestPlayhead:
    def test_a_click_on_the_ruler_asks_for_that_frame(self, timeline):
        frames = recorded(timeline.frame_requested)
        click(timeline, x_of(timeline, 120), RULER_Y)
        assert frames == [(120,)] and timeline.current == 120

    def test_scrubbing_reports_each_frame_once(self, timeline):
        frames = recorded(timeline.frame_requested)
        places = [(x_of(timeline, frame), RULER_Y) for frame in (10, 20, 20, 30)]
        drag(timeline, *places, places[-1])
        assert frames == [(10,), (20,), (30,)]

    def test_dragging_past_the_end_stops_at_the_last_frame(self, timeline):
        frames = recorded(timeline.frame_requested)
        drag(timeline, (x_of(timeline, 190), RULER_Y), (5000, RULER_Y))
        assert frames[-1] == (199,)

    def test_being_told_the_frame_reports_nothing(self, timeline):
        frames = recorded(timeline.frame_requested)
        timeline.set_current(50)
        timeline.set_current(10_000)
        assert frames == [] and timeline.current == 199

    def test_the_view_follows_the_playhead(self, timeline):
        timeline.zoom_by(8, 0)
        timeline.set_current(150)
        start, stop = timeline.axis.visible_range()
        assert start <= 150 < stop

    def test_scrubbing_snaps_to_a_prompted_frame_nearby(self, timeline):
        timeline.set_lanes([lane(1, selected=True, tracked=slice(0, 200), prompted=[100])])
        frames = recorded(timeline.frame_requested)
        click(timeline, x_of(timeline, 101) - 1, RULER_Y)
        assert frames == [(100,)]

    def test_it_also_snaps_to_the_very_first_frame(self, timeline):
        timeline.set_lanes([lane(1, selected=True, tracked=slice(0, 200), prompted=[0])])
        frames = recorded(timeline.frame_requested)
        timeline.set_current(50)
        click(timeline, x_of(timeline, 1) - 1, RULER_Y)
        assert frames == [(0,)]


class TestLanes:
    def test_a_click_on_a_lane_selects_its_object_and_frame(self, timeline):
        timeline.set_lanes([lane(4), lane(9)])
        objects, frames = recorded(timeline.object_selected), recorded(timeline.frame_requested)
        click(timeline, x_of(timeline, 70), lane_y(1))
        assert objects == [(9,)] and frames == [(70,)]

    def test_a_click_on_a_name_only_selects(self, timeline):
        timeline.set_lanes([lane(4), lane(9)])
        objects, frames = recorded(timeline.object_selected), recorded(timeline.frame_requested)
        click(timeline, 40, lane_y(0))
        assert objects == [(4,)] and frames == []

    def test_the_selected_object_is_not_reported_again(self, timeline):
        timeline.set_lanes([lane(4, selected=True)])
        objects = recorded(timeline.object_selected)
        click(timeline, 40, lane_y(0))
        assert objects == []

    def test_one_of_several_selected_objects_can_be_selected_alone(self, timeline):
        timeline.set_lanes([lane(4, selected=True), lane(9, selected=True)])
        objects = recorded(timeline.object_selected)
        click(timeline, 40, lane_y(0))
        assert objects == [(4,)]

    def test_many_lanes_scroll_with_the_wheel(self, timeline):
        timeline.set_lanes([lane(number) for number in range(1, 31)])
        objects = recorded(timeline.object_selected)
        wheel(timeline, 400, lane_y(1), -5)
        click(timeline, 40, lane_y(0))
        assert objects == [(6,)]

    def test_a_lane_out_of_view_can_be_revealed(self, timeline):
        timeline.set_lanes([lane(number, selected=number == 25) for number in range(1, 31)])
        timeline.reveal_lane(25)
        top = timeline.verticalScrollBar().value()
        bottom = top + timeline.verticalScrollBar().pageStep()
        assert top <= 24 * 28 and bottom >= 25 * 28


class TestRange:
    def test_its_marks_can_be_dragged(self, timeline):
        timeline.set_range(20, 150)
        changes = recorded(timeline.range_changed)
        drag(timeline, (x_of(timeline, 20), RULER_Y), (x_of(timeline, 40), RULER_Y))
        drag(timeline, (x_of(timeline, 150), RULER_Y), (x_of(timeline, 120), RULER_Y))
        assert changes[-1] == (40, 120) and (40, 150) in changes
        assert timeline.range == (40, 120)

    def test_in_and_out_do_not_cross(self, timeline):
        timeline.set_range(20, 50)
        drag(timeline, (x_of(timeline, 20), RULER_Y), (x_of(timeline, 180), RULER_Y))
        assert timeline.range == (50, 50)

    def test_being_told_the_range_reports_nothing(self, timeline):
        changes = recorded(timeline.range_changed)
        timeline.set_range(5, None)
        assert changes == [] and timeline.range == (5, None)

    def test_the_rulers_menu_sets_and_clears_it(self, timeline):
        changes = recorded(timeline.range_changed)
        for index, frame in ((0, 30), (1, 90)):
            timeline.range_menu(frame).actions()[index].trigger()
        timeline.range_menu(10).actions()[2].trigger()
        assert changes == [(30, None), (30, 90), (None, None)]


class TestZoomAndKeys:
    def test_the_wheel_over_the_ruler_zooms_at_the_cursor(self, timeline):
        x = x_of(timeline, 100)
        wheel(timeline, x, RULER_Y, 4)
        assert timeline.axis.px_per_frame > 4
        assert timeline.axis.frame_at(x - 152) == 100

    def test_control_wheel_zooms_and_shift_wheel_scrolls_anywhere(self, timeline):
        wheel(timeline, 500, 100, 6, CONTROL)
        zoomed = timeline.axis
        assert zoomed.px_per_frame > 4
        wheel(timeline, 500, 100, -1, SHIFT)
        assert timeline.axis.first > zoomed.first
        assert timeline.axis.px_per_frame == zoomed.px_per_frame

    def test_a_double_click_on_the_ruler_shows_the_whole_clip(self, timeline):
        timeline.zoom_by(8)
        QTest.mouseDClick(timeline.viewport(), LEFT, NONE, QPoint(500, RULER_Y))
        assert timeline.axis.px_per_frame == 4

    def test_the_middle_button_pans(self, timeline):
        timeline.zoom_by(8, 400)
        before = timeline.axis.first
        drag(timeline, (600, 100), (500, 100), button=MIDDLE)
        assert timeline.axis.first == pytest.approx(before + 100 / timeline.axis.px_per_frame)

    def test_the_scroll_bar_moves_the_axis(self, timeline):
        timeline.zoom_by(4, 0)
        timeline.horizontalScrollBar().setValue(160)
        assert timeline.axis.first == pytest.approx(10)

    def test_arrows_step_through_frames_and_objects(self, timeline):
        timeline.set_lanes([lane(4, selected=True), lane(9)])
        frames, objects = recorded(timeline.frame_requested), recorded(timeline.object_selected)
        for key in (Qt.Key.Key_Right, Qt.Key.Key_Left, Qt.Key.Key_End, Qt.Key.Key_Home):
            QTest.keyClick(timeline, key)
        QTest.keyClick(timeline, Qt.Key.Key_Right, SHIFT)
        QTest.keyClick(timeline, Qt.Key.Key_Down)
        assert frames == [(1,), (0,), (199,), (0,), (10,)] and objects == [(9,)]

    def test_what_it_shows_is_told_to_assistive_tools(self, timeline):
        timeline.set_current(25)
        assert timeline.accessibleName() == "Timeline"
        assert "25" in timeline.accessibleDescription() and "00:02.50" in timeline.accessibleDescription()


class TestTips:
    def test_a_lane_tells_frame_time_source_and_confidence(self, timeline):
        shown = lane(4, tracked=slice(50, 100), edited=[60], absent=slice(100, 110))
        shown.confidence[70] = 0.3
        shown.reviewed[60] = True
        timeline.set_lanes([shown])

        def tip(frame):
            return timeline.tip_at(x_of(timeline, frame), lane_y(0))

        assert tip(80) == "Frame 80 · 00:08.00\nobject 4: tracked, confidence 0.90"
        assert tip(60) == "Frame 60 · 00:06.00\nobject 4: edited by hand, confidence 0.90, accepted"
        assert tip(70).endswith("tracked, confidence 0.30 (low)")
        assert tip(105).endswith("object 4: out of view")
        assert tip(10).endswith("object 4: not tracked yet")

    def test_a_mark_that_it_is_not_in_view_is_no_edit(self, timeline):
        gone = np.zeros(200, np.bool_)
        gone[60] = True
        timeline.set_lanes([dataclasses.replace(lane(4, edited=[60, 61]), gone=gone)])
        assert "marked as not in view" in timeline.tip_at(x_of(timeline, 60), lane_y(0))
        assert "edited by hand" in timeline.tip_at(x_of(timeline, 61), lane_y(0))

    def test_the_curve_tells_of_every_selected_object(self, timeline):
        timeline.set_lanes([lane(n, selected=n != 2, tracked=slice(0, 200)) for n in (1, 2, 3)])
        text = timeline.tip_at(x_of(timeline, 80), timeline.viewport().height() - 20)
        assert [line.split(":")[0] for line in text.splitlines()[1:]] == ["object 1", "object 3"]

    def test_the_strip_tells_whether_features_are_ready(self, timeline):
        encoded = np.zeros(200, np.bool_)
        encoded[:50] = True
        timeline.set_encoded(encoded)
        assert timeline.tip_at(x_of(timeline, 10), 31).endswith("Features are ready")
        assert timeline.tip_at(x_of(timeline, 60), 31).endswith("Features not computed yet")


class TestPainting:
    def test_presence_is_drawn_in_the_objects_colour_where_there_is_a_mask(self, timeline):
        timeline.set_lanes([lane(1, tracked=slice(50, 100))])
        image = timeline.viewport().grab().toImage()
        inside = image.pixelColor(x_of(timeline, 75), lane_y(0) + 4)
        outside = image.pixelColor(x_of(timeline, 120), lane_y(0) + 4)
        assert inside.red() > inside.green() + 60
        assert outside == QColor(theme.current().surface)
        boundary = [image.pixelColor(152 + 4 * 50 + dx, lane_y(0) + 4) == outside for dx in range(-3, 4)]
        assert boundary == [True, True, True, False, False, False, False]

    def test_out_of_view_is_a_thin_line(self, timeline):
        timeline.set_lanes([lane(1, absent=slice(50, 100))])
        image = timeline.viewport().grab().toImage()
        ground = QColor(theme.current().surface)
        assert image.pixelColor(x_of(timeline, 75), lane_y(0)) != ground
        assert image.pixelColor(x_of(timeline, 75), lane_y(0) + 5) == ground

    def test_a_low_confidence_is_marked_above_the_lane(self, timeline):
        shown = lane(1, tracked=slice(0, 200))
        shown.confidence[80:90] = 0.2
        timeline.set_lanes([shown])
        image = timeline.viewport().grab().toImage()
        rows = range(lane_y(0) - 13, lane_y(0) - 8)
        warning = QColor(theme.current().warning)
        assert any(image.pixelColor(x_of(timeline, 85), y) == warning for y in rows)
        assert not any(image.pixelColor(x_of(timeline, 95), y) == warning for y in rows)

    def test_the_curve_dips_with_the_confidence_of_the_selected_object(self, timeline):
        shown = lane(1, selected=True, tracked=slice(0, 200))
        shown.confidence[100:140] = 0.2
        timeline.set_lanes([shown])
        image = timeline.viewport().grab().toImage()

        def height_at(frame):
            x, line = x_of(timeline, frame), QColor("#e02020")
            bottom = timeline.viewport().height()
            distance = [
                abs(image.pixelColor(x, y).red() - line.red()) + abs(image.pixelColor(x, y).green() - 32)
                for y in range(bottom - 46, bottom)
            ]
            return 46 - int(np.argmin(distance))

        assert height_at(50) > height_at(120) + 15

    def test_the_playhead_moves_without_leaving_a_trace(self, timeline):
        timeline.set_lanes([lane(1, tracked=slice(50, 100))])
        timeline.set_current(20)
        before = timeline.viewport().grab().toImage()
        timeline.set_current(90)
        assert timeline.viewport().grab().toImage() != before
        timeline.set_current(20)
        assert timeline.viewport().grab().toImage() == before

    def test_an_encoded_frame_shows_on_the_strip(self, timeline):
        encoded = np.zeros(200, np.bool_)
        encoded[:50] = True
        timeline.set_encoded(encoded)
        assert pixel(timeline, x_of(timeline, 20), 31) != pixel(timeline, x_of(timeline, 80), 31)

    def test_a_clip_without_frames_and_one_with_a_single_frame_paint(self, timeline):
        timeline.set_clip(0, 25.0)
        timeline.viewport().grab()
        click(timeline, 400, RULER_Y)
        timeline.set_clip(1, 25.0)
        timeline.set_lanes([lane(1, count=1, selected=True, prompted=[0])])
        timeline.set_encoded(np.ones(1, np.bool_))
        image = timeline.viewport().grab().toImage()
        assert image.pixelColor(155, lane_y(0) + 5) != QColor(theme.current().surface)
