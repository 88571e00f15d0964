"""The session's masks against upstream's `SAM2VideoPredictor`, frame for frame, on the same weights.

Upstream is built with ``add_all_frames_to_correct_as_cond``; prompts are given before propagation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, HEIGHT, WIDTH, Clip, Upstream, disc_center, square_corner

from qcore import masks
from qcore.tracking.memory_plan import ConditioningRule
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Direction, MaskResult, Prompt

MakeUpstream = Callable[..., Upstream]
DISC, SQUARE = 1, 2


def square_box(frame_index: int) -> tuple[float, float, float, float]:
    x, y = square_corner(frame_index)
    return x - 1.0, y - 1.0, x + 27.0, y + 27.0


def disc_mask(frame_index: int) -> npt.NDArray[np.bool_]:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    cx, cy = disc_center(frame_index)
    return (xs - cx) ** 2 + (ys - cy) ** 2 < 18**2


def worst_iou(results: Iterable[MaskResult], expected: dict[tuple[int, int], Any]) -> float:
    found = {(r.frame_index, r.object_id): r.rle for r in results}
    assert found.keys() == expected.keys()
    assert any(mask.any() and not mask.all() for mask in expected.values())
    return min(masks.iou(found[key], masks.encode(expected[key])) for key in expected)


def test_clicks_and_boxes_of_two_objects_track_as_upstream_both_ways(
    any_model: SAM2Base, clip: Clip, upstream: MakeUpstream
) -> None:
    start = 3
    oracle = upstream(any_model)
    oracle.prompt(start, DISC, points=[disc_center(start), (3.0, 3.0)], labels=[1, 0])
    oracle.prompt(start, SQUARE, box=square_box(start))
    oracle.propagate(start)
    oracle.propagate(start, reverse=True)

    session = VideoSession(any_model, clip.source())
    session.set_prompt(Prompt(start, DISC, (disc_center(start), (3.0, 3.0)), (1, 0)))
    session.set_prompt(Prompt(start, SQUARE, box_xyxy=square_box(start)))
    results = list(session.propagate(direction=Direction.BOTH))

    assert worst_iou(results, oracle.masks) >= 0.999


def test_a_given_mask_tracks_as_upstream(any_model: SAM2Base, clip: Clip, upstream: MakeUpstream) -> None:
    oracle = upstream(any_model)
    oracle.prompt(0, DISC, mask=disc_mask(0))
    oracle.propagate(0)

    session = VideoSession(any_model, clip.source())
    given = masks.encode(disc_mask(0))
    session.set_prompt(Prompt(0, DISC, mask=given))
    results = list(session.propagate())

    # Upstream returns the mask through its quarter-resolution logits; here it comes back as it was given.
    assert results[0].rle == given
    del oracle.masks[0, DISC]
    assert worst_iou(results[1:], oracle.masks) >= 0.999


@pytest.mark.parametrize("with_box", [False, True])
def test_clicks_one_after_the_other_refine_as_upstream(
    embedded_model: SAM2Base, clip: Clip, upstream: MakeUpstream, with_box: bool
) -> None:
    box = square_box(2) if with_box else None
    x, y = square_corner(2)
    clicks = [((x + 4.0, y + 4.0), 1), ((x + 20.0, y + 20.0), 1), ((x + 40.0, y + 10.0), 0)]
    oracle = upstream(embedded_model)
    session = VideoSession(embedded_model, clip.source())
    if box is not None:
        oracle.prompt(2, SQUARE, box=box)
        session.add_box(2, SQUARE, box)
    for point, label in clicks:
        expected = oracle.prompt(2, SQUARE, points=[point], labels=[label], clear_old_points=False)
        result = session.add_points(2, SQUARE, [point], [label])
        assert masks.iou(result.rle, masks.encode(expected)) >= 0.999


def test_several_keyframes_track_as_upstream_when_later_ones_may_be_attended(
    embedded_model: SAM2Base, clip: Clip, upstream: MakeUpstream
) -> None:
    oracle = upstream(embedded_model)
    session = VideoSession(
        embedded_model, clip.source(), conditioning=ConditioningRule(max_frames=None, attend_future=True)
    )
    for t in (0, 4, 6):
        oracle.prompt(t, SQUARE, box=square_box(t))
        session.set_prompt(Prompt(t, SQUARE, box_xyxy=square_box(t)))
    oracle.propagate(0)
    assert worst_iou(session.propagate(), oracle.masks) >= 0.999


def test_several_keyframes_behind_a_frame_track_as_upstream_by_default(
    embedded_model: SAM2Base, clip: Clip, upstream: MakeUpstream
) -> None:
    keys = (0, 1, 2, 3)
    oracle = upstream(embedded_model)
    session = VideoSession(embedded_model, clip.source())
    for t in keys:
        oracle.prompt(t, SQUARE, box=square_box(t))
        session.set_prompt(Prompt(t, SQUARE, box_xyxy=square_box(t)))
    oracle.propagate(3)
    results = list(session.propagate(start=3))
    assert [result.frame_index for result in results] == list(range(3, FRAME_COUNT))
    assert worst_iou(results, oracle.masks) >= 0.999


def test_a_correction_of_a_tracked_frame_sees_the_tracked_mask_and_the_memories_as_upstream(
    embedded_model: SAM2Base, clip: Clip, upstream: MakeUpstream
) -> None:
    x, y = square_corner(5)
    points, labels = [(x + 5.0, y + 5.0), disc_center(5)], [1, 0]
    oracle = upstream(embedded_model)
    oracle.prompt(0, SQUARE, box=square_box(0))
    oracle.propagate(0)
    expected = oracle.prompt(5, SQUARE, points=points, labels=labels)

    session = VideoSession(embedded_model, clip.source())
    session.set_prompt(Prompt(0, SQUARE, box_xyxy=square_box(0)))
    list(session.propagate())
    result = session.set_prompt(Prompt(5, SQUARE, tuple(points), tuple(labels)))
    assert masks.iou(result.rle, masks.encode(expected)) >= 0.999

    fresh = VideoSession(embedded_model, clip.source())
    assert fresh.set_prompt(Prompt(5, SQUARE, tuple(points), tuple(labels))).rle != result.rle
