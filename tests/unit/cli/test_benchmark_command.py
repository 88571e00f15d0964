"""`qminisam2 benchmark` through the real entry point, on a tiny model and a benchmark folder made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from app.__main__ import main
from qcore.evaluation.tables import ABLATION, Recipe, table_recipes, tables_markdown
from qcore.models import EmbeddedArch, build_embedded
from qcore.models.embedded import ARCH_METADATA_KEY
from qcore.quant import pipeline


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A tiny model's file, a benchmark of one sequence, and frames to calibrate on."""
    arch = EmbeddedArch(
        input_size=64, d_model=32, mem_dim=32, memory_layers=1, ffn_dim=64, num_maskmem=3, fuser_layers=1
    )
    model = tmp_path / "small.safetensors"
    save_file(build_embedded(arch).state_dict(), model, metadata={ARCH_METADATA_KEY: arch.to_json()})
    frames = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 10:30] = 255
    for name, image, suffix in (
        ("bench/JPEGImages/a", frames, "jpg"),
        ("bench/Annotations/a", mask, "png"),
        ("calibration", frames, "png"),
    ):
        (tmp_path / name).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(np.roll(image, index, 1)).save(tmp_path / name / f"{index:05d}.{suffix}")
    return model, tmp_path / "bench", tmp_path / "calibration"


def arguments(model: Path, bench: Path, clips: Path, out: Path) -> list[str]:
    command = [
        "benchmark",
        "tables",
        "--model",
        str(model),
        "--video-root",
        str(bench),
        "--clips",
        str(clips),
    ]
    command += ["--clip-count", "1", "--frames-per-clip", "2", "--bits", "w4a4", "--methods", "minmax"]
    return [*command, "--no-ablation", "--seeds", "0", "--out", str(out), "--json"]


def test_tables_are_written_and_a_second_run_measures_nothing_again(
    folders: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert main(arguments(*folders, out)) == 0
    first = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in first["rows"]] == ["fp", "minmax"]
    bundle = out / "bundles" / "minmax-w4a4-seed0.safetensors"
    assert first["rows"][1]["size_bytes"] == bundle.stat().st_size < first["rows"][0]["size_bytes"]
    assert "| minmax | w4a4 |" in (out / "tables.md").read_text(encoding="utf-8")
    assert (out / "figure3.svg").read_text(encoding="utf-8").startswith("<svg")

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(pipeline, "quantize_model", refuse)
    assert main(arguments(*folders, out)) == 0
    assert json.loads(capsys.readouterr().out) == first

    assert main(["benchmark", "size", str(bundle), "--json"]) == 0
    (size,) = json.loads(capsys.readouterr().out)
    parts = sum(size["weight_bytes"].values()) + size["qparam_bytes"] + size["float_bytes"]
    assert parts + size["header_bytes"] == size["file_bytes"] == bundle.stat().st_size
    assert set(size["weight_bytes"]) == {"4", "5", "8"}


def test_calibrating_on_the_scored_frames_and_mixing_settings_are_refused(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, bench, clips = folders
    assert main(arguments(model, bench, bench / "JPEGImages" / "a", tmp_path / "out")) == 1
    assert "calibrate on other clips" in capsys.readouterr().err
    rows = tmp_path / "other" / "rows"
    rows.mkdir(parents=True)
    (rows / "settings.txt").write_text("{}", encoding="utf-8")
    assert main(arguments(model, bench, clips, tmp_path / "other")) == 1
    assert "other settings" in capsys.readouterr().err


def test_the_ablation_runs_every_variant_with_every_seed_and_reports_their_spread() -> None:
    recipes = table_recipes(["w4a4"], ["minmax", "q-minisam2"], [0, 1], ablation=True)
    keys = [recipe.key for recipe in recipes]
    assert len(keys) == len(set(keys)) == 1 + 1 + len(ABLATION) * 2
    base = {"J": 1.0, "F": 1.0, "size_bytes": 1, "calibration_s": 0.0}
    rows = {recipe.key: {**base, "JF": 50.0 + 2 * recipe.seed} for recipe in recipes}
    text = tables_markdown(rows, recipes)
    assert "| Base+HVQ | 51.00 | 1.41 | 2 |" in text
    assert Recipe("q-minisam2", "w4a4", True, False, 1).key in rows
