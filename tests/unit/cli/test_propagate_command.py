"""`qminisam2 propagate`, `export` and `import` through the real entry point, on a clip made here."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save_file

from app.__main__ import main
from app.project import Project, edits
from app.project.model import MaskSource
from qcore import masks
from qcore.models import EmbeddedArch, build_embedded, load_model
from qcore.models.embedded import ARCH_METADATA_KEY
from qcore.tracking.aids import Aids
from qcore.tracking.encoder import FrameEncoder
from qcore.tracking.feature_store import feature_store_folder
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Direction, MaskResult, Prompt
from qcore.video import open_source

FRAMES = 8
SIZE_HW = (48, 64)
BOX = (8.0, 8.0, 40.0, 36.0)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small compact model with random weights whose masks are neither empty nor full."""
    torch.manual_seed(3)
    arch = EmbeddedArch(input_size=64, d_model=64, mem_dim=32, memory_layers=1, ffn_dim=64, fuser_layers=1)
    model = build_embedded(arch)
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_file(model.state_dict(), path, metadata={ARCH_METADATA_KEY: arch.to_json()})
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of frames: a bright square that moves over noise."""
    folder = tmp_path_factory.mktemp("clip") / "square"
    folder.mkdir()
    random = np.random.default_rng(0)
    for frame in range(FRAMES):
        image = random.integers(0, 90, (*SIZE_HW, 3), dtype=np.uint8)
        image[10:30, 10 + frame : 34 + frame] = (230, 200, 80)
        Image.fromarray(image).save(folder / f"{frame:03d}.png")
    return folder


def square(frame: int) -> masks.Rle:
    mask = np.zeros(SIZE_HW, np.uint8)
    mask[10:30, 10 + frame : 34 + frame] = 1
    return masks.encode(mask)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    document = {
        "objects": [
            {"id": 3, "name": "dog", "class": "animal", "prompts": [{"frame": 0, "box": list(BOX)}]},
            {"id": 1, "name": "cat", "prompts": [{"frame": 2, "mask": masks.to_coco(square(2))}]},
        ]
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def command(clip: Path, prompts: Path, model_file: Path) -> list[str]:
    return [
        *("propagate", str(clip), "--prompts", str(prompts), "--model", str(model_file)),
        *("--device", "cpu"),
    ]


def stored(project: Path) -> dict[tuple[int, int], masks.Rle]:
    with Project.open(project, read_only=True) as opened:
        return {(mask.object_id, frame): mask.rle for frame, found in opened.iter_masks() for mask in found}


def test_the_project_holds_what_the_session_gives(
    command: list[str], clip: Path, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "work.qmsproj"
    assert main([*command, "--project", str(project), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    with open_source(clip) as source:
        model = load_model(model_file)
        session = VideoSession(model, source, aids=Aids.for_model(model))
        session.set_prompt(Prompt(0, 3, box_xyxy=BOX))
        session.set_prompt(Prompt(2, 1, mask=square(2)))
        expected = {(r.object_id, r.frame_index): r.rle for r in session.propagate()}
    found = stored(project)
    assert found.keys() == expected.keys()
    # the program runs on this machine's fastest kernels, which round differently
    assert min(masks.iou(found[key], expected[key]) for key in found) > 0.97
    assert found[1, 2] == square(2)
    assert sum(0 < rle.area < 0.9 * SIZE_HW[0] * SIZE_HW[1] for rle in found.values()) > FRAMES
    assert summary["frames"] == FRAMES
    assert summary["objects"] == [
        {"id": 3, "name": "dog", "masks": FRAMES},
        {"id": 1, "name": "cat", "masks": FRAMES - 2},
    ]
    assert summary["exports"] == []
    with Project.open(project) as opened:
        assert opened.objects[3].name == "dog"
        assert [label.name for label in opened.classes.values()] == ["animal"]
        assert opened.prompt(0, 3) == Prompt(0, 3, box_xyxy=BOX)
        assert opened.provenance[-1].model == str(model_file)


def test_encoded_frames_are_kept_on_disk_when_asked_for(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*command, "--project", str(tmp_path / "x.qmsproj"), "--feature-cache", "-1"]) == 2
    assert "is not a number of gigabytes" in capsys.readouterr().err
    runs: list[int] = []
    encode = FrameEncoder._encode

    def counted(self: FrameEncoder, rgb_hw3: Any) -> Any:
        runs.append(1)
        return encode(self, rgb_hw3)

    monkeypatch.setattr(FrameEncoder, "_encode", counted)
    found = []
    for name, options in (("a", []), ("b", ["--feature-cache", "0.1"]), ("c", ["--feature-cache", "0.1"])):
        assert main([*command, "--project", str(tmp_path / name), *options]) == 0
        found.append(stored(tmp_path / name))
        assert len(list(feature_store_folder().rglob("*.safetensors"))) == (0 if name == "a" else FRAMES)
    assert len(runs) == 2 * FRAMES  # none in the third run
    assert found[0] == found[1] == found[2]


def test_exports_without_a_project_hold_the_same_masks(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, out = tmp_path / "work.qmsproj", tmp_path / "new" / "out"
    both = ["--project", str(project), "--out", str(out), "--format", "coco,davis", "--json"]
    assert main([*command, *both]) == 0
    exports = {export["format"]: export for export in json.loads(capsys.readouterr().out)["exports"]}
    assert set(exports) == {"coco", "davis"}
    coco = COCO(exports["coco"]["path"])
    shown = {key: rle for key, rle in stored(project).items() if not rle.is_empty}
    assert len(coco.anns) == len(shown)
    for annotation in coco.anns.values():
        frame = coco.imgs[annotation["image_id"]]["frame_index"]
        expected = masks.decode(shown[annotation["track_id"], frame])
        assert np.array_equal(coco.annToMask(annotation), expected)
    other = tmp_path / "other"
    capsys.readouterr()
    assert main([*command, "--out", str(other), "--format", "coco"]) == 0
    again = COCO(str(other / Path(exports["coco"]["path"]).name))
    assert len(again.anns) == len(coco.anns)


@pytest.mark.parametrize(
    ("options", "frames_of_dog"),
    [
        (["--stop", "3"], {0, 1, 2, 3}),
        (["--start", "2", "--stop", "4"], {0, 2, 3, 4}),
        (["--direction", "both"], set(range(FRAMES))),
        (["--direction", "backward", "--start", "2"], {0}),
    ],
)
def test_span_and_direction(
    command: list[str], options: list[str], frames_of_dog: set[int], tmp_path: Path
) -> None:
    project = tmp_path / "work.qmsproj"
    assert main([*command, *options, "--project", str(project)]) == 0
    found = stored(project)
    assert {frame for object_id, frame in found if object_id == 3} >= frames_of_dog - {0}
    highest = max(frame for _, frame in found)
    assert highest == max(frames_of_dog | {2})


def test_going_on_keeps_accepted_masks_and_other_objects(
    command: list[str], prompts: Path, tmp_path: Path
) -> None:
    project = tmp_path / "work.qmsproj"
    assert main([*command, "--project", str(project)]) == 0
    before = stored(project)
    with Project.open(project) as opened:
        opened.apply(edits.set_mask(opened, 5, 3, square(5)))
    only_dog = {"objects": [{"id": 3, "prompts": [{"frame": 1, "box": list(BOX)}]}]}
    prompts.write_text(json.dumps(only_dog), encoding="utf-8")
    assert main([*command, "--project", str(project)]) == 0
    after = stored(project)
    assert after[3, 5] == square(5)
    assert {key: rle for key, rle in after.items() if key[0] == 1} == {
        key: rle for key, rle in before.items() if key[0] == 1
    }
    with Project.open(project) as opened:
        mask = opened.mask(5, 3)
        assert mask is not None
        assert mask.source is MaskSource.EDITED
        assert {prompt.frame_index for prompt in opened.prompts(3)} == {0, 1}
        assert opened.objects[3].name == "dog"


def test_ctrl_c_keeps_what_is_done(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    project, out = tmp_path / "work.qmsproj", tmp_path / "out"
    real = VideoSession.propagate

    def interrupted(self: VideoSession, *args: Any, **kwargs: Any) -> Iterator[MaskResult]:
        for result in real(self, *args, **kwargs):
            yield result
            if result.frame_index == 4:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(VideoSession, "propagate", interrupted)
    # a suite started in the background by a shell ignores Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    assert main([*command, "--project", str(project), "--out", str(out)]) == 1
    assert f"Stopped; the masks of 5 frames are kept in {project}." in capsys.readouterr().err
    assert {frame for _, frame in stored(project)} == {0, 1, 2, 3, 4}
    assert main([*command, "--out", str(out)]) == 1
    assert "nothing was kept" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_a_video_that_breaks_off_keeps_what_is_done(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "work.qmsproj"
    real = VideoSession.propagate

    def failing(self: VideoSession, *args: Any, **kwargs: Any) -> Iterator[MaskResult]:
        for result in real(self, *args, **kwargs):
            if result.frame_index == 3:
                raise OSError(5, "Input/output error", "clip.mp4")
            yield result

    monkeypatch.setattr(VideoSession, "propagate", failing)
    assert main([*command, "--project", str(project)]) == 1
    assert capsys.readouterr().err.endswith("clip.mp4: Input/output error.\n")
    assert {frame for _, frame in stored(project)} == {0, 1, 2}


def test_export_and_import_go_round(
    command: list[str], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, exported, other = (tmp_path / name for name in ("a.qmsproj", "a.json", "b.qmsproj"))
    assert main([*command, "--project", str(project), "--direction", Direction.BOTH.value]) == 0
    assert main(["export", str(project), "--format", "coco", "--out", str(exported), "--json"]) == 0
    capsys.readouterr()
    assert main(["export", str(project), "--format", "coco", "--out", str(exported), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == str(exported)
    assert main(["import", str(exported), "--into", str(other), "--video", str(clip), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {item["name"] for item in result["objects"]} == {"dog", "cat"}
    names = {item["id"]: item["name"] for item in result["objects"]}
    ids = {"dog": 3, "cat": 1}
    shown = {key: rle for key, rle in stored(project).items() if not rle.is_empty}
    found = {(ids[names[obj]], frame): rle for (obj, frame), rle in stored(other).items() if not rle.is_empty}
    assert found == shown


def test_some_frames_of_one_object_can_be_exported(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, out = tmp_path / "a.qmsproj", tmp_path / "out.json"
    assert main([*command, "--project", str(project)]) == 0
    choice = ["--format", "coco", "--out", str(out), "--objects", "1", "--start", "2", "--stride", "2"]
    assert main(["export", str(project), *choice]) == 0
    coco = COCO(str(out))
    assert {image["frame_index"] for image in coco.imgs.values()} <= {2, 4, 6}
    assert {annotation["track_id"] for annotation in coco.anns.values()} == {1}


def bad_cases(folder: Path, clip: Path) -> dict[str, tuple[list[str], str]]:
    """Command lines that must end with 1 and one sentence that contains the words."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video", encoding="utf-8")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    (folder / "broken.qmsproj").write_bytes(b"not SQLite at all" * 100)
    (folder / "wrong.safetensors").write_bytes(b"12345678")
    (folder / "file").write_text("in the way", encoding="utf-8")
    good = folder / "good.json"
    good.write_text('{"objects": [{"id": 1, "prompts": [{"frame": 0, "box": [1, 1, 20, 20]}]}]}')
    keep = ["--project", str(folder / "new.qmsproj")]
    run = ["propagate", str(clip), "--prompts", str(good)]
    return {
        "zero-byte video": (
            ["propagate", str(folder / "empty.mp4"), "--prompts", str(good), *keep],
            "empty.mp4",
        ),
        "text as video": (["propagate", str(folder / "text.mp4"), "--prompts", str(good), *keep], "text.mp4"),
        "no video": (["propagate", str(folder / "none.mp4"), "--prompts", str(good), *keep], "none.mp4"),
        "corrupt prompts": (
            ["propagate", str(clip), "--prompts", str(folder / "broken.json"), *keep],
            "broken.json",
        ),
        "damaged model": ([*run, "--model", str(folder / "wrong.safetensors"), *keep], "wrong.safetensors"),
        "unknown model": ([*run, "--model", "sam3", *keep], "There is no model 'sam3'"),
        "model not installed": ([*run, "--model", "sam2.1_hiera_tiny", *keep], "models download"),
        "damaged project": ([*run, "--project", str(folder / "broken.qmsproj")], "broken.qmsproj"),
        "unwritable exports": ([*run, "--out", str(folder / "file" / "out")], "file"),
        "unwritable project": ([*run, "--project", str(folder / "file" / "a.qmsproj")], "a.qmsproj"),
        "nothing kept": (run, "Nothing would be kept"),
        "format without folder": ([*run, *keep, "--format", "coco"], "--format needs --out"),
        "frame beyond the end": ([*run, *keep, "--stop", "8"], "from 0 to 7"),
        "no project to export": (
            ["export", str(folder / "none.qmsproj"), "--format", "coco", "--out", str(folder / "x.json")],
            "none.qmsproj",
        ),
        "no file to import": (["import", str(folder / "none.json"), *("--into", "x.qmsproj")], "none.json"),
        "corrupt file to import": (
            [
                *("import", str(folder / "broken.json"), "--into", str(folder / "new.qmsproj")),
                *("--video", str(clip)),
            ],
            "broken.json",
        ),
        "no project to import into": (
            ["import", str(folder / "broken.json"), "--into", str(folder / "new.qmsproj")],
            "give --video",
        ),
    }


CASES = [
    *("zero-byte video", "text as video", "no video", "corrupt prompts", "damaged model", "unknown model"),
    *("model not installed", "damaged project", "unwritable exports", "unwritable project", "nothing kept"),
    *("format without folder", "frame beyond the end", "no project to export", "no file to import"),
    *("corrupt file to import", "no project to import into"),
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_sentence(
    case: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = bad_cases(tmp_path, clip)
    assert set(cases) == set(CASES)
    argv, words = cases[case]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([*argv, "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "argv",
    [
        ["propagate", "a.mp4"],
        ["propagate", "a.mp4", "--prompts", "p.json", "--format", "gif"],
        ["propagate", "a.mp4", "--prompts", "p.json", "--format", ","],
        ["propagate", "a.mp4", "--prompts", "p.json", "--direction", "sideways"],
        ["export", "a.qmsproj", "--format", "gif", "--out", "b"],
        ["export", "a.qmsproj", "--format", "coco", "--out", "b", "--objects", "dog"],
        ["import", "a.json"],
        ["import", "a.json", "--into", "b.qmsproj", "--format", "overlay"],
    ],
)
def test_misuse_ends_with_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().out == ""


def test_an_option_that_the_format_would_ignore_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "a.qmsproj"
    assert main([*command, "--project", str(project), "--stop", "2"]) == 0
    out = ["--out", str(tmp_path / "out")]
    assert main(["export", str(project), "--format", "davis", "--polygons", *out]) == 1
    assert "no choice of --polygons" in capsys.readouterr().err
    assert main(["export", str(project), "--format", "coco", "--objects", "7", *out]) == 1
    assert "no object 7" in capsys.readouterr().err


def test_a_project_of_another_video_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, other = tmp_path / "a.qmsproj", tmp_path / "other"
    assert main([*command, "--project", str(project), "--stop", "2"]) == 0
    other.mkdir()
    for frame in range(FRAMES):
        Image.fromarray(np.full((*SIZE_HW, 3), frame, np.uint8)).save(other / f"{frame}.png")
    kept = stored(project)
    assert main(["propagate", str(other), *command[2:], "--project", str(project)]) == 1
    assert "is of another video" in capsys.readouterr().err
    assert stored(project) == kept
