"""DAVIS, SA-V PNG, YouTube-VIS, YOLO and the overlay video, read back with other tools than ours."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from app.formats import FORMATS, ExportOptions, FormatError, dry_run, import_into
from app.formats.overlay_video import draw_overlay
from app.project import Change, Edit, Project, edits
from app.project.changes import key_of
from app.project.model import FrameMask, ObjectTrack
from app.project.video_link import describe_video
from qcore import masks
from qcore.masks import Rle
from qcore.video import open_source


def disk(cx: float, cy: float, radius: float) -> Rle:
    y, x = np.mgrid[:45, :63]
    return masks.encode((x - cx) ** 2 + (y - cy) ** 2 < radius**2)


def stored(project: Project, frame: int, object_id: int) -> np.ndarray:
    mask = project.mask(frame, object_id)
    return np.zeros((45, 63), np.uint8) if mask is None else masks.decode(mask.rle)


def test_davis_images_hold_ids_with_the_davis_palette_and_the_lower_id_on_top(
    project: Project, tmp_path: Path
) -> None:
    report = FORMATS["davis"].export(project, tmp_path / "d")
    folder = tmp_path / "d" / "Annotations" / "480p" / "clip"
    assert [p.name for p in sorted(folder.iterdir())] == [f"{i:05d}.png" for i in range(12)]
    lost = 0
    for frame in range(12):
        with Image.open(folder / f"{frame:05d}.png") as image:
            assert image.mode == "P"
            palette = image.getpalette()
            values = np.asarray(image)
        assert palette is not None
        assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        dog, ball = stored(project, frame, 1), stored(project, frame, 2)
        assert np.array_equal(values, np.where(dog, 1, np.where(ball, 2, 0)))
        lost += int((dog & ball).sum())
    assert lost > 0
    overlap = next(loss for loss in report.losses if loss.kind == "overlap")
    assert overlap.count == lost
    assert (tmp_path / "d" / "ImageSets" / "2017" / "val.txt").read_text() == "clip\n"
    whole = tmp_path / "d" / "Annotations_objects" / "clip" / "002" / "00004.png"
    assert np.array_equal(cv2.imread(str(whole), cv2.IMREAD_GRAYSCALE) > 0, stored(project, 4, 2) > 0)


def test_the_users_order_decides_what_lies_on_top(project: Project, tmp_path: Path) -> None:
    project.apply(edits.move_object(project, 2, 0))
    FORMATS["davis"].export(project, tmp_path / "d")
    with Image.open(tmp_path / "d" / "Annotations" / "480p" / "clip" / "00004.png") as image:
        values = np.asarray(image)
    assert (values[stored(project, 4, 2) > 0] == 2).all()


def test_davis_round_trip_keeps_masks_names_and_colours(
    project: Project, blank: Project, tmp_path: Path
) -> None:
    project.apply(edits.remove_masks(project, [2]))
    project.apply(edits.set_mask(project, 5, 2, disk(55, 8, 5)))
    FORMATS["davis"].export(project, tmp_path / "d", ExportOptions(with_frames=True))
    assert len(list((tmp_path / "d" / "JPEGImages" / "480p" / "clip").iterdir())) == 12
    import_into(blank, tmp_path / "d")
    for frame in range(12):
        for number in (1, 2):
            assert np.array_equal(stored(blank, frame, number), stored(project, frame, number))
    assert [(o.name, o.color) for o in blank.objects.values()] == [("dog", "#123456"), ("ball", "#800000")]


def test_a_real_davis_sequence_is_one_object(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "davis-dev"
    with open_source(root / "JPEGImages" / "dog") as source:
        video = describe_video(source, tmp_path / "x")
    with Project.create(tmp_path / "dog.qmsproj", video) as project:
        import_into(project, root)
        assert [o.name for o in project.objects.values()] == ["Object 1"]
        truth = cv2.imread(str(root / "Annotations" / "dog" / "00030.png"), cv2.IMREAD_GRAYSCALE)
        mask = project.mask(30, 1)
        assert mask is not None and np.array_equal(masks.decode(mask.rle), truth > 0)
        assert len(project.annotated_frames()) == video.frame_count


def test_more_objects_than_davis_holds_are_refused_with_a_hint(project: Project, tmp_path: Path) -> None:
    records: list[ObjectTrack | FrameMask] = []
    for number in range(3, 256):
        records.append(ObjectTrack(number, f"o{number}"))
        records.append(FrameMask(0, number, disk(10, 10, 3)))
    project.apply(Change("many", tuple(Edit(key_of(r), None, r) for r in records)))
    with pytest.raises(FormatError, match=r"at most 254 objects, but 255 .* export SA-V or COCO"):
        FORMATS["davis"].export(project, tmp_path / "d")
    assert not (tmp_path / "d").exists()
    few = ExportOptions(object_ids=(1, 2, 255))
    report = FORMATS["davis"].export(project, tmp_path / "d", few)
    assert "1 object numbered anew, because DAVIS counts from 1." in map(str, report.losses)


def test_sav_png_keeps_overlapping_objects_apart(project: Project, tmp_path: Path) -> None:
    FORMATS["sav_png"].export(project, tmp_path / "s", ExportOptions(stride=2))
    root = tmp_path / "s" / "Annotations_6fps" / "clip"
    for number in (0, 1):
        assert len(list((root / f"{number:03d}").iterdir())) == 6
        for frame in range(0, 12, 2):
            with Image.open(root / f"{number:03d}" / f"{frame:05d}.png") as image:
                values = np.array(image)
            assert len(np.unique(values)) <= 2
            assert np.array_equal(values > 0, stored(project, frame, number + 1) > 0)


def test_youtube_vis_has_a_mask_or_null_for_every_frame(project: Project, tmp_path: Path) -> None:
    FORMATS["youtube_vis"].export(project, tmp_path / "y.json")
    value = json.loads((tmp_path / "y.json").read_text())
    assert value["videos"][0]["length"] == len(value["videos"][0]["file_names"]) == 12
    for annotation in value["annotations"]:
        for frame, cell in enumerate(annotation["segmentations"]):
            expected = stored(project, frame, annotation["id"])
            if not expected.any():
                assert (cell, annotation["bboxes"][frame], annotation["areas"][frame]) == (None, None, None)
                continue
            assert np.array_equal(coco_mask.decode(cell), expected)
            assert annotation["areas"][frame] == expected.sum()


def test_yolo_lines_draw_the_masks_again(project: Project, tmp_path: Path) -> None:
    report = FORMATS["yolo"].export(project, tmp_path / "y", ExportOptions(polygon_tolerance_px=0.0))
    ball_only = ExportOptions(polygon_tolerance_px=0.0, object_ids=(2,))
    FORMATS["yolo"].export(project, tmp_path / "ball", ball_only)
    lines = (tmp_path / "ball" / "labels" / "train" / "clip_00004.txt").read_text().splitlines()
    assert len(lines) == 1
    category, *numbers = lines[0].split()
    shares = np.array(numbers, float)
    assert category == "0" and shares.min() >= 0 and shares.max() <= 1
    polygon = (shares.reshape(-1, 2) * (63, 45)).reshape(-1).tolist()
    drawn = coco_mask.decode(coco_mask.frPyObjects([polygon], 45, 63))[:, :, 0]
    assert np.array_equal(drawn, stored(project, 4, 2))
    assert (tmp_path / "y" / "labels" / "train" / "clip_00011.txt").read_text() == ""
    assert (tmp_path / "y" / "data.yaml").read_text().endswith('names:\n  0: "animal"\n  1: "object"\n')
    assert {loss.kind for loss in report.losses} >= {"track_ids", "holes"}


def test_the_overlay_video_plays_with_every_frame_in_its_colours(project: Project, tmp_path: Path) -> None:
    options = ExportOptions(fill_opacity=1.0, outline_px=0, names=False)
    FORMATS["overlay"].export(project, tmp_path / "o.mp4", options)
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        frames = [
            (float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(stream)
        ]
    assert len(frames) == 12
    assert [at for at, _ in frames] == pytest.approx(project.timestamps_s.tolist(), abs=1e-3)
    picture = frames[3][1]
    assert picture.shape == (46, 64, 3)
    inside = cv2.erode(stored(project, 3, 1), np.ones((5, 5)))  # chroma is shared by neighbouring pixels
    assert inside.any()
    middle = np.median(picture[:45, :63][inside > 0], axis=0)
    assert np.abs(middle - (0x12, 0x34, 0x56)).max() < 16


def test_overlay_options_are_heeded() -> None:
    frame = np.full((45, 63, 3), 200, np.uint8)
    tracks = {1: ObjectTrack(1, "dog", color="#ff0000")}
    mask = FrameMask(0, 1, disk(30, 25, 10))
    plain = draw_overlay(frame, [mask], tracks, ExportOptions(fill_opacity=0, outline_px=0, names=False))
    assert np.array_equal(plain, frame)
    filled = draw_overlay(frame, [mask], tracks, ExportOptions(fill_opacity=0.5, outline_px=0, names=False))
    inside = masks.decode(mask.rle) > 0
    assert np.array_equal(np.unique(filled[inside], axis=0), [[228, 100, 100]])
    assert (filled[~inside] == 200).all()
    outlined = draw_overlay(frame, [mask], tracks, ExportOptions(fill_opacity=0, names=False))
    named = draw_overlay(frame, [mask], tracks, ExportOptions(fill_opacity=0, outline_px=0))
    assert 0 < (outlined != frame).any(axis=2).sum() < inside.sum()
    assert (named != frame).any()
    assert (frame == 200).all()


def test_a_dry_run_reports_and_leaves_nothing(project: Project, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    report = dry_run("davis", project)
    assert {loss.kind for loss in report.losses} == {"overlap"}
    assert not report.path.exists()
    assert sorted(tmp_path.rglob("*")) == before
