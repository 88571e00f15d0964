"""`qminisam2 models` and `qminisam2 doctor` through the real entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.__main__ import main
from qcore.models import EmbeddedArch, build_embedded, models_dir
from qcore.models.embedded import ARCH_METADATA_KEY
from qcore.models.errors import ModelError
from qcore.runtime.probe import chooser_of_this_machine, remember


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    arch = EmbeddedArch(input_size=64, d_model=64, mem_dim=32, memory_layers=1, ffn_dim=64, fuser_layers=1)
    path = tmp_path / "small.safetensors"
    save_file(build_embedded(arch).state_dict(), path, metadata={ARCH_METADATA_KEY: arch.to_json()})
    return path


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 6
    for row in rows.values():
        assert {"id", "installed", "precision", "size_bytes", "licence"} <= row.keys()
    assert rows["embedded"]["installed"] is True
    assert rows["sam2.1_hiera_large"]["installed"] is False


def test_import_verify_and_remove(small_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "import", str(small_model), "--name", "mine", "--json"]) == 0
    imported = json.loads(capsys.readouterr().out)
    assert imported == {"id": "mine", "path": str(models_dir() / "mine.safetensors")}
    assert main(["models", "verify", "mine"]) == 0
    assert capsys.readouterr().out == "mine is intact.\n"
    assert main(["models", "list"]) == 0
    assert "mine" in capsys.readouterr().out
    assert main(["models", "remove", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["freed_bytes"] == small_model.stat().st_size


def test_a_failed_download_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_args: object) -> None:
        raise ModelError("The server is away.")

    monkeypatch.setattr("qcore.models.install.fetch_file", fail)
    assert main(["models", "download", "sam2.1_hiera_tiny"]) == 1
    assert capsys.readouterr().err == "qminisam2: The server is away.\n"


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = tmp_path / "evil.pt"
    torch.save({"model": {"a": print}}, evil)
    assert main(["models", "import", str(evil)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "refused" in shown.err


def test_the_doctor_names_versions_devices_models_and_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["packages"]["torch"] == torch.__version__
    assert "cpu" in found["devices"]
    assert found["kernels"]["cpu arithmetic"].startswith(("fp32; quantized ", "bf16; quantized "))
    assert found["kernel choices"] == {"none yet": "measured when a model first needs them"}
    assert found["models"]["embedded"].endswith(", installed")
    assert found["folders"]["models"] == str(models_dir())


def test_the_doctor_shows_which_kernels_won(capsys: pytest.CaptureFixture[str]) -> None:
    chooser = chooser_of_this_machine()
    chooser.known["scores 8x8x8"] = {"int8": 0.25, "float, plain": 0.125}
    chooser.measured = 1
    remember(chooser)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "scores 8x8x8  float, plain 0.125 ms; int8 0.250 ms" in shown


def test_the_doctor_says_how_to_get_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.cli.doctor.missing_libraries", lambda: ["libxcb-cursor.so.0"])
    monkeypatch.setattr("shutil.which", lambda tool: tool if tool == "apt-get" else None)
    monkeypatch.setattr("app.cli.doctor._PACKAGES", (("no-such-package", "no_such_module", True),))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "sudo apt-get install libxcb-cursor0" in shown
    assert "pip install no-such-package" in shown
