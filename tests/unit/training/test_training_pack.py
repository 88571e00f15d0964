from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from qcore.training import sources
from qcore.training.errors import TrainingError
from qcore.training.pack import PackWriter, TrainingPack, shrink_to


def _photo(height: int = 90, width: int = 120) -> np.ndarray:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    return np.dstack([np.tile(ramp, (height, 1))] * 3)


def _reread(writer: PackWriter, folder: Path) -> TrainingPack:
    writer.write(folder / "a.qpack")
    return TrainingPack(folder / "a.qpack")


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    writer = PackWriter()
    mask = np.zeros((90, 120), np.uint8)
    mask[10:40, 20:60] = 255
    writer.add_image(_photo(), [mask], "here")
    pack = _reread(writer, tmp_path)
    (entry,) = pack.images
    assert entry.size == (90, 120)
    assert np.abs(pack.picture(entry.blob).astype(int) - _photo()).mean() < 4
    (only,) = entry.masks
    np.testing.assert_array_equal(pack.mask(only.blob), mask)
    assert only.box_xywh == (20, 10, 40, 30)
    assert only.area == pytest.approx(30 * 40 / (90 * 120))
    assert not only.is_cut
    assert pack.summary() == {"images/here": 1, "masks/here": 1}


def test_a_compact_pack_is_smaller_and_shows_the_same(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 8, (90, 120, 1))
    photo = np.clip(_photo() + noise, 0, 255).astype(np.uint8)
    mask = np.zeros((90, 120), np.uint8)
    cv2.circle(mask, (60, 40), 25, 255, -1, cv2.LINE_AA)
    packs, sizes = [], []
    for compact in (False, True):
        writer = PackWriter(quality=80, compact=compact)
        writer.add_image(photo, [mask], "here")
        sizes.append(writer.size_bytes)
        path = tmp_path / f"{compact}.qpack"
        writer.write(path)
        packs.append(TrainingPack(path))
    assert sizes[1] < 0.8 * sizes[0]
    entry = packs[1].images[0]
    assert np.abs(packs[1].picture(entry.blob).astype(int) - photo).mean() < 8
    np.testing.assert_array_equal(packs[1].mask(entry.masks[0].blob) > 0, mask > 127)


def test_several_packs_are_read_as_one(tmp_path: Path) -> None:
    paths = []
    for number, centre in enumerate((30, 80)):
        writer = PackWriter()
        mask = np.zeros((90, 120), np.uint8)
        cv2.circle(mask, (centre, 40), 20, 255, -1)
        writer.add_image(_photo(), [mask], f"part{number}")
        writer.add_clip(f"clip{number}", [_photo()] * 2, [[mask, np.zeros_like(mask)]], "clips")
        writer.write(path := tmp_path / f"{number}.qpack")
        paths.append(path)
    pack = TrainingPack(*paths)
    assert [entry.source for entry in pack.images] == ["part0", "part1"]
    for entry, clip, centre in zip(pack.images, pack.clips, (30, 80), strict=True):
        for blob in (entry.masks[0].blob, clip.objects[0][0]):
            assert blob is not None
            assert np.nonzero(pack.mask(blob))[1].mean() == pytest.approx(centre, abs=0.6)
        assert clip.objects[0][1] is None
        assert pack.picture(clip.frames[1]).shape == (90, 120, 3)


def test_large_pictures_shrink_and_small_ones_stay() -> None:
    assert shrink_to(_photo(200, 400), 100).shape == (50, 100, 3)
    assert shrink_to(_photo(20, 40), 100).shape == (20, 40, 3)


def test_a_mask_at_the_edge_is_marked_as_cut(tmp_path: Path) -> None:
    writer = PackWriter()
    mask = np.zeros((90, 120), np.uint8)
    mask[:30, 50:80] = 255
    writer.add_image(_photo(), [mask], "here")
    assert _reread(writer, tmp_path).images[0].masks[0].is_cut


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    save_file({"blob": np.zeros(3, np.uint8)}, tmp_path / "other.qpack")
    with pytest.raises(TrainingError, match="not a training pack"):
        TrainingPack(tmp_path / "other.qpack")
    (tmp_path / "noise.qpack").write_bytes(b"\x00" * 40)
    with pytest.raises(TrainingError, match="cannot be read"):
        TrainingPack(tmp_path / "noise.qpack")
    with pytest.raises(TrainingError, match="no training material"):
        PackWriter().write(tmp_path / "empty.qpack")


def test_davis_objects_are_told_apart_by_palette_number_and_void_is_left_out(tmp_path: Path) -> None:
    images, labels = tmp_path / "JPEGImages" / "480p" / "a", tmp_path / "Annotations" / "480p" / "a"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for t in range(4):
        cv2.imwrite(str(images / f"{t:05d}.jpg"), _photo())
        label = np.zeros((90, 120), np.uint8)
        label[10:40, 10:40] = 1
        label[50:80, 60:110] = 2
        label[0:5] = 255
        palette = Image.fromarray(label, mode="P")
        palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0] + [9] * 759)
        palette.save(labels / f"{t:05d}.png")
    writer = PackWriter()
    assert sources.add_davis(writer, tmp_path, step=2) == 1
    pack = _reread(writer, tmp_path)
    (clip,) = pack.clips
    assert len(clip.frames) == 2
    assert len(clip.objects) == 2
    assert clip.objects[1][1] is not None
    assert (pack.mask(clip.objects[1][1]) > 127).sum() == 30 * 50


def test_coco_polygons_are_read_and_photographs_without_permission_are_not(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("free.jpg", "closed.jpg"):
        cv2.imwrite(str(tmp_path / "images" / name), _photo())
    shape = {"height": 90, "width": 120}
    square = [[20, 10, 60, 10, 60, 40, 20, 40]]
    crowd = {"image_id": 1, "iscrowd": 1, "segmentation": {"counts": [0], "size": [90, 120]}}
    content = {
        "images": [
            {"id": 1, "file_name": "free.jpg", "license": 4, **shape},
            {"id": 2, "file_name": "closed.jpg", "license": 3, **shape},
        ],
        "annotations": [
            {"image_id": 1, "iscrowd": 0, "segmentation": square},
            crowd,
            {"image_id": 2, "iscrowd": 0, "segmentation": square},
        ],
    }
    (tmp_path / "instances_x.json").write_text(json.dumps(content))
    writer = PackWriter()
    assert sources.add_coco(writer, tmp_path) == 1
    pack = _reread(writer, tmp_path)
    assert [len(entry.masks) for entry in pack.images] == [1]
    assert pack.images[0].masks[0].area == pytest.approx(30 * 40 / (90 * 120), rel=0.08)


def test_polygons_in_text_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "images" / "t").mkdir(parents=True)
    (tmp_path / "labels" / "t").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images" / "t" / "p.jpg"), _photo())
    (tmp_path / "labels" / "t" / "p.txt").write_text("3 0.25 0.2 0.75 0.2 0.75 0.8 0.25 0.8\n7 0.1 0.1\n")
    writer = PackWriter()
    assert sources.add_coco(writer, tmp_path) == 1
    (mask,) = _reread(writer, tmp_path).images[0].masks
    assert mask.area == pytest.approx(0.3, rel=0.08)


def test_a_folder_without_polygons_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no photographs"):
        sources.add_coco(PackWriter(), tmp_path)


def test_mask_folders_hold_instance_numbers(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "p.jpg"), _photo())
    label = np.zeros((90, 120), np.uint8)
    label[10:40, 10:40], label[50:80, 60:110] = 1, 2
    cv2.imwrite(str(tmp_path / "masks" / "p.png"), label)
    writer = PackWriter()
    assert sources.add_mask_folder(writer, tmp_path, "folder") == 1
    assert len(_reread(writer, tmp_path).images[0].masks) == 2


def test_stamps_are_cropped_to_their_alpha_and_drawings_left_out(tmp_path: Path) -> None:
    stamp = np.zeros((100, 100, 4), np.uint8)
    stamp[30:80, 20:90] = (10, 200, 10, 255)
    (tmp_path / "animals").mkdir()
    (tmp_path / "symbols").mkdir()
    cv2.imwrite(str(tmp_path / "animals" / "bird.png"), stamp)
    cv2.imwrite(str(tmp_path / "symbols" / "plus.png"), stamp)
    writer = PackWriter()
    assert sources.add_stamps(writer, tmp_path) == 1
    assert _reread(writer, tmp_path).cutouts[0].size == (50, 70)


def test_one_wallpaper_in_two_sizes_counts_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = cv2.resize(rng.integers(0, 255, (9, 16, 3)).astype(np.uint8), (1600, 900))
    cv2.imwrite(str(tmp_path / "a.png"), large)
    cv2.imwrite(str(tmp_path / "b.png"), cv2.resize(large, (1280, 720), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((900, 1600, 3), 80, np.uint8))
    assert sources.add_backgrounds(PackWriter(), tmp_path) == 1
