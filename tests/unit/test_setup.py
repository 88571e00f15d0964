"""The set-up script and the search for missing system libraries."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from app import system_libraries

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, working on an empty folder instead of this repository."""
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", ROOT / "packaging" / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "setup.json")
    monkeypatch.setattr(module, "CONSTRAINTS", tmp_path / "constraints.txt")
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "constraints.txt").write_text("torch==1")
    return module


def pretend_installed(bootstrap: ModuleType, extra: str | None) -> None:
    python = bootstrap.venv_python()
    python.parent.mkdir(parents=True)
    python.touch()
    bootstrap.STAMP.write_text(json.dumps(bootstrap.wanted(extra)))


def test_a_second_run_installs_nothing_until_a_pinned_version_changes(bootstrap: ModuleType) -> None:
    assert not bootstrap.is_current(None)
    pretend_installed(bootstrap, None)
    assert bootstrap.is_current(None)
    bootstrap.CONSTRAINTS.write_text("torch==2")
    assert not bootstrap.is_current(None)


def test_tests_need_their_tools_but_an_environment_with_tools_also_runs_the_program(
    bootstrap: ModuleType,
) -> None:
    pretend_installed(bootstrap, None)
    assert not bootstrap.is_current("dev")
    bootstrap.STAMP.write_text(json.dumps(bootstrap.wanted("dev")))
    assert bootstrap.is_current("dev")
    assert bootstrap.is_current(None)


def test_torch_is_installed_before_sam2_and_sam2_without_isolation(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(bootstrap, "make_venv", lambda: bootstrap.VENV.mkdir())
    monkeypatch.setattr(bootstrap, "run", lambda command, what, env=None: calls.append((command, env or {})))
    bootstrap.install("dev")
    packages = [command[command.index("-c") + 2 :] for command, _ in calls]
    assert "torch" in packages[0]
    assert "sam2" in packages[1] and "--no-build-isolation" in packages[1]
    assert calls[1][1] == {"SAM2_BUILD_CUDA": "0"}
    assert packages[2][-1].endswith("[dev]")


def test_a_full_disk_is_named_before_anything_is_downloaded(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(bootstrap.ROOT)._replace(free=10**9)
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(bootstrap.SetupError, match=r"0\.9 GiB are free"):
        bootstrap.install(None)


def test_an_old_python_without_a_newer_one_gets_one_sentence(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(bootstrap, "newer_python", lambda: None)
    with pytest.raises(bootstrap.SetupError, match=r"Python 3\.11 or newer is needed"):
        bootstrap.main(["run"])


@pytest.mark.parametrize(
    ("arguments", "window"),
    [([], True), (["clip.mp4"], True), (["propagate", "clip.mp4"], False), (["--help"], False)],
)
def test_only_the_window_needs_window_libraries(
    bootstrap: ModuleType, arguments: list[str], window: bool
) -> None:
    assert bootstrap.wants_window(arguments) is window


@pytest.mark.parametrize(
    ("cores", "arguments", "options"),
    [
        (2, [], ["-n", "2", "--dist", "worksteal"]),
        (64, ["-k", "timeline"], ["-n", "4", "--dist", "worksteal"]),
        (1, [], []),
        (8, ["-n0"], []),
        (8, ["--pdb"], []),
    ],
)
def test_the_suite_runs_a_process_a_core_unless_told_otherwise(
    bootstrap: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    arguments: list[str],
    options: list[str],
) -> None:
    monkeypatch.setattr(bootstrap.os, "cpu_count", lambda: cores)
    assert bootstrap.parallel(arguments) == options


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("readelf"), reason="needs Linux and readelf")
def test_needed_libraries_are_those_readelf_prints() -> None:
    import PySide6

    root = Path(PySide6.__file__).parent
    for part in system_libraries.WINDOW_PARTS:
        text = subprocess.run(
            ["readelf", "-d", root / part], capture_output=True, text=True, check=True
        ).stdout
        expected = [line.split("[")[1].rstrip("]") for line in text.splitlines() if "(NEEDED)" in line]
        assert expected
        assert system_libraries.needed_libraries(root / part) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="system libraries are looked at on Linux only")
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_libraries, "_loads", lambda name: name != "libxcb-cursor.so.0")
    monkeypatch.setattr(system_libraries.shutil, "which", lambda tool: tool == "apt-get" or None)
    assert system_libraries.main([]) == 1
    assert "sudo apt-get install libxcb-cursor0" in capsys.readouterr().out
    assert system_libraries.missing_libraries(window=False) == []


def test_every_library_of_the_window_has_a_package_name() -> None:
    names = {name for packages in system_libraries.PACKAGES.values() for name in packages}
    assert all(name and " " not in name for name in names)
