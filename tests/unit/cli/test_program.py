"""The program around the verbs: choosing one, errors as one sentence, exit codes, JSON alone on stdout."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.__main__ import main
from app.cli import verbs
from app.cli.console import Console
from app.cli.errors import CommandError, sentence_for
from app.project import ProjectError
from app.threads import SWITCH_S, let_threads_sleep, take_turns_often
from qcore.models import ModelError
from qcore.video import VideoError

REPOSITORY = Path(__file__).resolve().parents[3]


class FakeVerb:
    """A verb that does what the test says."""

    def __init__(self, action: Callable[[Console], int]) -> None:
        self.action = action

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true")

    def run(self, args: argparse.Namespace, console: Console) -> int:
        return self.action(console)


@pytest.fixture
def fake_doctor(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Console], int]], None]:
    def install(action: Callable[[Console], int]) -> None:
        monkeypatch.setattr(verbs.Verb, "load", lambda self: FakeVerb(action))

    return install


def raising(error: BaseException) -> Callable[[Console], int]:
    def action(console: Console) -> int:
        raise error

    return action


def test_help_lists_the_verbs_without_importing_torch_or_qt() -> None:
    code = (
        "import sys; from app.__main__ import main; code = main(['--help']); "
        "print('LOADED', [m for m in ('torch', 'numpy', 'PySide6', 'sam2') if m in sys.modules], code)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert "LOADED [] 0" in shown
    for verb in ("models", "evaluate", "doctor"):
        assert f"  {verb} " in shown


def test_listing_models_does_not_import_torch() -> None:
    code = (
        "import sys; from app.__main__ import main; code = main(['models', 'list', '--json']); "
        "print('torch' in sys.modules, code, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == ["False", "0"]
    assert json.loads(done.stdout)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("qminisam2 ")


@pytest.mark.parametrize(
    "argv",
    [
        ["--nonsense"],
        ["propogate", "a.mp4"],
        ["no-such-file.mp4"],
        ["models"],
        ["models", "dance"],
        ["evaluate"],
        ["evaluate", "--dataset", "davis", "--root", ".", "--mutual-kv", "a lot"],
        ["evaluate", "--dataset", "davis", "--root", ".", "--prompt", "scribble"],
    ],
)
def test_misuse_ends_with_two_and_help_on_stderr(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: qminisam2" in shown.err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CommandError("Nothing to do."), "Nothing to do."),
        (VideoError("It is\n  empty."), "It is empty."),
        (ProjectError("“a” is damaged."), "“a” is damaged."),
        (ModelError("There is no model."), "There is no model."),
        (FileNotFoundError(2, "No such file or directory", "x.mp4"), "x.mp4: No such file or directory."),
        (OSError(28, "No space left on device"), "The disk is full: free some space and try again."),
        (MemoryError(), "There is not enough memory: close other programs, or choose a smaller model."),
        (KeyboardInterrupt(), "Stopped."),
    ],
)
def test_errors_become_one_sentence_and_exit_code_one(
    error: BaseException,
    sentence: str,
    fake_doctor: Callable[[Callable[[Console], int]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_doctor(raising(error))
    assert main(["doctor", "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"qminisam2: {sentence}\n"


def test_a_mistake_of_the_program_is_named_and_shown_in_full_on_demand(
    fake_doctor: Callable[[Callable[[Console], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_doctor(raising(ZeroDivisionError("oops")))
    assert main(["doctor"]) == 1
    brief = capsys.readouterr().err
    assert "mistake of the program: ZeroDivisionError: oops" in brief
    assert brief.count("\n") == 1
    assert main(["doctor", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert sentence_for(ValueError("inside")) is None


def test_what_libraries_print_stays_out_of_the_json(
    fake_doctor: Callable[[Callable[[Console], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def noisy(console: Console) -> int:
        print("library chatter")
        console.line("for people")
        console.result({"a": [1, 2]})
        return 0

    fake_doctor(noisy)
    assert main(["doctor", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"a": [1, 2]}
    assert shown.err == "library chatter\n"
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "library chatter\nfor people\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"'{sys.executable}' -m app models list | true"
    done = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_quiet_elsewhere() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with Console(stdout=io.StringIO(), stderr=stream).progress("Tracking", 10, "frames") as progress:
            for _ in range(10):
                progress.advance()
    assert "Tracking" in terminal.getvalue()
    assert file.getvalue() == ""


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    log = io.StringIO()
    with Console(stdout=io.StringIO(), stderr=log).progress("Tracking", 40, "frames") as progress:
        for done in range(1, 41):
            clock[0] += 1.0
            progress.set(done)
    assert log.getvalue().splitlines() == [f"Tracking: {done} of 40 frames" for done in (10, 20, 30, 40)]


def test_without_a_display_the_window_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("other systems always have a display")
    assert main([]) == 1
    assert "no display" in capsys.readouterr().err


def test_missing_system_libraries_are_named_with_their_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if sys.platform != "linux":
        pytest.skip("Qt brings everything elsewhere")
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.setattr("app.system_libraries.missing_libraries", lambda window=True: ["libxcb-cursor.so.0"])
    monkeypatch.setattr("shutil.which", lambda tool: tool if tool == "apt-get" else None)
    assert main([os.devnull]) == 1
    assert "sudo apt-get install libxcb-cursor0" in capsys.readouterr().err


def test_idle_threads_are_told_to_sleep_before_torch_is_imported() -> None:
    code = (
        "import os, sys; from app.__main__ import main; assert 'torch' not in sys.modules\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(os.environ['GOMP_SPINCOUNT'], os.environ['KMP_BLOCKTIME'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "KMP_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["1000 1 False"], done.stderr


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "1"}),
    ],
)
def test_what_the_user_says_of_waiting_threads_stands(chosen: dict[str, str], kept: dict[str, str]) -> None:
    environment = dict(chosen)
    let_threads_sleep(environment)
    assert environment == kept


def test_threads_of_python_take_turns_often() -> None:
    before = sys.getswitchinterval()
    try:
        take_turns_often()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    finally:
        sys.setswitchinterval(before)
