"""`qminisam2 evaluate` through the real entry point, on a benchmark folder made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.__main__ import main


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """One sequence of six frames whose square stands still, one whose square moves out of itself."""
    for name, step in (("still", 0), ("moving", 20)):
        for frame in range(6):
            mask = np.zeros((48, 160), np.uint8)
            mask[10:30, 10 + step * frame : 30 + step * frame] = 255
            for kind, suffix, image in (("JPEGImages", "jpg", mask // 2 + 60), ("Annotations", "png", mask)):
                folder = tmp_path / kind / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"{frame:05d}.{suffix}")
    return tmp_path


def test_the_static_mask_is_right_on_the_still_sequence_only(
    davis: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--dataset", "davis", "--root", str(davis), "--model", "static-mask", "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"model", "dataset", "prompt", "J", "F", "JF", "sequences", "fps", "peak_rss_mb"} <= report.keys()
    assert report["sequences"]["still"]["JF"] == 100
    assert report["sequences"]["moving"]["J"] == 0
    assert report["J"] == 50
    assert report["model"] == "static-mask"


def test_sequences_can_be_chosen_and_the_table_is_for_people(
    davis: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--dataset", "davis", "--root", str(davis), "--model", "static-mask"]
    assert main([*arguments, "--sequences", "still"]) == 0
    table = capsys.readouterr().out
    assert "| still |" in table
    assert "moving" not in table


def test_the_embedded_model_is_scored(davis: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--dataset", "davis", "--root", str(davis), "--sequences", "still", "--json"]
    assert main([*arguments, "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "embedded"
    assert report["prompt"] == "box"
    assert report["sequences"]["still"]["frames"] == 6
    assert 0 <= report["JF"] <= 100


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--sequences", "nothing"], "nothing"),
        (["--model", "no-such-model"], "There is no model 'no-such-model'"),
        (["--model", "gone.safetensors"], "gone.safetensors does not exist"),
    ],
)
def test_what_does_not_exist_is_named(
    davis: Path, extra: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--dataset", "davis", "--root", str(davis), *extra, "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1
