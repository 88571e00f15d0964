"""Encoded frames are kept within a budget, and a second look at a frame costs no encoder."""

from __future__ import annotations

from collections import OrderedDict

import torch
from hypothesis import given
from hypothesis import strategies as st
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip, disc_center, square_corner

from qcore import masks
from qcore.tracking.feature_cache import EncodedFrame, FeatureCache
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Direction, Prompt

CLICK = Prompt(3, 1, (disc_center(3),), (1,))
CLICK_ON_ANOTHER = Prompt(5, 2, (square_corner(5),), (1,))


def frame_of(size_bytes: int) -> EncodedFrame:
    return EncodedFrame((torch.zeros(size_bytes, dtype=torch.uint8),))


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(1, 20)), max_size=40),
)
def test_the_oldest_used_frames_leave_when_the_budget_is_exceeded(
    budget: int, steps: list[tuple[bool, int, int]]
) -> None:
    cache = FeatureCache(budget)
    model: OrderedDict[int, int] = OrderedDict()
    for is_put, index, size in steps:
        if is_put:
            cache.put(index, frame_of(size))
            model.pop(index, None)
            model[index] = size
            while sum(model.values()) > budget and len(model) > 1:
                model.popitem(last=False)
        else:
            assert (cache.get(index) is not None) == (index in model)
            if index in model:
                model.move_to_end(index)
        assert list(cache) == list(model)
        assert cache.size_bytes == sum(model.values())


def test_a_second_propagation_reads_and_encodes_nothing(embedded_model: SAM2Base, clip: Clip) -> None:
    source = clip.source()
    session = VideoSession(embedded_model, source)
    session.set_prompt(Prompt(0, 1, (disc_center(0),), (1,)))
    first = list(session.propagate())
    assert sorted(source.reads) == list(range(FRAME_COUNT))
    assert session.encoded_frames().all()
    session.set_prompt(CLICK_ON_ANOTHER)
    list(session.propagate(direction=Direction.BOTH, objects=[2]))
    assert list(session.propagate(objects=[1])) == first
    assert len(source.reads) == FRAME_COUNT


def test_a_small_budget_changes_no_mask(embedded_model: SAM2Base, clip: Clip) -> None:
    roomy = VideoSession(embedded_model, clip.source())
    roomy.set_prompt(CLICK)
    expected = list(roomy.propagate())
    frame_bytes = roomy.feature_cache.size_bytes // len(roomy.feature_cache)
    tight = VideoSession(embedded_model, clip.source(), feature_cache_bytes=2 * frame_bytes)
    tight.set_prompt(CLICK)
    assert list(tight.propagate()) == expected
    assert tight.feature_cache.size_bytes <= 2 * frame_bytes
    assert tight.encoded_frames().sum() == 2


def test_half_precision_storage_halves_the_cache_and_masks_do_not_depend_on_a_hit(
    embedded_model: SAM2Base, clip: Clip
) -> None:
    exact = VideoSession(embedded_model, clip.source())
    half = VideoSession(embedded_model, clip.source(), feature_dtype=torch.float16)
    for session in (exact, half):
        session.set_prompt(CLICK)
    expected, fresh = list(exact.propagate()), list(half.propagate())
    assert list(half.propagate()) == fresh
    assert half.feature_cache.size_bytes * 2 == exact.feature_cache.size_bytes
    for a, b in zip(expected, fresh, strict=True):
        assert masks.iou(a.rle, b.rle) > 0.98
