"""The timeline's axis, columns and geometry, without a window."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ui.timeline.columns import bins, lane_columns, thinned
from app.ui.timeline.layout import Layout, Part
from app.ui.timeline.time_axis import MAX_PX_PER_FRAME, TimeAxis, format_time, frames_near, ticks
from app.ui.timeline.view_model import Cell, Lane

counts = st.integers(1, 30_000)
widths = st.floats(50, 3000)


@st.composite
def axes(draw):
    axis = TimeAxis(draw(counts), draw(widths)).fitted()
    return axis.zoomed(draw(st.floats(1, 400)), draw(st.floats(0, 1)) * axis.width)


class TestAxis:
    @given(axes(), st.floats(0, 1))
    def test_a_frame_is_found_in_the_middle_of_its_cell(self, axis, share):
        frame = min(int(share * axis.frame_count), axis.frame_count - 1)
        assert axis.frame_at(axis.center_of(frame)) == frame

    @given(axes(), st.floats(0.2, 5), st.floats(0, 1))
    def test_zooming_keeps_the_frame_under_the_cursor_away_from_the_ends(self, axis, factor, share):
        x = share * axis.width
        zoomed = axis.zoomed(factor, x)
        under = axis.first + x / axis.px_per_frame
        last = zoomed.frame_count - zoomed.visible_frames
        if 1e-6 < zoomed.first < last - 1e-6:
            assert zoomed.first + x / zoomed.px_per_frame == pytest.approx(under, abs=1e-6 * axis.frame_count)

    @given(axes(), st.floats(0.001, 1000), st.floats(-1e6, 1e6))
    def test_no_more_than_the_clip_is_ever_shown(self, axis, factor, move):
        for moved in (axis.zoomed(factor, 10), axis.scrolled(move), axis.fitted(), axis.resized(777)):
            assert moved.fit_px_per_frame * (1 - 1e-9) <= moved.px_per_frame <= MAX_PX_PER_FRAME
            assert moved.first >= 0
            assert moved.first + moved.visible_frames <= max(moved.frame_count, moved.visible_frames) + 1e-6

    @given(axes(), st.floats(0, 1))
    def test_showing_brings_a_frame_into_view_and_rests_otherwise(self, axis, share):
        frame = min(int(share * axis.frame_count), axis.frame_count - 1)
        shown = axis.showing(frame)
        if axis.visible_frames >= 1:
            assert shown.x_of(frame) >= -1e-6 and shown.x_of(frame + 1) <= axis.width + 1e-6
        assert shown.showing(frame).first == pytest.approx(shown.first, abs=1e-6)

    def test_a_clip_in_full_view_stays_in_full_view_when_resized(self):
        axis = TimeAxis(300, 600).fitted().resized(900)
        assert (axis.px_per_frame, axis.first) == (3.0, 0.0)

    @settings(deadline=None)
    @given(axes())
    def test_labelled_ticks_do_not_crowd_and_cover_the_view(self, axis):
        found = ticks(axis, 64)
        major = [tick.frame for tick in found if tick.is_major]
        assert all((b - a) * axis.px_per_frame >= 64 for a, b in pairwise(major))
        assert len(found) <= axis.width / 5 + 2 or axis.px_per_frame * 1000 < 5
        assert all(frame < axis.frame_count for frame in major)

    @pytest.mark.parametrize(
        ("frame", "fps", "text"),
        [
            (0, 30, "00:00.00"),
            (128, 30, "00:04.27"),
            (1799, 30, "00:59.97"),
            (5999, 100, "00:59.99"),
            (108_000, 30, "1:00:00.00"),
            (5, 0, "00:00.00"),
        ],
    )
    def test_times_read_as_minutes_seconds_hundredths(self, frame, fps, text):
        assert format_time(frame, fps) == text

    def test_the_nearest_marked_frame_is_found_within_reach(self):
        axis = TimeAxis(1000, 500, 0.5)
        assert frames_near([100, 110], axis, axis.center_of(104), 4) == 100
        assert frames_near([100, 110], axis, axis.center_of(150), 4) is None
        assert frames_near([], axis, 5, 4) is None


def lane_of(cells, confidence=None, reviewed=None, **more):
    count = len(cells)
    return Lane(
        1,
        "dog",
        "#800000",
        np.asarray(cells, np.uint8),
        np.full(count, np.nan, np.float32) if confidence is None else np.asarray(confidence, np.float32),
        np.zeros(count, np.bool_) if reviewed is None else np.asarray(reviewed, np.bool_),
        **more,
    )


class TestColumns:
    @settings(deadline=None)
    @given(axes(), st.sampled_from([1.0, 1.5, 2.0]), st.integers(0, 2**32 - 1))
    def test_every_visible_frame_counts_in_exactly_the_column_over_it(self, axis, ratio, seed):
        rng = np.random.default_rng(seed)
        cells = (rng.random(axis.frame_count) < 0.1) * rng.integers(1, 6, axis.frame_count)
        gone = (cells == 4) & (rng.random(axis.frame_count) < 0.5)
        lane = lane_of(cells, reviewed=rng.random(axis.frame_count) < 0.05, gone=gone)
        columns = bins(axis, ratio)
        reduced = lane_columns(lane, columns, 0.5)
        starts = columns.starts
        assert columns.count <= axis.width * ratio + 1
        assert (np.diff(starts) >= 0).all() and columns.stop <= axis.frame_count
        stops = np.append(starts[1:], columns.stop)
        for index in range(0, columns.count, max(columns.count // 25, 1)):
            part = slice(starts[index], starts[index] + 1 if columns.is_gather else stops[index])
            assert reduced.kind[index] == lane.cells[part].max()
            assert reduced.present[index] == pytest.approx(((cells >= 2) & ~gone)[part].mean(), abs=1e-5)
            assert reduced.absent[index] == pytest.approx(((cells == 1) | gone)[part].mean(), abs=1e-5)
            assert reduced.reviewed[index] == pytest.approx(lane.reviewed[part].mean(), abs=1e-5)
        if not columns.is_gather:
            first, last = axis.visible_range()
            assert starts[0] == first and columns.stop >= last - 1

    def test_a_single_prompted_frame_of_a_long_clip_is_not_lost(self):
        cells = np.full(18_000, Cell.TRACKED, np.uint8)
        cells[12_345] = Cell.PROMPTED
        axis = TimeAxis(18_000, 900).fitted()
        reduced = lane_columns(lane_of(cells), bins(axis, 1.0), 0.5)
        assert (reduced.kind == Cell.PROMPTED).sum() == 1

    def test_a_short_dip_of_a_long_clip_is_not_lost(self):
        confidence = np.full(18_000, 0.95, np.float32)
        confidence[7_000] = 0.2
        confidence[:100] = np.nan
        columns = bins(TimeAxis(18_000, 900).fitted(), 1.0)
        reduced = lane_columns(lane_of(np.full(18_000, 2), confidence), columns, 0.5)
        assert reduced.low.sum() == 1
        assert np.nanmin(columns.minimum(confidence)) == pytest.approx(0.2)
        assert np.isnan(columns.minimum(confidence)[0])

    def test_no_frames_make_no_columns(self):
        assert bins(TimeAxis(0, 500), 2.0).count == 0

    @settings(deadline=None)
    @given(axes(), st.integers(0, 2**32 - 1))
    def test_thinned_marks_keep_their_distance_but_leave_none_out_alone(self, axis, seed):
        rng = np.random.default_rng(seed)
        frames = np.flatnonzero(rng.random(axis.frame_count) < 0.05)
        kept = thinned(frames, axis, 8.0)
        start, stop = axis.visible_range()
        seen = frames[(frames >= start) & (frames < stop)]
        assert set(kept) <= set(seen)
        assert all(np.abs(kept - frame).min() * axis.px_per_frame <= 8.0 for frame in seen)


class TestLayout:
    axis = TimeAxis(100, 648, 6.48)

    def place(self, x, y, marks=(None, None), lanes=3, scroll=0.0, height=200.0):
        return Layout(800.0, height, lanes, True, scroll).place(x, y, self.axis, marks)

    def test_every_part_is_where_it_is_drawn(self):
        layout = Layout(800.0, 200.0, 3, True)
        assert self.place(400, 10).part is Part.RULER
        assert self.place(400, layout.strip.center().y()).part is Part.STRIP
        assert self.place(400, layout.confidence.center().y()).part is Part.CONFIDENCE
        for index in range(3):
            middle = layout.lane_row(index).center().y()
            assert (self.place(400, middle).part, self.place(400, middle).lane) == (Part.LANE, index)
            assert self.place(20, middle).part is Part.LANE_NAME
        assert self.place(900, 10).part is Part.NOTHING

    def test_scrolling_moves_the_lanes(self):
        layout = Layout(800.0, 200.0, 30, True)
        y = layout.lane_row(0).center().y()
        assert self.place(400, y, lanes=30, scroll=10 * layout.lane_height).lane == 10

    def test_range_marks_can_be_grabbed_at_their_frames(self):
        left = Layout(800.0, 200.0, 3, True).left
        marks = (20, 60)
        assert self.place(left + self.axis.x_of(20) + 2, 10, marks).part is Part.RANGE_IN
        assert self.place(left + self.axis.x_of(61) - 2, 10, marks).part is Part.RANGE_OUT
        assert self.place(left + self.axis.x_of(40), 10, marks).part is Part.RULER

    def test_without_room_the_curve_goes_first(self):
        assert Layout(800.0, 70.0, 3, True).confidence.height() == 0
        assert Layout(800.0, 200.0, 3, False).confidence.height() == 0
