"""Which frames calibrate and which are kept for checking: counted against the rules by brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcore.quant.clip_selection import FEWEST_HELD_OUT, ClipRequest, plan_clips
from qcore.quant.errors import QuantizationError


class Frames:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def opener(counts: dict[str, int]) -> Any:
    return lambda path: Frames(counts[path.name])


@given(
    counts=st.lists(st.integers(2, 400), min_size=1, max_size=4),
    clips=st.integers(1, 9),
    frames=st.integers(2, 24),
    stride=st.integers(1, 6),
)
def test_no_frame_is_both_calibrated_on_and_checked(
    counts: list[int], clips: int, frames: int, stride: int
) -> None:
    names = {f"{i}.mp4": count for i, count in enumerate(counts)}
    plans = plan_clips([ClipRequest(Path(n)) for n in names], clips, frames, stride, opener(names))
    assert len(plans) <= clips
    for name, count in names.items():
        mine = [plan for plan in plans if plan.path.name == name]
        used = {i for plan in mine for i in plan.indices}
        checked = [i for plan in mine for i in plan.held_out]
        assert not used & set(checked) and len(checked) == len(set(checked))
        assert all(0 <= i < count for i in [*used, *checked])
        for plan in mine:
            assert 2 <= len(plan.indices) <= frames
            assert list(plan.indices) == sorted(set(plan.indices))
            assert list(plan.held_out) == sorted(plan.held_out)
            assert not plan.held_out or len(plan.held_out) >= FEWEST_HELD_OUT


def test_a_long_video_is_checked_after_its_clip_and_a_prompt_starts_one() -> None:
    request = ClipRequest(Path("a.mp4"), ((40, (1.0, 2.0, 3.0, 4.0)),))
    (plan,) = plan_clips([request], 1, 5, 4, opener({"a.mp4": 300}))
    assert plan.indices == (40, 44, 48, 52, 56)
    assert plan.box_xyxy == (1.0, 2.0, 3.0, 4.0)
    assert plan.held_out == tuple(range(60, 124, 4))


def test_a_short_video_is_checked_between_its_frames() -> None:
    (plan,) = plan_clips([ClipRequest(Path("a.mp4"))], 1, 5, 4, opener({"a.mp4": 18}))
    assert plan.indices == (0, 4, 8, 12, 16)
    assert plan.held_out == (2, 6, 10, 14)


def test_a_video_of_one_frame_is_refused() -> None:
    with pytest.raises(QuantizationError, match=r"a\.mp4 is too short"):
        plan_clips([ClipRequest(Path("a.mp4"))], opener=opener({"a.mp4": 1}))
