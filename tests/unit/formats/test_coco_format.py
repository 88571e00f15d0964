"""COCO through pycocotools' own loader, and polygons against its rasterizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools.coco import COCO

from app.formats import FORMATS, ExportOptions, import_into
from app.formats.polygons import rasterize, trace
from app.project import Project
from qcore import masks


def written(project: Project, path: Path, **options: Any) -> dict[str, Any]:
    FORMATS["coco"].export(project, path, ExportOptions(**options))
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


def test_pycocotools_loads_it_and_decodes_the_same_masks(project: Project, tmp_path: Path) -> None:
    value = written(project, tmp_path / "a.json")
    coco = COCO(str(tmp_path / "a.json"))
    seen = 0
    for image in coco.loadImgs(coco.getImgIds()):
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            mask = project.mask(image["frame_index"], annotation["track_id"])
            assert mask is not None
            assert np.array_equal(coco.annToMask(annotation), masks.decode(mask.rle))
            assert annotation["area"] == mask.rle.area
            assert tuple(annotation["bbox"]) == mask.rle.box_xywh
            assert annotation["attributes"]["track_id"] == annotation["track_id"]
            assert annotation["iscrowd"] == 0
            seen += 1
    assert seen == 9 + 6
    assert [i["frame_index"] for i in value["images"]] == list(range(12))
    assert [(c["id"], c["name"]) for c in value["categories"]] == [(1, "animal"), (2, "object")]
    assert [(t["id"], t["category_id"], t["video_id"]) for t in value["tracks"]] == [(1, 1, 1), (2, 2, 1)]
    assert value["videos"] == [
        {"id": 1, "name": "clip", "width": 63, "height": 45, "fps": project.video.fps, "length": 12}
    ]
    assert value["x_project"]["precision"] == "w6a6"


def test_export_and_import_give_the_same_objects_and_masks(
    project: Project, blank: Project, tmp_path: Path
) -> None:
    written(project, tmp_path / "a.json")
    import_into(blank, tmp_path / "a.json")
    assert [(o.name, o.color) for o in blank.objects.values()] == [("dog", "#123456"), ("ball", "#800000")]
    for frame in range(12):
        before = [(m.object_id, m.rle, m.reviewed, m.score) for m in project.masks_on(frame)]
        after = [(m.object_id, m.rle, m.reviewed, m.score) for m in blank.masks_on(frame)]
        assert after == [entry for entry in before if not entry[1].is_empty]


def test_polygons_lose_what_the_report_says(project: Project, tmp_path: Path) -> None:
    report = FORMATS["coco"].export(project, tmp_path / "a.json", ExportOptions(polygons=True))
    coco = COCO(str(tmp_path / "a.json"))
    ious = []
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert all(len(polygon) >= 6 for polygon in annotation["segmentation"])
        frame = coco.loadImgs([annotation["image_id"]])[0]["frame_index"]
        mask = project.mask(frame, annotation["track_id"])
        assert mask is not None
        got, want = coco.annToMask(annotation).astype(bool), masks.decode(mask.rle).astype(bool)
        ious.append((got & want).sum() / (got | want).sum())
    assert report.details["polygon_iou_mean"] == pytest.approx(np.mean(ious))
    assert report.details["polygon_iou_min"] == pytest.approx(min(ious))
    assert report.details["holes"] == 8
    assert [loss.kind for loss in report.losses] == ["holes", "polygon_iou"]
    assert min(ious) > 0.8


blobs = hnp.arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 1))


@given(blobs)
@settings(max_examples=200)
def test_polygons_that_follow_every_pixel_lose_only_holes(mask_hw: np.ndarray) -> None:
    outline = trace(mask_hw)
    filled = masks.decode(rasterize(outline.polygons, mask_hw.shape))
    assert np.array_equal(filled, without_holes(mask_hw))


def without_holes(mask_hw: np.ndarray) -> np.ndarray:
    """Fill what cannot be reached from outside through edges, by brute force."""
    padded = np.pad(mask_hw, 1)
    outside = np.zeros(padded.shape, bool)
    queue = [(0, 0)]
    while queue:
        y, x = queue.pop()
        if 0 <= y < padded.shape[0] and 0 <= x < padded.shape[1] and not (outside[y, x] or padded[y, x]):
            outside[y, x] = True
            queue += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return (~outside[1:-1, 1:-1]).astype(np.uint8)


@pytest.mark.parametrize("segmentation", ["compressed", "runs", "polygon"])
def test_all_three_kinds_of_segmentation_are_read(blank: Project, tmp_path: Path, segmentation: str) -> None:
    mask_hw = np.zeros((45, 63), np.uint8)
    mask_hw[10:20, 30:50] = 1
    rle = masks.encode(mask_hw)
    kinds = {
        "compressed": masks.to_coco(rle),
        "runs": {"size": [45, 63], "counts": masks.decompress_counts(rle.counts)},
        "polygon": [[30, 10, 50, 10, 50, 20, 30, 20]],
    }
    value = {
        "images": [{"id": 7, "file_name": "x/frame_00003.jpg", "width": 63, "height": 45}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 4, "segmentation": kinds[segmentation]}],
        "categories": [{"id": 4, "name": "box"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(value))
    imported, _ = import_into(blank, tmp_path / "a.json")
    mask = blank.mask(3, 1)
    assert mask is not None and mask.rle == rle and mask.is_protected
    assert blank.objects[1].name == "box 1"
    assert len(imported.notes) == 1 and "no track id" in imported.notes[0]


def test_frames_are_written_when_asked_for(project: Project, tmp_path: Path, clip: Path) -> None:
    value = written(project, tmp_path / "a.json", with_frames=True, stride=5)
    names = [image["file_name"] for image in value["images"]]
    assert names == [f"a_frames/{i:05d}.jpg" for i in (0, 5, 10)]
    assert all((tmp_path / name).stat().st_size > 500 for name in names)


def test_only_accepted_frames_are_written_when_asked_for(project: Project, tmp_path: Path) -> None:
    report = FORMATS["coco"].export(project, tmp_path / "a.json", ExportOptions(only_reviewed=True))
    value = json.loads((tmp_path / "a.json").read_text())
    assert [image["frame_index"] for image in value["images"]] == [0, 1, 2]
    assert [str(loss) for loss in report.losses] == ["9 frames not accepted are left out."]
