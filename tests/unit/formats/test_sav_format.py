"""SA-V against Meta's two example files and Meta's way of reading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from app.formats import FORMATS, ExportOptions, FormatError, import_into
from app.project import Project, edits
from app.project.model import VideoInfo

EXAMPLE = VideoInfo("/clips/sav_000001.mp4", None, 480, 848, 24.0, 483, 1, "f")
EXACT = (
    "video_id",
    "video_duration",
    "video_frame_count",
    "video_height",
    "video_width",
    "video_resolution",
    "video_environment",
    "video_split",
    "masklet",
    "masklet_id",
    "masklet_size_bucket",
    "masklet_visibility_changes",
    "masklet_first_appeared_frame",
    "masklet_frame_count",
    "masklet_edited_frame_count",
    "masklet_type",
    "masklet_stability_score",
    "masklet_num",
)
CLOSE = ("masklet_size_rel", "masklet_size_abs")


def exported(project: Project, path: Path, **options: Any) -> dict[str, Any]:
    FORMATS["sav"].export(project, path, ExportOptions(**options))
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("kind", ["manual", "auto"])
def test_metas_example_survives_import_and_export(shared_data: Path, tmp_path: Path, kind: str) -> None:
    original_path = shared_data / "sav_example" / f"sav_000001_{kind}.json"
    original = json.loads(original_path.read_text())
    with Project.create(tmp_path / "p.qmsproj", EXAMPLE) as project:
        import_into(project, original_path)
    with Project.open(tmp_path / "p.qmsproj") as project:
        again = exported(project, tmp_path / "out.json")
    assert set(original) == {*EXACT, *CLOSE}
    assert set(again) == {*original, "x_project"}
    for key in EXACT:
        assert again[key] == original[key], key
    for key in CLOSE:
        assert again[key] == pytest.approx(original[key], rel=1e-7), key


def test_an_edit_after_import_counts_as_edited(shared_data: Path, tmp_path: Path) -> None:
    with Project.create(tmp_path / "p.qmsproj", EXAMPLE) as project:
        import_into(project, shared_data / "sav_example" / "sav_000001_auto.json")
        mask = project.mask(8, 1)
        assert mask is not None
        project.apply(edits.set_mask(project, 8, 1, mask.rle))
        value = exported(project, tmp_path / "out.json")
    assert value["masklet_edited_frame_count"][:2] == [1, 0]


def test_every_field_is_what_the_masks_say(project: Project, tmp_path: Path) -> None:
    value = exported(project, tmp_path / "a.json", stride=1)
    decoded = np.array([[coco_mask.decode(cell) for cell in row] for row in value["masklet"]])
    expected = np.zeros((12, 2, 45, 63), np.uint8)
    for frame, found in project.iter_masks(range(12)):
        for mask in found:
            expected[frame, mask.object_id - 1] = coco_mask.decode(
                {"size": [45, 63], "counts": mask.rle.counts}
            )
    assert np.array_equal(decoded, expected)
    assert value["video_duration"] == pytest.approx(12 / project.video.fps)
    assert (value["video_height"], value["video_width"], value["video_resolution"]) == (45.0, 63.0, 2835.0)
    assert value["masklet_num"] == 2
    assert value["masklet_first_appeared_frame"] == [0, 2]
    assert value["masklet_visibility_changes"] == [1, 1]
    assert value["masklet_frame_count"] == [12, 12]
    assert value["masklet_edited_frame_count"] == [1, 0]
    assert value["masklet_type"] == ["manual", "manual"]  # the ball was accepted on frame 2
    assert value["masklet_size_bucket"] == ["small", "small"]
    areas = expected.sum(axis=(2, 3))
    mean = [float(areas[areas[:, i] > 0, i].mean()) for i in range(2)]
    assert value["masklet_size_abs"] == pytest.approx(mean)
    extra = value["x_project"]
    assert extra["frame_indices"] == list(range(12))
    assert (extra["model"], extra["precision"], extra["mutual_kv_epsilon"]) == ("embedded", "w6a6", 0.94)
    assert extra["masklet_unlabelled"] == [[], [0, 1, 8, 9, 10, 11]]


def test_names_classes_gaps_and_frames_come_back(project: Project, blank: Project, tmp_path: Path) -> None:
    exported(project, tmp_path / "a.json", stride=2, start=1)
    import_into(blank, tmp_path / "a.json")
    assert [(o.name, o.color) for o in blank.objects.values()] == [("dog", "#123456"), ("ball", "#800000")]
    assert [c.name for c in blank.classes.values()] == ["animal"]
    assert blank.frames_with_mask(1).tolist() == [1, 3, 5, 7, 9, 11]
    assert blank.frames_with_mask(2).tolist() == [3, 5, 7]
    for frame in (3, 5, 7, 9):
        assert [m.rle for m in blank.masks_on(frame)] == [m.rle for m in project.masks_on(frame)]


def test_what_sav_cannot_hold_is_told(project: Project, tmp_path: Path) -> None:
    report = FORMATS["sav"].export(project, tmp_path / "a.json", ExportOptions(stride=2))
    texts = {loss.kind: str(loss) for loss in report.losses}
    assert texts == {
        "skipped_frames": "9 masks on frames that are not written.",
        "unlabelled": "3 masks missing (not tracked there) and written as out of view.",
    }
    with pytest.raises(FormatError, match="fixed grid"):
        FORMATS["sav"].export(project, tmp_path / "b.json", ExportOptions(only_reviewed=True))
    assert not (tmp_path / "b.json").exists()
