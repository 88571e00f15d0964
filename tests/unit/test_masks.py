"""The RLE codec against a brute-force run-length encoder and hostile input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcore import masks

small_masks = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 1)
)


def brute_force_runs(mask_hw: np.ndarray) -> list[int]:
    runs, value, length = [], 0, 0
    for pixel in mask_hw.flatten(order="F").tolist():
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    return [*runs, length]


@given(small_masks)
def test_encoding_holds_the_runs_of_a_brute_force_encoder(mask_hw: np.ndarray) -> None:
    rle = masks.encode(mask_hw)
    assert masks.decompress_counts(rle.counts) == brute_force_runs(mask_hw)
    assert np.array_equal(masks.decode(rle), mask_hw)
    assert rle.area == int(mask_hw.sum())


@given(small_masks)
def test_coco_json_round_trip_also_from_plain_runs(mask_hw: np.ndarray) -> None:
    rle = masks.encode(mask_hw)
    assert masks.from_coco(masks.to_coco(rle)) == rle
    plain = {"size": list(mask_hw.shape), "counts": brute_force_runs(mask_hw)}
    assert np.array_equal(masks.decode(masks.from_coco(plain)), mask_hw)


def test_documented_example_of_column_major_runs() -> None:
    mask = np.zeros((3, 4), np.uint8)
    mask[:2, 1] = 1
    assert masks.decompress_counts(masks.encode(mask).counts) == [3, 2, 7]


def plain_decompress(counts: bytes) -> list[int] | None:
    """COCO's decompression, number by number; None where the text is impossible."""
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        chunk = byte - 48
        if not 0 <= chunk < 64:
            return None
        value |= (chunk & 0x1F) << shift
        shift += 5
        if chunk & 0x20:
            continue
        value -= (1 << shift) if chunk & 0x10 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if not shift and all(run >= 0 for run in runs) else None


@given(st.lists(st.integers(48, 111), max_size=6).map(bytes) | st.binary(max_size=6))
def test_decompression_agrees_with_one_number_at_a_time(counts: bytes) -> None:
    try:
        runs = masks.decompress_counts(counts)
    except masks.MaskError:
        assert plain_decompress(counts) is None
    else:
        assert runs == plain_decompress(counts)


@given(small_masks, small_masks)
def test_iou_is_intersection_over_union(a: np.ndarray, b: np.ndarray) -> None:
    height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
    a, b = a[:height, :width], b[:height, :width]
    union = int((a | b).sum())
    expected = 1.0 if union == 0 else int((a & b).sum()) / union
    assert masks.iou(masks.encode(a), masks.encode(b)) == pytest.approx(expected)


@given(st.binary(max_size=40))
def test_hostile_counts_are_refused_or_fill_the_mask(counts: bytes) -> None:
    try:
        rle = masks.from_coco({"size": [5, 7], "counts": counts})
    except masks.MaskError:
        return
    assert masks.decode(rle).shape == (5, 7)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"size": [3, 4]},
        {"size": [0, 4], "counts": []},
        {"size": [float("inf"), 4], "counts": []},
        {"size": [3, 10**9], "counts": [3 * 10**9]},
        {"size": [3, 4], "counts": [3, 2, 6]},
        {"size": [3, 4], "counts": [13, -1]},
        {"size": [3, 4], "counts": [3.0, 9]},
        {"size": [3, 4], "counts": "\N{SNOWMAN}"},
        {"size": [3, 4], "counts": None},
    ],
)
def test_malformed_rle_is_refused(value: dict) -> None:
    with pytest.raises(masks.MaskError):
        masks.from_coco(value)


def test_a_mask_of_another_size_is_refused() -> None:
    rle = masks.to_coco(masks.empty((3, 4)))
    with pytest.raises(masks.MaskError, match="4 x 3"):
        masks.from_coco(rle, expected_size=(4, 4))
