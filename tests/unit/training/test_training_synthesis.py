from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.training.errors import TrainingError
from qcore.training.motion import camera_path, exit_offsets, smooth_path
from qcore.training.pack import PackWriter, TrainingPack
from qcore.training.synthesis import ClipGenerator, SynthesisConfig


@given(seed=st.integers(0, 10**6), length=st.integers(2, 12), x=st.floats(0, 100), y=st.floats(0, 100))
def test_an_object_that_leaves_is_out_of_view_for_a_frame(seed: int, length: int, x: float, y: float) -> None:
    rng = np.random.default_rng(seed)
    start, extent, size = np.array([x, y], np.float32), 30.0, 100
    path = start + exit_offsets(rng, length, start, extent, size)
    np.testing.assert_allclose(path[0], start, atol=1e-4)
    outside = (path + extent / 2 < 0) | (path - extent / 2 > size)
    assert outside.any(axis=1).any()


def test_paths_start_where_they_are_told() -> None:
    assert smooth_path(np.random.default_rng(0), 5, 1.0, 1.0)[0] == pytest.approx(0, abs=1e-6)


def test_a_camera_at_rest_does_not_move_and_stays_inside() -> None:
    for seed in range(20):
        maps = camera_path(np.random.default_rng(seed), 4, (200, 300), 64, None, 0.0)
        np.testing.assert_array_equal(maps, np.broadcast_to(maps[:1], maps.shape))
        centre = maps[0, :, :2] @ np.array([32, 32]) + maps[0, :, 2]
        assert 0 <= centre[0] <= 300
        assert 0 <= centre[1] <= 200


def test_the_same_seed_gives_the_same_clip(tiny_pack: TrainingPack) -> None:
    clips = [ClipGenerator(tiny_pack, SynthesisConfig(size=64), [3, 1]).clip(3, 2) for _ in range(2)]
    np.testing.assert_array_equal(clips[0].frames_thwc, clips[1].frames_thwc)
    np.testing.assert_array_equal(clips[0].masks_kthw, clips[1].masks_kthw)
    other = ClipGenerator(tiny_pack, SynthesisConfig(size=64), [3, 2]).clip(3, 2)
    assert not np.array_equal(other.frames_thwc, clips[0].frames_thwc)


def test_every_target_is_in_view_on_the_first_frame(tiny_pack: TrainingPack) -> None:
    config = SynthesisConfig(size=64)
    generator = ClipGenerator(tiny_pack, config, 5)
    for _ in range(40):
        clip = generator.clip(4, 3)
        assert clip.frames_thwc.shape == (4, 64, 64, 3)
        assert 1 <= len(clip.masks_kthw) <= 3
        areas = (clip.masks_kthw[:, 0] > 127).sum((1, 2))
        assert (areas >= 0.25 * config.min_area * 64**2).all()


def test_objects_leave_the_view_in_some_clips(tiny_pack: TrainingPack) -> None:
    generator = ClipGenerator(tiny_pack, SynthesisConfig(size=64, exit_share=1.0, real_share=0.0), 6)
    absent = sum(bool((generator.clip(5, 3).masks_kthw.sum((2, 3)) == 0).any()) for _ in range(20))
    assert absent > 2


def test_the_truth_is_what_is_left_visible(tmp_path: Path) -> None:
    """Oracle: everything pasted is red and the background blue, so colour alone tells what is visible."""
    writer = PackWriter(max_side=128, quality=100)
    writer.add_background(np.full((128, 128, 3), (20, 20, 200), np.uint8), "plain")
    cutout = np.full((64, 64, 4), 255, np.uint8)
    cutout[..., :3] = (200, 20, 20)
    writer.add_cutout(cutout, "plain")
    writer.write(tmp_path / "plain.qpack")
    pack = TrainingPack(tmp_path / "plain.qpack")
    generator = ClipGenerator(pack, SynthesisConfig(size=96, look_alike_share=0.0), 8)
    compared = 0
    for _ in range(40):
        clip = generator.clip(3, 4)
        frames = clip.frames_thwc.astype(int)
        if np.abs(frames[..., 0] - frames[..., 2]).max() < 40:
            continue  # the rare grey clip
        union = clip.masks_kthw.astype(int).sum(0)
        assert union.max() <= 256, "objects must not overlap in the truth"
        is_red = frames[..., 0] > frames[..., 2]
        # targets that start too small are not asked for, so red may be more than the targets
        assert (is_red[union > 200]).mean() > 0.97
        compared += 1
    assert compared > 20


def test_a_pack_with_nothing_to_follow_is_refused(tmp_path: Path) -> None:
    writer = PackWriter()
    writer.add_background(np.zeros((64, 64, 3), np.uint8), "plain")
    writer.write(tmp_path / "plain.qpack")
    with pytest.raises(TrainingError, match="neither"):
        ClipGenerator(TrainingPack(tmp_path / "plain.qpack"), SynthesisConfig(size=64), 0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 6), objects=st.integers(1, 4))
def test_any_clip_has_the_shape_that_was_asked_for(
    tiny_pack: TrainingPack, seed: int, length: int, objects: int
) -> None:
    clip = ClipGenerator(tiny_pack, SynthesisConfig(size=64), seed).clip(length, objects)
    assert clip.frames_thwc.dtype == clip.masks_kthw.dtype == np.uint8
    assert clip.masks_kthw.shape[1:] == (length, 64, 64)
    assert len(clip.masks_kthw) <= objects
