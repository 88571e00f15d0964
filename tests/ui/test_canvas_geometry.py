"""The canvas's arithmetic: transform, hit-testing, brush and outlines, without a window."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ui.canvas.brush import StrokeBuilder, apply_stroke, resized, stamp_capsule
from app.ui.canvas.contours import outline
from app.ui.canvas.hit_test import (
    BoxHit,
    Handle,
    PointHit,
    clipped_box,
    dragged_box,
    find_mark,
    object_at,
    ordered_box,
)
from app.ui.canvas.view_model import BrushStroke, MaskLayer, PromptMark
from app.ui.canvas.view_transform import KEEP_VISIBLE, MAX_SCALE, MIN_SCALE, ViewTransform, centred, fitted

scales = st.floats(MIN_SCALE, MAX_SCALE)
offsets = st.floats(-5000, 5000)
positions = st.floats(-3000, 3000)
transforms = st.builds(ViewTransform, scales, offsets, offsets)
sides = st.integers(1, 4000)


class TestViewTransform:
    @given(transforms, positions, positions)
    def test_going_to_the_widget_and_back_is_the_identity(self, transform, x, y):
        assert transform.to_video(*transform.to_widget(x, y)) == pytest.approx((x, y), abs=1e-6)

    @given(transforms, st.floats(0.1, 10), positions, positions)
    def test_zooming_keeps_the_point_under_the_cursor(self, transform, factor, x, y):
        before = transform.to_video(x, y)
        zoomed = transform.zoomed(factor, x, y)
        assert zoomed.to_widget(*before) == pytest.approx((x, y), abs=1e-4)
        assert MIN_SCALE <= zoomed.scale <= MAX_SCALE

    @given(sides, sides, st.floats(50, 3000), st.floats(50, 3000))
    def test_a_fitted_frame_is_centred_and_wholly_in_view(self, width, height, view_width, view_height):
        transform = fitted((width, height), (view_width, view_height))
        if transform.scale > MIN_SCALE:
            x0, y0 = transform.to_widget(0, 0)
            x1, y1 = transform.to_widget(width, height)
            assert x0 >= -1e-6 and y0 >= -1e-6 and x1 <= view_width + 1e-6 and y1 <= view_height + 1e-6
            assert x0 == pytest.approx(view_width - x1, abs=1e-6)
            assert y0 == pytest.approx(view_height - y1, abs=1e-6)

    @given(transforms, sides, sides, st.floats(50, 3000), st.floats(50, 3000))
    def test_some_of_the_picture_always_stays_in_view(
        self, transform, width, height, view_width, view_height
    ):
        kept = transform.kept_in_view((width, height), (view_width, view_height))
        x0, y0 = kept.to_widget(0, 0)
        x1, y1 = kept.to_widget(width, height)
        seen_x, seen_y = min(x1, view_width) - max(x0, 0), min(y1, view_height) - max(y0, 0)
        assert seen_x >= min(KEEP_VISIBLE, x1 - x0, view_width) - 1e-6
        assert seen_y >= min(KEEP_VISIBLE, y1 - y0, view_height) - 1e-6

    def test_centred_puts_the_middle_in_the_middle(self):
        assert centred((100, 50), (400, 300), 2.0).to_widget(50, 25) == (200, 150)


class TestHitTest:
    transform = ViewTransform(2.0, 10.0, 20.0)
    mark = PromptMark(7, "#800000", ((30.0, 30.0), (60.0, 40.0)), (1, 0), (20.0, 10.0, 100.0, 80.0))

    def hit(self, x, y, active=None):
        return find_mark([self.mark], self.transform, *self.transform.to_widget(x, y), active)

    def test_a_disc_is_found_at_its_middle_and_near_it(self):
        assert self.hit(60, 40) == PointHit(7, 1)
        assert self.hit(63, 40) == PointHit(7, 1)
        assert self.hit(70, 40) is None

    @pytest.mark.parametrize(
        ("x", "y", "handle"),
        [
            (20, 10, Handle.NW),
            (100, 10, Handle.NE),
            (100, 80, Handle.SE),
            (20, 80, Handle.SW),
            (60, 10, Handle.N),
            (60, 80, Handle.S),
            (20, 50, Handle.W),
            (100, 50, Handle.E),
        ],
    )
    def test_every_part_of_the_box_can_be_grabbed(self, x, y, handle):
        assert self.hit(x, y) == BoxHit(7, handle)

    def test_marks_of_another_object_do_not_react(self):
        assert self.hit(60, 40, active=8) is None
        assert self.hit(60, 40, active=7) == PointHit(7, 1)

    @given(
        st.tuples(positions, positions, positions, positions), st.sampled_from(Handle), positions, positions
    )
    def test_a_dragged_box_is_ordered_and_touches_the_pointer(self, corners, handle, x, y):
        x0, y0, x1, y1 = dragged_box(ordered_box(*corners), handle, x, y)
        assert x0 <= x1 and y0 <= y1
        assert x in (x0, x1) or not set("we") & set(handle.value)
        assert y in (y0, y1) or not set("ns") & set(handle.value)

    def test_a_box_is_cut_at_the_frame_and_dropped_when_nothing_is_left(self):
        assert clipped_box((-10, 5, 30, 500), (100, 50)) == (0, 5, 30, 50)
        assert clipped_box((-10, 5, 0.5, 500), (100, 50)) is None

    def test_the_selected_object_is_picked_before_the_topmost(self):
        mask = np.ones((4, 4), np.uint8)
        layers = [MaskLayer(1, mask, "#800000"), MaskLayer(2, mask, "#008000")]
        assert object_at(layers, 1.5, 1.5) == 2
        layers[0] = MaskLayer(1, mask, "#800000", selected=True)
        assert object_at(layers, 1.5, 1.5) == 1
        assert object_at(layers, 4.0, 1.5) is None
        assert object_at([MaskLayer(1, np.zeros((4, 4), np.uint8), "#800000")], 1.5, 1.5) is None


def distance_to_segment(x, y, a, b):
    length = math.dist(a, b)
    if length**2 == 0:
        return math.dist((x, y), a)
    t = max(0, min(1, ((x - a[0]) * (b[0] - a[0]) + (y - a[1]) * (b[1] - a[1])) / length**2))
    return math.dist((x, y), (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))


class TestBrush:
    points = st.tuples(st.floats(-10, 40), st.floats(-10, 30))

    @settings(deadline=None)
    @given(points, points, st.floats(0.5, 12))
    def test_a_capsule_is_every_pixel_whose_centre_is_within_the_radius(self, a, b, radius):
        mask = np.zeros((20, 30), np.uint8)
        stamp_capsule(mask, a, b, radius)
        for y in range(20):
            for x in range(30):
                distance = distance_to_segment(x + 0.5, y + 0.5, a, b)
                if abs(distance - radius) > 1e-9:
                    assert mask[y, x] == (distance < radius)

    @settings(deadline=None)
    @given(st.lists(points, min_size=1, max_size=6), st.floats(1, 8))
    def test_a_stroke_covers_its_ends_and_reports_a_tight_enough_patch(self, path, radius):
        builder = StrokeBuilder((20, 30), erase=False)
        for x, y in path:
            builder.add(x, y, radius)
        stroke = builder.finish(radius)
        if stroke is None:
            return
        x0, y0, x1, y1 = stroke.patch_xyxy
        assert 0 <= x0 < x1 <= 30 and 0 <= y0 < y1 <= 20
        assert stroke.patch_hw.shape == (y1 - y0, x1 - x0) and stroke.patch_hw.dtype == np.uint8
        whole = apply_stroke(None, (20, 30), stroke)
        for x, y in (path[0], path[-1]):
            if 0 <= x < 30 and 0 <= y < 20:
                column, row = int(x), int(y)
                if math.dist((column + 0.5, row + 0.5), (x, y)) < radius - 1e-9:
                    assert whole[row, column] == 1

    def test_a_fast_stroke_has_no_gaps(self):
        builder = StrokeBuilder((40, 200), erase=False)
        for x in (5, 100, 195):
            builder.add(x, 20, 3)
        stroke = builder.finish(3)
        assert stroke is not None
        assert apply_stroke(None, (40, 200), stroke)[20, 5:195].all()

    def test_a_stroke_beside_the_frame_is_nothing(self):
        builder = StrokeBuilder((40, 40), erase=False)
        builder.add(-50, -50, 3)
        assert builder.finish(3) is None

    def test_applying_a_stroke_leaves_the_old_mask_alone(self):
        old = np.ones((6, 6), np.uint8)
        patch = np.array([[1, 0], [1, 1]], np.uint8)
        erased = apply_stroke(old, (6, 6), BrushStroke((2, 1, 4, 3), patch, erase=True))
        assert old.all()
        expected = np.ones((6, 6), np.uint8)
        expected[1, 2] = expected[2, 2] = expected[2, 3] = 0
        assert (erased == expected).all()

    @given(st.floats(0.5, 512))
    def test_a_larger_brush_is_larger_up_to_the_limit(self, radius):
        assert resized(radius, 1) > radius or radius > 456
        assert resized(radius, -1) < radius or radius == 0.5


def inside_rings(rings, x, y):
    """Odd-even rule by crossings of a ray to the left, point by point."""
    crossings = 0
    for ring in rings:
        for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0)):
            if (ay > y) != (by > y) and ax + (y - ay) * (bx - ax) / (by - ay) < x:
                crossings += 1
    return crossings % 2 == 1


class TestOutline:
    @settings(deadline=None, max_examples=60)
    @given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**49 - 1))
    def test_the_exact_rings_enclose_the_mask_to_the_edges_of_its_pixels(self, height, width, bits):
        mask = np.array([(bits >> i) & 1 for i in range(height * width)], np.uint8).reshape(height, width)
        traced = outline(mask)
        for y in range(-1, height + 1):
            for x in range(-1, width + 1):
                expected = 0 <= y < height and 0 <= x < width and bool(mask[y, x])
                for dx, dy in ((0.04, 0.05), (0.96, 0.05), (0.5, 0.5), (0.04, 0.95), (0.96, 0.95)):
                    assert inside_rings(traced.exact, x + dx, y + dy) == expected
                assert inside_rings(traced.smooth, x + 0.5, y + 0.501) == expected

    def test_a_rectangle_has_four_corners(self):
        mask = np.zeros((10, 12), np.uint8)
        mask[2:5, 3:9] = 1
        traced = outline(mask)
        assert traced.box_xyxy == (3, 2, 9, 5)
        assert {tuple(p) for p in traced.exact[0]} == {(3, 2), (9, 2), (9, 5), (3, 5)}

    def test_a_hole_is_a_ring_of_its_own(self):
        mask = np.ones((9, 9), np.uint8)
        mask[3:6, 3:6] = 0
        assert len(outline(mask).exact) == 2

    def test_an_empty_mask_has_no_rings(self):
        assert outline(np.zeros((5, 5), np.uint8)).exact == ()
