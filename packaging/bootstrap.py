#!/usr/bin/env python3
"""Set up everything on a fresh machine and start the program or its tests.

    python3 packaging/bootstrap.py run [arguments of qminisam2]
    python3 packaging/bootstrap.py test [arguments of pytest]
    python3 packaging/bootstrap.py check          ruff and mypy

Uses the standard library alone. Makes `.venv` beside `pyproject.toml`, installs the versions pinned in
`packaging/constraints.txt`, and does nothing on the next call unless those files changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "qminisam2-setup.json"
CONSTRAINTS = ROOT / "packaging" / "constraints.txt"
MINIMUM = (3, 11)
DISK_BYTES_NEEDED = 4 * 1024**3
MAX_TEST_PROCESSES = 4  # each holds torch and Qt, about 1 GiB


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def say(text: str) -> None:
    print(f"[setup] {text}", file=sys.stderr, flush=True)


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def newer_python() -> str | None:
    """A python of at least the minimum version on PATH, newest of the likely names first."""
    for minor in range(14, MINIMUM[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    return None


def wanted(extra: str | None) -> dict[str, str]:
    """What an up-to-date environment was made from."""
    digest = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", CONSTRAINTS):
        digest.update(path.read_bytes())
    return {
        "files": digest.hexdigest(),
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "root": str(ROOT),
        "extra": extra or "",
    }


def is_current(extra: str | None) -> bool:
    if not venv_python().exists():
        return False
    try:
        have = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    want = wanted(extra)
    # an environment with the development tools also serves the program
    return all(have.get(key) == want[key] for key in ("files", "python", "root")) and (
        not extra or have.get("extra") == extra
    )


def run(command: list[str], what: str, environment: dict[str, str] | None = None) -> None:
    try:
        code = subprocess.call(command, cwd=ROOT, env={**os.environ, **(environment or {})})
    except OSError as error:
        raise SetupError(f"{what} could not start: {error}") from error
    if code != 0:
        raise SetupError(
            f"{what} failed (see above). Check the network connection and the free disk space, then run the "
            "same command again: it goes on where it stopped."
        )


def make_venv() -> None:
    if venv_python().exists() and subprocess.call([str(venv_python()), "-c", "import pip"]) == 0:
        return
    say(f"making {VENV}")
    if VENV.exists():
        shutil.rmtree(VENV)
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError as error:
        raise SetupError(
            "Python's venv module is missing. On Debian and Ubuntu install it with: "
            f"sudo apt-get install python3-venv (or python3.{sys.version_info[1]}-venv)"
        ) from error
    venv.create(VENV, with_pip=True, symlinks=os.name != "nt")


def install(extra: str | None) -> None:
    """torch first: sam2 is built from source against it, and an isolated build would fetch a second torch."""
    free = shutil.disk_usage(ROOT).free
    if free < DISK_BYTES_NEEDED:
        raise SetupError(
            f"Only {free / 1024**3:.1f} GiB are free on this disk; set-up needs up to "
            f"{DISK_BYTES_NEEDED / 1024**3:.0f}. Free some space and run the same command again."
        )
    make_venv()
    pip = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check", "-c", str(CONSTRAINTS)]
    if not sys.stderr.isatty():
        pip.append("-q")
    say("installing PyTorch (the largest part; minutes on the first run)")
    run([*pip, "torch", "numpy", "setuptools", "wheel"], "Installing PyTorch")
    say("building sam2")
    run([*pip, "--no-build-isolation", "sam2"], "Building sam2", {"SAM2_BUILD_CUDA": "0"})
    say("installing the program")
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    run([*pip, "--no-build-isolation", "-e", target], "Installing the program")
    STAMP.write_text(json.dumps(wanted(extra)), encoding="utf-8")
    say("done")


def check_system_libraries(window: bool) -> None:
    command = [str(venv_python()), str(ROOT / "app" / "system_libraries.py")]
    result = subprocess.run(
        command + ([] if window else ["--headless"]), cwd=ROOT, text=True, capture_output=True, check=False
    )
    if result.returncode == 1 and result.stdout:
        raise SetupError(result.stdout.strip())


def wants_window(arguments: list[str]) -> bool:
    """True when `run` opens the window: no verb, or the path of a video or project."""
    verbs = {"propagate", "export", "import", "quantize", "evaluate", "benchmark", "models", "doctor"}
    return not any(word in verbs or word in ("-h", "--help", "--version") for word in arguments[:1])


def parallel(arguments: list[str]) -> list[str]:
    """Options of pytest-xdist: a process a core, up to four; none where the caller chose or debugs."""
    workers = min(os.cpu_count() or 1, MAX_TEST_PROCESSES)
    chosen = any(word.startswith(("-n", "--numprocesses", "--dist", "--pdb")) for word in arguments)
    return [] if chosen or workers < 2 else ["-n", str(workers), "--dist", "worksteal"]


def start(command: list[str]) -> int:
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(command[0], command)
    return subprocess.call(command)


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in ("run", "test", "check"):
        print(__doc__, file=sys.stderr)
        return 2
    if sys.version_info[:2] < MINIMUM:
        newer = newer_python()
        if newer is None:
            raise SetupError(
                f"Python {MINIMUM[0]}.{MINIMUM[1]} or newer is needed, this is {sys.version.split()[0]}. "
                "Install a newer Python and run the same command with it."
            )
        return subprocess.call([newer, __file__, *arguments])
    verb, rest = arguments[0], arguments[1:]
    extra = None if verb == "run" else "dev"
    if not is_current(extra):
        install(extra)
    python = str(venv_python())
    if verb == "run":
        offscreen = os.environ.get("QT_QPA_PLATFORM") in ("offscreen", "minimal")
        if wants_window(rest):
            check_system_libraries(window=not offscreen)
        return start([python, "-m", "app", *rest])
    if verb == "test":
        check_system_libraries(window=False)
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        os.chdir(ROOT)
        return start([python, "-m", "pytest", *parallel(rest), *rest])
    os.chdir(ROOT)
    run([python, "-m", "ruff", "check", "."], "ruff check")
    run([python, "-m", "ruff", "format", "--check", "."], "ruff format")
    run([python, "-m", "mypy"], "mypy")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
