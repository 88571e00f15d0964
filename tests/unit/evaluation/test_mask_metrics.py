"""J and F against cases worked out by hand and against a slow, independent reading of their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcore.evaluation import boundary_f, region_similarity
from qcore.evaluation.metrics import outline, tolerance_pixels


def rectangle(y0: int, y1: int, x0: int, x1: int, size: tuple[int, int] = (480, 854)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def outline_by_definition(mask: np.ndarray) -> set[tuple[int, int]]:
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            inside_image = [(v, u) for v, u in neighbours if v < height and u < width]
            if any(bool(mask[v, u]) != bool(mask[y, x]) for v, u in inside_image):
                found.add((y, x))
    return found


def f_by_definition(predicted: np.ndarray, true: np.ndarray, reach: int) -> float:
    p, t = outline_by_definition(predicted), outline_by_definition(true)
    if not p and not t:
        return 1.0
    if not p or not t:
        return 0.0

    def share(of: set[tuple[int, int]], near: set[tuple[int, int]]) -> float:
        hits = sum(any((y - v) ** 2 + (x - u) ** 2 <= reach**2 for v, u in near) for y, x in of)
        return hits / len(of)

    precision, recall = share(p, t), share(t, p)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


SMALL_MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=150, deadline=None)
@given(mask=SMALL_MASKS)
def test_the_outline_is_where_a_pixel_differs_from_east_south_or_south_east(mask: np.ndarray) -> None:
    assert {(int(y), int(x)) for y, x in np.argwhere(outline(mask))} == outline_by_definition(mask)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), reach=st.integers(1, 4))
def test_f_equals_its_definition_on_small_masks(data: st.DataObject, reach: int) -> None:
    predicted = data.draw(SMALL_MASKS)
    true = data.draw(hnp.arrays(np.bool_, predicted.shape))
    assert boundary_f(predicted, true, reach) == pytest.approx(f_by_definition(predicted, true, reach))


def test_f_equals_its_definition_on_blobs_of_the_real_tolerance() -> None:
    rng = np.random.default_rng(3)
    for _ in range(3):
        size = (60, 90)
        y, x = np.mgrid[: size[0], : size[1]]
        blobs = []
        for _ in range(2):
            cy, cx, ry, rx = rng.uniform(10, 50), rng.uniform(15, 75), rng.uniform(5, 25), rng.uniform(5, 35)
            blobs.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1)
        reach = math.ceil(0.008 * math.sqrt(60**2 + 90**2))
        assert tolerance_pixels(size) == reach == 1
        assert boundary_f(*blobs) == pytest.approx(f_by_definition(*blobs, reach))


def test_j_of_two_overlapping_rectangles() -> None:
    assert region_similarity(rectangle(100, 200, 100, 300), rectangle(100, 200, 200, 400)) == 1 / 3


def test_j_counts_every_non_zero_value_as_set() -> None:
    assert region_similarity(rectangle(0, 10, 0, 10) * 255, rectangle(0, 10, 0, 10)) == 1


def test_empty_masks_agree_and_an_empty_one_disagrees_with_any_other() -> None:
    empty, some = rectangle(0, 0, 0, 0), rectangle(10, 40, 10, 40)
    assert region_similarity(empty, empty) == boundary_f(empty, empty) == 1
    assert region_similarity(empty, some) == boundary_f(empty, some) == 0
    assert region_similarity(some, empty) == boundary_f(some, empty) == 0


def test_a_mask_that_fills_the_image_has_no_outline() -> None:
    full = rectangle(0, 480, 0, 854)
    assert not outline(full).any()
    assert boundary_f(full, full) == 1
    assert boundary_f(full, rectangle(10, 400, 10, 400)) == 0


def test_a_single_pixel_has_an_outline_of_four() -> None:
    pixel = rectangle(5, 6, 7, 8, (20, 20))
    assert {(int(y), int(x)) for y, x in np.argwhere(outline(pixel))} == {(4, 6), (4, 7), (5, 6), (5, 7)}
    corner = rectangle(0, 1, 0, 1, (20, 20))
    assert np.argwhere(outline(corner)).tolist() == [[0, 0]]


def test_the_tolerance_of_common_sizes() -> None:
    assert tolerance_pixels((480, 854)) == 8
    assert tolerance_pixels((1080, 1920)) == 18
    assert tolerance_pixels((720, 1280)) == 12


def test_a_shift_within_the_tolerance_is_perfect_and_one_pixel_more_is_not() -> None:
    mask = rectangle(100, 200, 100, 300)
    assert boundary_f(np.roll(mask, 8, axis=1), mask) == 1
    assert boundary_f(np.roll(mask, 9, axis=1), mask) < 1


def test_f_of_a_shift_beyond_the_tolerance_by_hand() -> None:
    # 100 x 200 pixels, moved right by 50. Either outline is a ring of 2 * 101 + 2 * 199 = 600 pixels.
    # Of the moved ring, the long sides overlap the true ones except for the last 50 columns beyond the
    # true right side, of which those within 8 pixels still match; the moved left side lies inside: no match
    # except near the long sides (8 rows at the top, 8 at the bottom); the moved right side does not match.
    true = rectangle(100, 200, 100, 300)
    moved = np.roll(true, 50, axis=1)
    ring = outline(moved)
    assert ring.sum() == 600
    horizontal = 2 * (300 + 8 - 150 + 1)
    matching = horizontal - 2 + 2 * 8
    hits = sum(
        bool(((np.argwhere(outline(true)) - position) ** 2).sum(axis=1).min() <= 64)
        for position in np.argwhere(ring)
    )
    precision = hits / 600
    assert abs(hits - matching) <= 2
    assert boundary_f(moved, true) == pytest.approx(precision), (
        "the case is symmetric: recall equals precision"
    )


def test_masks_of_different_shapes_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        region_similarity(np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="cannot be compared"):
        boundary_f(np.zeros((3, 4)), np.zeros((4, 3)))
