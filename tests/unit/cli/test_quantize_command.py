"""`qminisam2 quantize` on a tiny model and clip: its report, its estimate, being run by another program."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_tracking import true_mask, write_clip
from PIL import Image
from safetensors.torch import save_file

from app.__main__ import main
from app.cli.quantize import clip_requests
from app.cli.remote import Remote
from app.project import edits
from app.project.project import Project
from app.project.video_link import describe_video
from qcore import masks
from qcore.evaluation.metrics import boundary_f, region_similarity
from qcore.masks import decode
from qcore.models.embedded import ARCH_METADATA_KEY, EmbeddedArch, build_embedded
from qcore.quant.clip_list import read_clip_list, write_clip_list
from qcore.quant.clip_selection import AcceptedObject, ClipRequest
from qcore.quant.errors import QuantizationError
from qcore.quant.report import CalibrationReport
from qcore.video import open_source

TINY = EmbeddedArch(
    input_size=64, d_model=32, mem_dim=32, memory_layers=1, ffn_dim=64, num_maskmem=3, fuser_layers=1
)
ONE_UNIT = ["--include", "image_encoder.neck.*", "--method", "brecq", "--iterations", "2"]


def write_tiny_model(path: Path) -> Path:
    torch.manual_seed(0)
    save_file(build_embedded(TINY).state_dict(), path, metadata={ARCH_METADATA_KEY: TINY.to_json()})
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.safetensors")


def small_set(model: Path, clip: Path) -> list[str]:
    clips = ["--clip-count", "1", "--frames-per-clip", "3", "--stride", "2"]
    return ["--model", str(model), "--clips", str(clip), *clips, "--bits", "w6a6", "--device", "cpu"]


def test_the_report_says_what_both_models_draw(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.quantize.measure_in_process", lambda *_, **__: None)
    clip = write_clip(tmp_path / "<b>squares.mp4")
    out, page, data = tmp_path / "q.safetensors", tmp_path / "r" / "report.html", tmp_path / "r" / "r.json"
    args = [*small_set(tiny, clip), *ONE_UNIT, "--out", str(out), "--report", str(page)]
    assert main(["quantize", *args, "--report-json", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    value = json.loads(data.read_text())
    report = CalibrationReport.from_json(value)
    assert CalibrationReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert result["agreement"] == value["JF"] == round(100 * report.jf, 2)
    assert report.held_out and report.after.size_bytes == out.stat().st_size
    assert report.before.size_bytes == tiny.stat().st_size
    # an oracle of its own: J and F of the masks that are kept (small videos are kept at their own size)
    for flip in report.flips:
        a, b = decode(flip.full), decode(flip.quantized)
        assert flip.score.j == pytest.approx(region_similarity(b, a))
        assert flip.score.f == pytest.approx(boundary_f(b, a))
    assert [f.score.jf for f in report.flips] == sorted(f.score.jf for f in report.flips)
    used = set(range(*_calibrated(report)))
    assert not used & {score.frame_index for score in report.frames}
    html = page.read_text()
    assert report.verdict().split(" (")[0] in html
    assert "&lt;b&gt;squares.mp4" in html and "<b>" not in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")


def _calibrated(report: CalibrationReport) -> tuple[int, int, int]:
    name, count = report.clips[0]
    start = int(name.rpartition("@")[2])
    return start, start + 2 * count, 2


def test_an_estimate_needs_no_file_to_write(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "squares.mp4")
    assert main(["quantize", *small_set(tiny, clip), *ONE_UNIT, "--estimate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] > 0 and found["memory_bytes"] > 1e7 and found["disk_bytes"] > 1e7
    assert found["units"] >= found["measured_units"] > 0
    # only the neck is taken part of: what --bits auto may choose lies between its 4 and its 8 bits
    neck = sum(
        p.numel() for n, p in build_embedded(TINY).image_encoder.neck.named_parameters() if "weight" in n
    )
    assert found["largest_weight_bytes"] - found["smallest_weight_bytes"] == neck - neck // 2


def run_remote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], control: Any
) -> tuple[int, list[dict[str, Any]]]:
    monkeypatch.setattr("app.cli.quantize.be_polite", lambda: None)
    monkeypatch.setattr(sys, "stdin", control)
    code = main(["quantize", *args, "--remote"])
    lines = capsys.readouterr().out.splitlines()
    return code, [json.loads(line) for line in lines]


class Open(io.StringIO):
    """A stdin that gives its lines and then stays open."""

    def __iter__(self) -> Any:
        import threading

        yield from self.getvalue().splitlines()
        threading.Event().wait()


def test_another_program_hears_of_units_and_of_the_result(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "squares.mp4")
    args = [*small_set(tiny, clip), *ONE_UNIT, "--out", str(tmp_path / "q.safetensors")]
    code, events = run_remote(monkeypatch, capsys, args, Open())
    assert code == 0
    assert events[-1]["event"] == "result" and Path(events[-1]["bundle"]).exists()
    steps = [event for event in events if event["event"] == "progress"]
    assert {"observe", "reconstruct"} <= {event["stage"] for event in steps}
    shares = [event["done"] for event in steps]
    assert shares == sorted(shares)


def test_a_program_that_goes_away_stops_the_calibration(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "squares.mp4")
    args = [*small_set(tiny, clip), *ONE_UNIT, "--out", str(tmp_path / "q.safetensors")]
    code, events = run_remote(monkeypatch, capsys, args, io.StringIO(""))
    assert code == 1 and events[-1]["event"] == "stopped"
    assert not (tmp_path / "q.safetensors").exists()


def test_a_full_disk_is_one_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "squares.mp4")
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("app.cli.quantize.shutil.disk_usage", lambda _path: usage)
    args = [*small_set(tiny, clip), *ONE_UNIT, "--out", str(tmp_path / "q.safetensors")]
    code, events = run_remote(monkeypatch, capsys, args, Open())
    assert code == 1 and events[-1]["event"] == "error"
    assert "too full" in events[-1]["message"] and "1 MB free" in events[-1]["message"]


def test_pause_waits_between_steps_and_resume_goes_on() -> None:
    import os
    import threading

    read_end, write_end = os.pipe()
    out = io.StringIO()
    with os.fdopen(read_end) as control, os.fdopen(write_end, "w") as hand:
        remote = Remote(out, control)
        hand.write("pause\n")
        hand.flush()
        answers: list[bool] = []
        while not remote._paused:
            pass
        thread = threading.Thread(target=lambda: answers.append(remote.should_stop()))
        thread.start()
        while "paused" not in out.getvalue():
            pass
        assert thread.is_alive() and not answers
        hand.write("resume\n")
        hand.flush()
        thread.join(20)
        assert answers == [False] and '"resumed"' in out.getvalue()
        hand.write("stop\n")
        hand.flush()
        while not remote.should_stop():
            pass


def test_a_project_brings_boxes_of_its_objects_and_its_accepted_masks(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "squares.mp4")
    with open_source(clip) as source:
        project = Project.create(tmp_path / "p.qmsproj", describe_video(source, tmp_path / "p.qmsproj"))
    project.apply(edits.add_object(project, "left"))
    object_id = next(iter(project.objects))
    for frame in (3, 5, 7):
        rle = masks.encode(true_mask(0, frame))
        project.apply(edits.set_mask(project, frame, object_id, rle))
    project.close()
    (request,) = clip_requests(tmp_path / "p.qmsproj")
    ys, xs = np.nonzero(true_mask(0, 3))
    assert request.prompts == ((3, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)),)
    assert [entry.name for entry in request.accepted] == ["left"]
    assert set(request.accepted[0].masks) == {3, 5, 7}


def test_a_list_of_clips_survives_a_file_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    rle = masks.encode(true_mask(1, 0))
    requests = [
        ClipRequest(tmp_path / "a.mp4", ((2, (1.0, 2.0, 3.0, 4.0)),), (AcceptedObject("x", {4: rle}),)),
        ClipRequest(tmp_path / "b"),
    ]
    write_clip_list(tmp_path / "clips.json", requests)
    assert read_clip_list(tmp_path / "clips.json") == requests
    for text in (
        "{", "[]", '{"clips": [{"path": 3}]}',
        '{"clips": [{"path": "a", "prompts": [{"frame": -1, "box": [0, 0, 1, 1]}]}]}',
        '{"clips": [{"path": "a", "prompts": [{"frame": 1, "box": [0, 0, 0, 1]}]}]}',
    ):  # fmt: skip
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(QuantizationError, match=r"bad\.json"):
            read_clip_list(tmp_path / "bad.json")


def test_a_folder_of_frames_is_measured(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((48, 64, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    args = ["models", "measure", str(tiny), "--clip", str(folder), "--device", "cpu", "--json"]
    assert main(args) == 0
    speed = json.loads(capsys.readouterr().out)["speed"]
    assert speed["frame_ms"] == pytest.approx(speed["encode_ms"] + speed["track_ms"], abs=0.11)
    assert speed["peak_rss_mb"] > 50
