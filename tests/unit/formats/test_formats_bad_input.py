"""Files and places that are wrong: one sentence, nothing changed, nothing left behind."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.formats import (
    FORMATS,
    ExportCancelled,
    ExportOptions,
    FormatError,
    guess_format,
    import_into,
    reading,
)
from app.project import Project, edits
from qcore import masks

Json = dict[str, Any]


def refused(project: Project, path: Path, format_id: str | None, match: str) -> None:
    """Importing gives one sentence and leaves the project as it was."""
    before = project.path.read_bytes(), dict(project.objects)
    with pytest.raises(FormatError, match=match) as caught:
        import_into(project, path, format_id)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 250
    assert (project.path.read_bytes(), dict(project.objects)) == before


@pytest.fixture
def documents(project: Project, tmp_path: Path) -> dict[str, Json]:
    """Good SA-V and COCO files as JSON values."""
    found = {}
    for format_id in ("sav", "coco"):
        path = tmp_path / f"good-{format_id}.json"
        FORMATS[format_id].export(project, path, ExportOptions(stride=1))
        found[format_id] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("format_id", ["sav", "coco", None])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00\x01", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"masklet": ' + b"1" * 6000 + b"}", "not valid JSON"),
        (b"[]", "does not hold annotations"),
        (b"{}", "SA-V|COCO"),
    ],
)
def test_broken_json_is_refused(
    blank: Project, tmp_path: Path, format_id: str | None, content: bytes, match: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    refused(blank, path, format_id, match)


def test_a_missing_and_a_too_large_file_are_refused(
    blank: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(blank, tmp_path / "gone.json", "sav", "cannot be read: no such file")
    (tmp_path / "big.json").write_text(json.dumps({"masklet": [0] * 100}))
    monkeypatch.setattr(reading, "MAX_JSON_BYTES", 50)
    refused(blank, tmp_path / "big.json", "sav", "larger than")


def _set(*keys: Any, value: Any) -> Callable[[Json], None]:
    def change(document: Json) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


SAV_DAMAGE: dict[str, tuple[Callable[[Json], None], str]] = {
    "masks no list": (_set("masklet", value=5), "no list"),
    "a row too short": (_set("masklet", 3, value=[]), "does not have 2 masks"),
    "a row no list": (_set("masklet", 3, value=7), "does not have 2 masks"),
    "a null mask": (_set("masklet", 0, 0, value=None), "not an object"),
    "another size": (_set("masklet", 0, 0, "size", value=[63, 45]), "63 x 45|45 x 63"),
    "runs beyond the frame": (_set("masklet", 0, 0, "counts", value="PPYo1PPYo1"), "run"),
    "runs of numbers": (_set("masklet", 0, 0, "counts", value=[2835, 1]), "do not fill"),
    "a cut off mask": (_set("masklet", 0, 0, "counts", value="o"), "cut off"),
    "a negative count": (_set("masklet_num", value=-1), "whole number"),
    "a monstrous count": (_set("masklet_num", value=10**9), "whole number"),
    "a frame beyond the end": (_set("x_project", "frame_indices", 11, value=99), "annotates frame 99"),
    "frames backwards": (_set("x_project", "frame_indices", 11, value=0), "not ascending"),
    "a text as masklet id": (_set("masklet_id", 0, value="x"), "masklet id"),
}


@pytest.mark.parametrize("what", SAV_DAMAGE)
def test_a_damaged_sav_file_is_refused(
    blank: Project, tmp_path: Path, documents: dict[str, Json], what: str
) -> None:
    change, match = SAV_DAMAGE[what]
    change(documents["sav"])
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(documents["sav"]))
    refused(blank, path, None, match)


def test_sav_of_a_video_of_another_length_is_refused(
    blank: Project, tmp_path: Path, documents: dict[str, Json]
) -> None:
    document = documents["sav"]
    del document["x_project"]
    document["video_frame_count"] = 13.0
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    refused(blank, path, None, "made for a video of 13 frames, but this one has 12")


COCO_DAMAGE: dict[str, tuple[Callable[[Json], None], str]] = {
    "images no list": (_set("images", value={}), "no list"),
    "an image of another size": (_set("images", 0, "width", value=64), "64 x 45"),
    "an image without size": (_set("images", 0, "width", value=None), "None x 45"),
    "a frame beyond the end": (_set("images", 0, "frame_index", value=12), "annotates frame 12"),
    "a frame of text": (_set("images", 0, "frame_index", value="x"), "frame number"),
    "one frame twice": (_set("images", 0, "frame_index", value=1), "same frame"),
    "one image twice": (_set("images", 0, "id", value=2), "id of its own"),
    "an image id that is a list": (_set("images", 0, "id", value=[]), "id of its own"),
    "an annotation without image": (_set("annotations", 0, "image_id", value=None), "its image"),
    "no segmentation": (_set("annotations", 0, "segmentation", value=None), "not an object"),
    "a broken mask": (_set("annotations", 0, "segmentation", "counts", value="12"), "does not fit"),
    "a short polygon": (_set("annotations", 0, "segmentation", value=[[1, 2, 3, 4]]), "three or more"),
    "an odd polygon": (_set("annotations", 0, "segmentation", value=[[1] * 7]), "three or more"),
    "a polygon of text": (_set("annotations", 0, "segmentation", value=[["x"] * 6]), "no number"),
    "an endless polygon": (_set("annotations", 0, "segmentation", value=[[10**400] * 6]), "no number|JSON"),
    "a category of text": (_set("categories", 0, value="x"), "category"),
}


@pytest.mark.parametrize("what", COCO_DAMAGE)
def test_a_damaged_coco_file_is_refused(
    blank: Project, tmp_path: Path, documents: dict[str, Json], what: str
) -> None:
    change, match = COCO_DAMAGE[what]
    change(documents["coco"])
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(documents["coco"]))
    refused(blank, path, None, match)


def test_coco_of_several_videos_gives_the_one_of_this_name(
    blank: Project, tmp_path: Path, documents: dict[str, Json]
) -> None:
    document = documents["coco"]
    other = copy.deepcopy(document["images"][0]) | {"id": 99, "video_id": 2, "width": 1}
    document["images"].append(other)
    document["videos"].append({"id": 2, "name": "another"})
    path = tmp_path / "two.json"
    path.write_text(json.dumps(document))
    import_into(blank, path)
    assert len(blank.objects) == 2
    document["videos"][0]["name"] = "elsewhere"
    path.write_text(json.dumps(document))
    refused(blank, path, "coco", "2 videos and none is named “clip”")


def test_a_huge_polygon_is_drawn_only_inside_the_frame(
    blank: Project, tmp_path: Path, documents: dict[str, Json]
) -> None:
    far = 10.0**12
    document = documents["coco"]
    document["annotations"] = [
        document["annotations"][0] | {"segmentation": [[-far, -far, far, -far, far, far, -far, far]]}
    ]
    path = tmp_path / "far.json"
    path.write_text(json.dumps(document))
    import_into(blank, path)
    mask = blank.mask(0, 1)
    assert mask is not None and mask.rle.area == 45 * 63


@pytest.mark.parametrize("seed", range(30))
def test_randomly_changed_files_are_refused_or_read(
    blank: Project, tmp_path: Path, documents: dict[str, Json], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    document = documents["sav" if seed % 2 else "coco"]
    junk: list[Any] = [None, -1, 10**30, "x", [], {}, [[]], True, 0.5, {"id": 1}]
    for _ in range(3):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = keys[int(rng.integers(len(keys)))]
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.25:
                place[key] = copy.deepcopy(junk[int(rng.integers(len(junk)))])
                break
            place = inner
    path = tmp_path / "random.json"
    path.write_text(json.dumps(document))
    try:
        import_into(blank, path)
    except FormatError as error:
        assert str(error).endswith(".")
        assert not blank.objects
    for _, found in blank.iter_masks():
        assert all(masks.decode(mask.rle).shape == (45, 63) for mask in found)


# -- DAVIS folders -------------------------------------------------------------------------------------------


def _png(folder: Path, name: str, image: Image.Image) -> Path:
    folder.mkdir(exist_ok=True)
    image.save(folder / name)
    return folder


def test_bad_davis_folders_are_refused(blank: Project, tmp_path: Path) -> None:
    good = Image.new("P", (63, 45))
    refused(blank, tmp_path / "gone", "davis", "not a folder")
    (tmp_path / "empty").mkdir()
    refused(blank, tmp_path / "empty", "davis", "no numbered PNG")
    refused(blank, _png(tmp_path / "size", "00000.png", Image.new("P", (64, 45))), "davis", "64 x 45 pixels")
    refused(blank, _png(tmp_path / "rgb", "00000.png", Image.new("RGB", (63, 45))), "davis", "a picture")
    refused(blank, _png(tmp_path / "late", "00012.png", good), "davis", "annotates frame 12")
    cut = _png(tmp_path / "cut", "00000.png", good) / "00000.png"
    cut.write_bytes(cut.read_bytes()[:50])
    refused(blank, tmp_path / "cut", "davis", "not a readable PNG")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "00000.png").write_text("hello")
    refused(blank, tmp_path / "text", "davis", "not a readable PNG")
    _png(tmp_path / "two", "x.png", good)
    _png(tmp_path / "two" / "a", "00000.png", good)
    _png(tmp_path / "two" / "b", "00000.png", good)
    refused(blank, tmp_path / "two", None, "2 sequences and none is named “clip”")


def test_pixels_that_mean_do_not_care_are_left_out_and_told(blank: Project, tmp_path: Path) -> None:
    image = np.zeros((45, 63), np.uint8)
    image[:5], image[5:9] = 3, 255
    _png(tmp_path / "void", "00002.png", Image.fromarray(image))
    imported, _ = import_into(blank, tmp_path / "void")
    assert [o.name for o in blank.objects.values()] == ["Object 3"]
    assert imported.notes == ("Pixels of value 255 mean “do not care” and were left out.",)


def test_the_format_of_a_file_is_guessed_from_its_content(tmp_path: Path, documents: dict[str, Json]) -> None:
    assert guess_format(tmp_path / "good-sav.json") == "sav"
    assert guess_format(tmp_path / "good-coco.json") == "coco"
    assert guess_format(tmp_path) == "davis"


# -- exports that fail ---------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
        if ".qmsproj" not in p.name
    }


@pytest.mark.parametrize("format_id", FORMATS)
def test_a_cancelled_export_leaves_nothing_and_the_earlier_one_stands(
    project: Project, tmp_path: Path, format_id: str
) -> None:
    entry = FORMATS[format_id]
    path = tmp_path / "out" / entry.default_name(project.video)

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise ExportCancelled

    with pytest.raises(ExportCancelled):
        entry.export(project, path, ExportOptions(stride=1), cancel)
    assert [p for p in path.parent.rglob("*") if p.is_file()] == []

    calls: list[tuple[int, int]] = []
    report = entry.export(project, path, ExportOptions(stride=1), lambda d, t: calls.append((d, t)))
    assert calls == [(n, 12) for n in range(13)]
    assert report.frame_count == 12 and report.path == path
    assert json.loads(json.dumps(report.to_json()))["format"] == format_id
    before = contents(tmp_path)
    with pytest.raises(ExportCancelled):
        entry.export(project, path, ExportOptions(stride=1), cancel)
    assert contents(tmp_path) == before
    entry.export(project, path, ExportOptions(stride=1))
    assert set(contents(tmp_path)) == set(before)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """A function after which this process cannot write files beyond so many bytes: as good as a full disk."""
    if sys.platform == "win32":
        pytest.skip("limits of the file size are a POSIX matter")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("format_id", FORMATS)
def test_a_disk_that_takes_no_more_bytes_is_a_sentence(
    project: Project, tmp_path: Path, format_id: str, small_files: Callable[[int], None]
) -> None:
    entry = FORMATS[format_id]
    before = contents(tmp_path)
    small_files(10)
    with pytest.raises(FormatError, match=r"cannot be written: .*\.$"):
        entry.export(project, tmp_path / entry.default_name(project.video), ExportOptions(stride=1))
    small_files(1 << 30)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("format_id", FORMATS)
def test_a_folder_that_cannot_be_written_is_a_sentence(
    project: Project, tmp_path: Path, format_id: str
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FormatError, match="cannot be written"):
        FORMATS[format_id].export(project, tmp_path / "file" / "out.json", ExportOptions(stride=1))
    if Path("/sys/kernel").is_dir() and os.name == "posix":
        with pytest.raises(FormatError, match="cannot be written"):
            FORMATS[format_id].export(project, Path("/sys/kernel/out.json"), ExportOptions(stride=1))


def test_folders_with_other_files_are_never_replaced(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FormatError, match="holds other files"):
        FORMATS["davis"].export(project, folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
    with pytest.raises(FormatError, match="is a folder"):
        FORMATS["sav"].export(project, folder)
    with pytest.raises(FormatError, match="is a file"):
        FORMATS["davis"].export(project, folder / "thesis.txt")


def test_impossible_choices_are_refused(project: Project, blank: Project, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    for options in (
        ExportOptions(start=5, stop=3),
        ExportOptions(stop=12),
        ExportOptions(start=-1),
        ExportOptions(stride=0),
    ):
        with pytest.raises(FormatError, match=r"range|step"):
            FORMATS["coco"].export(project, out, options)
    with pytest.raises(FormatError, match="nothing to export"):
        FORMATS["coco"].export(blank, out)
    with pytest.raises(FormatError, match="nothing to export"):
        FORMATS["coco"].export(project, out, ExportOptions(object_ids=(2,), start=9))
    with pytest.raises(FormatError, match="cannot be imported"):
        FORMATS["yolo"].read(out, project.video)
    assert not out.exists()


def test_a_missing_video_is_a_sentence_only_where_frames_are_needed(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.formats.output.find_video", lambda project: None)
    with pytest.raises(FormatError, match="is missing and has to be located"):
        FORMATS["overlay"].export(project, tmp_path / "o.mp4")
    FORMATS["davis"].export(project, tmp_path / "d")


def test_importing_twice_by_name_keeps_protected_masks(project: Project, tmp_path: Path) -> None:
    FORMATS["coco"].export(project, tmp_path / "a.json")
    own = masks.encode(np.ones((45, 63)))
    project.apply(edits.set_mask(project, 4, 1, own))
    _, merged = import_into(project, tmp_path / "a.json", match_names=True)
    assert merged.object_ids == (1, 2)
    assert merged.kept_masks == 1 + 3 + 1  # the edit, the dog accepted on three frames, the ball on one
    kept = project.mask(4, 1)
    assert kept is not None and kept.rle == own
    _, merged = import_into(project, tmp_path / "a.json")
    assert merged.object_ids == (3, 4)
    project.apply(merged.change.inverted())
    assert list(project.objects) == [1, 2]
