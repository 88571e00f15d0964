"""Encoded frames on disk: exact, within their budget, and never trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip

from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.feature_store import FeatureStore, feature_key
from qcore.tracking.session import VideoSession
from qcore.tracking.types import MaskResult

SHAPES = [(1, 4, 16, 16), (1, 8, 8, 8), (1, 16, 4, 4)]
KEY = feature_key("video", "model", 64, "cpu fp32")
BYTES = sum(torch.Size(shape).numel() for shape in SHAPES) * 4
SIDE = 32
TAG = FeatureStore(KEY, 0)._tag(2)


def features(seed: int, dtype: torch.dtype = torch.float32) -> EncodedFrame:
    generator = torch.Generator().manual_seed(seed)
    return EncodedFrame(tuple(torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES))


def pictured(seed: int) -> EncodedFrame:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    return EncodedFrame(features(seed).levels, picture)


def tensors_of(frame: EncodedFrame) -> list[torch.Tensor]:
    return [*frame.levels, *([] if frame.picture_hw3 is None else [frame.picture_hw3])]


def same(one: EncodedFrame | None, other: EncodedFrame) -> bool:
    if one is None:
        return False
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return all(torch.equal(a, b) and a.dtype is b.dtype for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_comes_back_is_what_went_in(tmp_path: Path, dtype: torch.dtype) -> None:
    FeatureStore(KEY, 1 << 20, tmp_path).put(3, features(3, dtype))
    again = FeatureStore(KEY, 1 << 20, tmp_path)
    assert same(again.get(3, SHAPES), features(3, dtype))
    assert again.get(4, SHAPES) is None
    assert not list(tmp_path.rglob("*.part"))


def test_a_picture_is_kept_with_them(tmp_path: Path) -> None:
    store = FeatureStore(KEY, 1 << 20, tmp_path)
    store.put(3, pictured(3))
    assert same(store.get(3, SHAPES, SIDE), pictured(3))


@pytest.mark.parametrize("side", [None, SIDE // 2])
def test_what_was_kept_with_another_picture_counts_as_absent(tmp_path: Path, side: int | None) -> None:
    store = FeatureStore(KEY, 1 << 20, tmp_path)
    store.put(3, pictured(3))
    assert store.get(3, SHAPES, side) is None
    store.put(3, features(3))
    assert store.get(3, SHAPES, SIDE) is None


def test_features_depend_on_all_of_the_key(tmp_path: Path) -> None:
    facts = ("video", "model", 64, "cpu fp32")
    others = [("v", *facts[1:]), ("video", "m", 64, "cpu fp32"), ("video", "model", 96, "cpu fp32")]
    keys = {feature_key(*f) for f in [facts, *others, ("video", "model", 64, "cpu int8 + fp32")]}
    assert len(keys) == 5
    FeatureStore(KEY, 1 << 20, tmp_path).put(0, features(0))
    for key in keys - {KEY}:
        assert FeatureStore(key, 1 << 20, tmp_path).get(0, SHAPES) is None


@pytest.mark.parametrize("key", ["", "../" + "a" * 37, "A" * 40, "a" * 41])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="40 hex digits"):
        FeatureStore(key, 1, tmp_path)


def test_the_oldest_used_leave(tmp_path: Path) -> None:
    store = FeatureStore(KEY, 5 * BYTES, tmp_path)
    for frame in range(4):
        store.put(frame, features(frame))
        os.utime(store._path(frame), (frame + 1, frame + 1))
    assert same(store.get(0, SHAPES), features(0))  # used now
    other = FeatureStore(feature_key("other", "model", 64, "cpu fp32"), 5 * BYTES, tmp_path)
    other.put(9, features(9))
    assert store.get(1, SHAPES) is None
    assert same(store.get(0, SHAPES), features(0)) and same(other.get(9, SHAPES), features(9))
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    assert sum(sizes) == other.size_bytes <= 5 * BYTES


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / KEY).mkdir()
    mine = [tmp_path / "0000001.safetensors", tmp_path / KEY / "notes.txt"]
    for path in mine:
        path.write_bytes(b"x" * 100)
    store = FeatureStore(KEY, 1 << 20, tmp_path)
    store.put(1, features(1))
    store.clear()
    assert store.size_bytes == 0 and store.get(1, SHAPES) is None
    assert all(path.exists() for path in mine)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _noise(path: Path) -> None:
    path.write_bytes(b"\xff" * 300)


def _grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(1 << 20))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_frame(path: Path) -> None:
    FeatureStore(KEY, 1 << 20, path.parent.parent).put(8, features(8))
    path.with_name("0000008.safetensors").replace(path)


def _not_finite(path: Path) -> None:
    tensors = load_file(path)
    tensors["level1"][0, 0, 0, 0] = float("nan")
    save_file(tensors, path, {"frame": TAG})


def _other_shape(path: Path) -> None:
    tensors = load_file(path)
    tensors["level1"] = torch.zeros(1, 8, 8, 4)
    save_file(tensors, path, {"frame": TAG})


def _other_type(path: Path) -> None:
    tensors = load_file(path)
    tensors["level1"] = tensors["level1"].int()
    save_file(tensors, path, {"frame": TAG})


def _other_picture(path: Path) -> None:
    tensors = load_file(path)
    tensors["picture"] = tensors["picture"].float()
    save_file(tensors, path, {"frame": TAG})


def _same_again(path: Path) -> None:
    save_file(load_file(path), path, {"frame": TAG})


DAMAGES = [_cut, _noise, _grow, _empty, _other_frame, _not_finite, _other_shape, _other_type, _other_picture]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_counts_as_absent_and_goes(tmp_path: Path, damage: object) -> None:
    store = FeatureStore(KEY, 8 << 20, tmp_path)
    store.put(2, pictured(2))
    _same_again(store._path(2))  # writing it anew is no damage
    assert same(store.get(2, SHAPES, SIDE), pictured(2))
    damage(store._path(2))  # type: ignore[operator]
    assert store.get(2, SHAPES, SIDE) is None
    assert not store._path(2).exists()


def test_a_disk_that_cannot_be_written_costs_nothing_but_speed(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("in the way")
    store = FeatureStore(KEY, 1 << 20, root)
    store.put(0, features(0))
    assert store.get(0, SHAPES) is None
    assert root.read_text() == "in the way"


def track(model: SAM2Base, clip: Clip, root: Path, budget: int = 1 << 30) -> tuple[list[MaskResult], int]:
    """Masks of a new session, and how often it ran the encoder."""
    session = VideoSession(model, clip.source(), feature_store=FeatureStore(KEY, budget, root))
    session.add_box(2, 1, (20, 20, 60, 60))
    results = list(session.propagate())
    return results, session._encoder.encoder_runs


def test_a_later_session_runs_no_encoder(micro_model: SAM2Base, clip: Clip, tmp_path: Path) -> None:
    first, runs = track(micro_model, clip, tmp_path)
    assert runs == FRAME_COUNT - 2
    assert track(micro_model, clip, tmp_path) == (first, 0)
    (damaged,) = tmp_path.rglob("0000004.safetensors")
    _noise(damaged)
    assert track(micro_model, clip, tmp_path) == (first, 1)


def test_a_budget_of_nothing_keeps_nothing(micro_model: SAM2Base, clip: Clip, tmp_path: Path) -> None:
    track(micro_model, clip, tmp_path, budget=0)
    assert not list(tmp_path.rglob("*.safetensors"))
