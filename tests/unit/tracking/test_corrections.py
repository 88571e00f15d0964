"""The traps of upstream's predictor, each shown to be one and shown not to exist here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import (
    FRAME_COUNT,
    HEIGHT,
    WIDTH,
    Clip,
    ListSource,
    Upstream,
    disc_center,
    square_corner,
    square_prompt,
)

from qcore import masks
from qcore.masks import Rle
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Direction, MaskResult, Prompt

MakeUpstream = Callable[..., Upstream]
DISC, SQUARE = 1, 2
LAST = FRAME_COUNT - 1


def disc_prompt(frame_index: int) -> Prompt:
    return Prompt(frame_index, DISC, (disc_center(frame_index),), (1,))


def rectangle(x: int, y: int, width: int, height: int) -> Rle:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return masks.encode(mask)


def by_frame(results: list[MaskResult], object_id: int = SQUARE) -> dict[int, MaskResult]:
    return {result.frame_index: result for result in results if result.object_id == object_id}


def test_a_correction_survives_the_next_propagation_and_upstream_loses_it(
    embedded_model: SAM2Base, clip: Clip, upstream: MakeUpstream
) -> None:
    start, wrong = square_prompt(0, SQUARE), 4
    x, y = square_corner(wrong)
    clicks, labels = [disc_center(wrong), (x + 13.0, y + 13.0)], [1, 0]  # "not the square, the disc"

    oracle = upstream(embedded_model, corrections_condition=False)
    oracle.prompt(0, SQUARE, box=start.box_xyxy)
    oracle.propagate(0)
    corrected_upstream = oracle.prompt(wrong, SQUARE, points=clicks, labels=labels)
    oracle.propagate(0)
    kept = masks.iou(masks.encode(oracle.masks[wrong, SQUARE]), masks.encode(corrected_upstream))
    assert kept < 0.9

    session = VideoSession(embedded_model, clip.source())
    session.set_prompt(start)
    before = by_frame(list(session.propagate()))
    corrected = session.set_prompt(Prompt(wrong, SQUARE, tuple(clicks), tuple(labels)))
    assert masks.iou(corrected.rle, before[wrong].rle) < 0.9
    after = by_frame(list(session.propagate(0, LAST)))
    assert after[wrong] == corrected
    assert session.keyframes(SQUARE) == (0, wrong)


def test_memories_of_a_wrong_track_do_not_outlive_its_correction(
    embedded_model: SAM2Base, clip: Clip, upstream: MakeUpstream
) -> None:
    oracle = upstream(embedded_model)
    oracle.predictor.clear_non_cond_mem_around_input = True
    oracle.prompt(0, SQUARE, box=square_prompt(0, SQUARE).box_xyxy)
    with pytest.raises(AttributeError, match="_clear_obj_non_cond_mem_around_input"):
        oracle.propagate(0)

    given = rectangle(30, 30, 40, 40)
    tracked, fresh = (VideoSession(embedded_model, clip.source()) for _ in range(2))
    for session in (tracked, fresh):
        session.set_prompt(square_prompt(0, SQUARE))
    list(tracked.propagate())
    for session in (tracked, fresh):
        session.add_mask(4, SQUARE, given)
    assert list(tracked.propagate(4, LAST)) == list(fresh.propagate(4, LAST))


def test_an_object_does_not_appear_before_its_first_prompt_and_upstream_lets_it(
    embedded_model: SAM2Base, clip: Clip, upstream: MakeUpstream
) -> None:
    oracle = upstream(embedded_model)
    oracle.prompt(5, SQUARE, box=square_prompt(5, SQUARE).box_xyxy)
    with torch.autocast("cpu", torch.bfloat16):  # in float32 upstream fails without a pointer in the past
        oracle.propagate(0)
    assert oracle.masks[0, SQUARE].any()

    session = VideoSession(embedded_model, clip.source())
    session.set_prompt(square_prompt(5, SQUARE))
    assert [r.frame_index for r in session.propagate(0, LAST)] == list(range(5, FRAME_COUNT))
    assert [r.frame_index for r in session.propagate(LAST, 0, Direction.BACKWARD)] == [5, 4, 3, 2, 1, 0]


def test_a_prompt_changes_no_frame_behind_it_and_upstream_s_does(
    embedded_model: SAM2Base, clip: Clip, upstream: MakeUpstream
) -> None:
    mask = masks.decode(rectangle(10, 50, 60, 40))
    tracks = []
    for with_future in (False, True):
        oracle = upstream(embedded_model)
        oracle.prompt(0, SQUARE, box=square_prompt(0, SQUARE).box_xyxy)
        if with_future:
            oracle.prompt(6, SQUARE, mask=mask)
        oracle.propagate(0)
        tracks.append(oracle.masks)
    assert any((tracks[0][t, SQUARE] != tracks[1][t, SQUARE]).any() for t in range(1, 6))

    alone, prompted = (VideoSession(embedded_model, clip.source()) for _ in range(2))
    for session in (alone, prompted):
        session.set_prompt(square_prompt(0, SQUARE))
    prompted.add_mask(6, SQUARE, masks.encode(mask))
    assert list(alone.propagate(0, 5)) == list(prompted.propagate(0, 5))


def test_adding_and_removing_an_object_changes_no_other_one(embedded_model: SAM2Base, clip: Clip) -> None:
    alone, joined = (VideoSession(embedded_model, clip.source()) for _ in range(2))
    for session in (alone, joined):
        session.set_prompt(square_prompt(0, SQUARE))
    expected = list(alone.propagate())

    found = list(joined.propagate(0, 3))
    joined.set_prompt(disc_prompt(3))
    results = list(joined.propagate(4, LAST))
    assert {r.frame_index for r in results if r.object_id == DISC} == set(range(4, FRAME_COUNT))
    found += [r for r in results if r.object_id == SQUARE]
    assert found == expected

    joined.remove_object(DISC)
    assert joined.objects == (SQUARE,)
    assert list(joined.propagate(0, LAST)) == list(alone.propagate(0, LAST))


def test_a_cancelled_propagation_goes_on_as_if_it_had_not_been(embedded_model: SAM2Base, clip: Clip) -> None:
    whole, cut = (VideoSession(embedded_model, clip.source()) for _ in range(2))
    for session in (whole, cut):
        session.set_prompt(square_prompt(0, SQUARE))
    expected = list(whole.propagate())
    running = cut.propagate()
    found = [next(running) for _ in range(4)]
    running.close()
    assert found + list(cut.propagate(4, LAST)) == expected


def test_a_protected_frame_is_returned_as_it_is_and_conditions(embedded_model: SAM2Base, clip: Clip) -> None:
    plain, protecting = (VideoSession(embedded_model, clip.source()) for _ in range(2))
    for session in (plain, protecting):
        session.set_prompt(square_prompt(0, SQUARE))
    accepted = rectangle(20, 20, 30, 50)
    protecting.protect(3, SQUARE, accepted)
    with_it, without = by_frame(list(protecting.propagate())), by_frame(list(plain.propagate()))
    assert with_it[3].rle == accepted
    assert with_it[2] == without[2]
    assert masks.iou(with_it[4].rle, accepted) > masks.iou(without[4].rle, accepted)


def test_objects_that_share_a_walk_get_the_masks_they_get_alone_and_each_frame_is_read_once(
    embedded_model: SAM2Base, clip: Clip
) -> None:
    def session() -> tuple[VideoSession, ListSource]:
        source = clip.source()
        made = VideoSession(embedded_model, source)
        made.set_prompt(disc_prompt(0))
        made.set_prompt(square_prompt(2, SQUARE))
        made.protect(3, SQUARE, rectangle(20, 20, 30, 50))
        source.reads.clear()
        made.feature_cache.clear()
        return made, source

    together, source = session()
    shared = list(together.propagate(0, LAST, Direction.FORWARD, [DISC, SQUARE], {SQUARE: 3}))
    assert sorted(source.reads) == list(range(FRAME_COUNT))
    alone, _ = session()
    disc = list(alone.propagate(0, LAST, Direction.FORWARD, [DISC]))
    square = list(alone.propagate(3, LAST, Direction.FORWARD, [SQUARE]))
    assert by_frame(shared, DISC) == by_frame(disc, DISC)
    assert by_frame(shared) == by_frame(square)


def test_a_protected_project_opens_without_running_the_model(embedded_model: SAM2Base, clip: Clip) -> None:
    source = clip.source()
    session = VideoSession(embedded_model, source)
    for t in range(FRAME_COUNT):
        session.protect(t, SQUARE, rectangle(5 * t, 10, 20, 20))
    assert source.reads == []
    assert len(list(session.propagate())) == FRAME_COUNT
    assert source.reads == []


def test_gradients_stay_on_for_the_caller_of_propagate(embedded_model: SAM2Base, clip: Clip) -> None:
    session = VideoSession(embedded_model, clip.source())
    session.set_prompt(square_prompt(0, SQUARE))
    for _ in session.propagate(0, 2):
        assert torch.is_grad_enabled()


def test_a_pass_that_starts_between_keyframes_remembers_the_project_s_masks(
    embedded_model: SAM2Base, clip: Clip
) -> None:
    whole = VideoSession(embedded_model, clip.source())
    whole.set_prompt(square_prompt(0, SQUARE))
    project = by_frame(list(whole.propagate()))

    def recall(frame_index: int, object_id: int) -> Rle | None:
        assert object_id == SQUARE
        asked.append(frame_index)
        return project[frame_index].rle

    asked: list[int] = []
    reopened = VideoSession(embedded_model, clip.source(), recall=recall)
    reopened.protect(0, SQUARE, project[0].rle)
    continued = by_frame(list(reopened.propagate(6, LAST)))
    assert sorted(asked) == [3, 4, 5]  # this model looks back three frames
    assert all(masks.iou(continued[t].rle, project[t].rle) > 0.9 for t in continued)
