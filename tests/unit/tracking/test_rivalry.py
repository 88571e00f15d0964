from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import HEIGHT, WIDTH, Clip, ListSource, square_prompt

from qcore import masks
from qcore.masks import Rle
from qcore.tracking.aids import Aids
from qcore.tracking.decoding import Decoded
from qcore.tracking.rivalry import NESTING_KEYFRAMES, Nesting, settle
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Direction, MaskResult, Prompt

SIZE = (20, 30)
SQUARE, SECOND = 2, 99


def box(x: int, y: int, width: int, height: int, size: tuple[int, int] = SIZE) -> Rle:
    mask = np.zeros(size, np.uint8)
    mask[y : y + height, x : x + width] = 1
    return masks.encode(mask)


def answer(logits_hw: torch.Tensor) -> Decoded:
    low = logits_hw[None, None]
    return Decoded(
        low, low.repeat_interleave(4, 2).repeat_interleave(4, 3), torch.zeros(1, 8), torch.ones(1), 1.0
    )


def nested(*pairs: tuple[int, int]) -> Nesting:
    nesting = Nesting()
    for one, other in pairs:
        nesting.look({one: box(0, 0, 9, 9)}, {other: box(0, 0, 9, 9)})
    return nesting


@given(seed=st.integers(0, 10**6), count=st.integers(1, 4))
def test_every_pixel_belongs_to_the_surest_and_to_nobody_else(seed: int, count: int) -> None:
    logits = torch.randn(count, 5, 7, generator=torch.Generator().manual_seed(seed)) * 5
    settled = settle(range(count), [answer(one) for one in logits], Nesting())
    for y in range(5):
        for x in range(7):
            owners = [k for k in range(count) if settled[k].logits_b1hw[0, 0, y, x] > 0]
            best = int(logits[:, y, x].argmax())
            assert owners == ([best] if logits[best, y, x] > 0 else [])
    for one in settled:
        expected = one.logits_b1hw.repeat_interleave(4, 2).repeat_interleave(4, 3)
        torch.testing.assert_close(one.high_res_b1ss, expected)


@given(seed=st.integers(0, 10**6), count=st.integers(2, 4))
def test_without_nesting_it_is_upstreams_rule(seed: int, count: int) -> None:
    # few values, so that some are equal
    logits = torch.randint(-12, 12, (count, 5, 7), generator=torch.Generator().manual_seed(seed)).float()
    settled = settle(range(count), [answer(one) for one in logits], Nesting())
    upstream = SAM2Base._apply_non_overlapping_constraints(None, logits[:, None])
    torch.testing.assert_close(torch.cat([one.logits_b1hw for one in settled]), upstream)


def test_a_part_and_its_whole_do_not_compete_but_a_third_does() -> None:
    whole, part, third = torch.full((2, 2), 3.0), torch.full((2, 2), 5.0), torch.full((2, 2), 1.0)
    settled = settle([1, 2, 3], [answer(whole), answer(part), answer(third)], nested((1, 2)))
    assert [float(one.logits_b1hw[0, 0, 0, 0]) for one in settled] == [3.0, 5.0, -10.0]


def test_keyframes_that_share_half_of_the_smaller_mask_are_nested() -> None:
    whole, inside, aside = box(0, 0, 10, 10), box(2, 2, 3, 3), box(9, 0, 4, 10)
    nesting = Nesting()
    nesting.look({1: whole, 2: inside, 3: aside}, {})
    assert nesting.between(1, 2)
    assert nesting.between(2, 1)
    assert not nesting.between(1, 3)  # a quarter
    assert not nesting.between(2, 3)


def test_only_what_the_user_spoke_about_tells_of_nesting() -> None:
    nesting = Nesting()
    nesting.look({}, {1: box(0, 0, 9, 9), 2: box(0, 0, 9, 9)})
    assert not nesting.between(1, 2)


def test_empty_masks_are_not_nested() -> None:
    nesting = Nesting()
    nesting.look({1: masks.empty(SIZE), 2: box(0, 0, 9, 9)}, {})
    assert not nesting.between(1, 2)


def test_masks_of_earlier_work_tell_of_nesting_where_keyframes_lie_apart() -> None:
    asked: list[tuple[int, int]] = []

    def mask_at(t: int, object_id: int) -> Rle | None:
        asked.append((t, object_id))
        return box(0, 0, 10, 10) if (t, object_id) == (7, 1) else None

    nesting = Nesting.of({1: {0: box(0, 0, 10, 10)}, 2: {7: box(1, 1, 4, 4)}}, mask_at)
    assert nesting.between(1, 2)
    assert sorted(asked) == [(0, 2), (7, 1)]
    assert not Nesting.of({1: {0: box(0, 0, 10, 10)}, 2: {7: box(1, 1, 4, 4)}}, lambda t, k: None).between(
        1, 2
    )


def _common_pixels(results: list[MaskResult]) -> int:
    frames: dict[int, list[Rle]] = {}
    for result in results:
        frames.setdefault(result.frame_index, []).append(result.rle)
    return sum(masks.merge(rles, intersect=True).area for rles in frames.values())


@pytest.mark.parametrize("threads", [1, 2])
def test_objects_of_a_session_share_no_pixel(
    embedded_model: SAM2Base, clip: Clip, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are given the same mask on frame 0, though not as theirs to share, so that they want the same."""
    monkeypatch.setattr(Nesting, "look", lambda self, given, known: None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        common = {}
        for rivalry in (False, True):
            session = VideoSession(embedded_model, clip.source(), aids=Aids(rivalry=rivalry))
            first = session.set_prompt(square_prompt(0, SQUARE))
            session.add_mask(0, SECOND, first.rle)
            results = [result for result in session.propagate() if result.frame_index > 0]
            assert len({result.object_id for result in results}) == 2
            common[rivalry] = _common_pixels(results)
    finally:
        torch.set_num_threads(before)
    assert common[True] == 0
    assert common[False] > 100


def test_objects_meant_to_overlap_get_the_masks_that_they_get_without_competing(
    embedded_model: SAM2Base, clip: Clip
) -> None:
    outcomes = []
    for rivalry in (False, True):
        session = VideoSession(embedded_model, clip.source(), aids=Aids(rivalry=rivalry))
        first = session.set_prompt(square_prompt(0, SQUARE))
        session.add_mask(0, SECOND, first.rle)
        outcomes.append(list(session.propagate()))
    assert outcomes[0] == outcomes[1]


def test_a_keyframe_on_the_way_shows_that_objects_are_nested(embedded_model: SAM2Base, clip: Clip) -> None:
    session = VideoSession(embedded_model, clip.source(), aids=Aids(rivalry=True))
    session.set_prompt(square_prompt(0, SQUARE))
    tracked = {result.frame_index: result.rle for result in session.propagate(0, 3)}
    session.add_mask(3, SECOND, tracked[3])
    results = [result for result in session.propagate(0) if result.frame_index > 3]
    assert _common_pixels(results) > 100


def test_an_object_tracked_alone_has_no_rival(embedded_model: SAM2Base, clip: Clip) -> None:
    outcomes = []
    for rivalry in (False, True):
        session = VideoSession(embedded_model, clip.source(), aids=Aids(rivalry=rivalry))
        session.set_prompt(square_prompt(0, SQUARE))
        session.set_prompt(Prompt(0, SECOND, box_xyxy=(60.0, 10.0, 120.0, 80.0)))
        outcomes.append(list(session.propagate(0, None, Direction.FORWARD, [SQUARE])))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]


def test_a_pass_looks_at_a_few_keyframes_of_each_object(embedded_model: SAM2Base, clip: Clip) -> None:
    asked: list[tuple[int, int]] = []

    def recall(t: int, object_id: int) -> Rle | None:
        asked.append((t, object_id))
        return None

    frames = clip.frames * 5
    session = VideoSession(embedded_model, ListSource(frames), aids=Aids(rivalry=True), recall=recall)
    for t in range(len(frames)):
        session.protect(t, SQUARE, box(5, 5, 20, 20, (HEIGHT, WIDTH)))
    session.protect(0, SECOND, box(60, 40, 20, 20, (HEIGHT, WIDTH)))
    results = session.propagate(0, 0)
    next(results)
    results.close()
    assert len([t for t, object_id in asked if object_id == SECOND]) == NESTING_KEYFRAMES
