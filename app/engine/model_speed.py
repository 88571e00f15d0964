"""Timing a model in a process of its own, so that what it measures of memory is the model's alone.

What was measured is remembered for as long as the model's file stays the same.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from app.own_program import own_command, own_environment
from qcore.evaluation.model_speed import ModelSpeed

log = logging.getLogger(__name__)

LONGEST_S = 600.0
_POLL_S = 0.1


class MeasuringError(RuntimeError):
    """A model could not be measured; the message is one sentence for the user."""


class MeasuringStoppedError(MeasuringError):
    """The user stopped it."""


def measure_in_process(
    model: Path | str,
    clip: Path | None,
    device: str = "auto",
    stopped: Callable[[], bool] = lambda: False,
    rounds: int = 1,
) -> ModelSpeed | None:
    """What a model costs on this machine; None (and a line in the log) when it cannot be measured.

    The fastest of so many rounds counts: whatever else the machine does only makes a model look slower, and
    two models that are compared do not meet it alike.
    """
    try:
        return min((measure(model, clip, device, stopped) for _ in range(rounds)), key=lambda s: s.frame_ms)
    except MeasuringError as error:
        log.warning("measuring %s failed: %s", model, error)
        return None


def measure(
    model: Path | str,
    clip: Path | None,
    device: str = "auto",
    stopped: Callable[[], bool] = lambda: False,
) -> ModelSpeed:
    """What a model costs on this machine.

    Args:
        model: its id or file.
        clip: the video to track in; None for the sample clip.
        device: auto, cpu, cuda or mps.
        stopped: asked a few times a second; True ends the process.

    Raises:
        MeasuringStoppedError: ``stopped`` said so.
        MeasuringError: it failed, or took too long.
    """
    command = own_command("models", "measure", str(model), "--device", device, "--json")
    if clip is not None:
        command += ["--clip", str(clip)]
    try:
        with subprocess.Popen(
            command, env=own_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            out, problem = _wait(process, stopped)
    except OSError as error:
        raise MeasuringError(f"The measurement cannot be started: {error.strerror or error}.") from error
    if process.returncode != 0:
        raise MeasuringError(problem.strip().removeprefix("qminisam2: ") or "The measurement failed.")
    try:
        return ModelSpeed.from_json(json.loads(out)["speed"])
    except (ValueError, KeyError, TypeError) as error:
        raise MeasuringError("The measurement gave no numbers; details are in the log.") from error


def _wait(process: subprocess.Popen[str], stopped: Callable[[], bool]) -> tuple[str, str]:
    deadline = time.monotonic() + LONGEST_S
    while True:
        try:
            return process.communicate(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            late = time.monotonic() > deadline
            if not late and not stopped():
                continue
            process.kill()
            process.communicate()
            if late:
                raise MeasuringError("Measuring took too long and was stopped.") from None
            raise MeasuringStoppedError("Measuring was stopped.") from None


class KnownSpeeds:
    """What was measured on this machine, in a small file of the user's cache."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path(platformdirs.user_cache_dir("qminisam2", False)) / "speeds.json"
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        self._known: dict[str, Any] = known if isinstance(known, dict) else {}

    def get(self, model_id: str, file: Path) -> ModelSpeed | None:
        """The speed of a model, unless its file changed since."""
        try:
            entry = self._known[model_id]
            return ModelSpeed.from_json(entry["speed"]) if entry["file"] == _identity(file) else None
        except (KeyError, TypeError, ValueError, OSError):
            return None

    def keep(self, model_id: str, file: Path, speed: ModelSpeed) -> None:
        """Remember a measurement; a disk that refuses is only logged."""
        try:
            self._known[model_id] = {"file": _identity(file), "speed": speed.to_json()}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".part")
            partial.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            log.warning("the speed of %s was not kept: %s", model_id, error)


def _identity(file: Path) -> list[int]:
    facts = file.stat()
    return [facts.st_size, facts.st_mtime_ns]
