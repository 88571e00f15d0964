"""The command line as a person runs it: a process of its own, the shipped clip and the shipped model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pycocotools.coco import COCO

from resources import resource_path

REPOSITORY = Path(__file__).resolve().parents[2]
RED, BLUE = [72, 207, 364, 640], [936, 98, 1083, 310]
"""Boxes around the two balloons on the first frame, pixels."""


def qminisam2(*arguments: str) -> subprocess.CompletedProcess[str]:
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


def test_two_balloons_from_boxes_to_coco_without_a_display(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.json", tmp_path / "out"
    objects = [
        {"id": number, "name": name, "prompts": [{"frame": 0, "box": box}]}
        for number, name, box in ((1, "red", RED), (2, "blue", BLUE))
    ]
    prompts.write_text(json.dumps({"objects": objects}), encoding="utf-8")
    clip = str(resource_path("sample/balloons.mp4"))
    done = qminisam2(
        *("propagate", clip, "--prompts", str(prompts), "--stop", "4", "--out", str(out)),
        *("--format", "sav,coco,davis,overlay", "--device", "cpu", "--json"),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["model"] == "embedded"
    assert [item["masks"] for item in summary["objects"]] == [5, 5]
    coco = COCO(next(export["path"] for export in summary["exports"] if export["format"] == "coco"))
    assert len(coco.imgs) == 5
    for annotation in coco.anns.values():
        left, top, width, height = annotation["bbox"]
        box = RED if annotation["attributes"]["name"] == "red" else BLUE
        assert overlap((left, top, left + width, top + height), box) > 0.6
    for export in summary["exports"]:
        assert Path(export["path"]).exists()


def overlap(a: tuple[float, ...], b: list[int]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / area


def test_errors_of_the_real_process_are_one_line(tmp_path: Path) -> None:
    video = tmp_path / "fake.mp4"
    video.write_text("this is no video", encoding="utf-8")
    (tmp_path / "p.json").write_text("{}", encoding="utf-8")
    done = qminisam2(
        *("propagate", str(video), "--prompts", str(tmp_path / "p.json"), "--out", str(tmp_path / "out"))
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("qminisam2: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
