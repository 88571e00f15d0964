"""Timing a model in a process of its own, so that what it measures of memory is the model's alone."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path

from app.own_program import own_command, own_environment
from qcore.evaluation.model_speed import ModelSpeed

log = logging.getLogger(__name__)

LONGEST_S = 600.0


def measure_in_process(model: Path, clip: Path | None, device: str = "auto") -> ModelSpeed | None:
    """What a model file costs on this machine; None (and a line in the log) when it cannot be measured."""
    command = own_command("models", "measure", str(model), "--device", device, "--json")
    if clip is not None:
        command += ["--clip", str(clip)]
    try:
        done = subprocess.run(
            command, env=own_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=LONGEST_S,
        )  # fmt: skip
        if done.returncode != 0:
            log.warning("measuring %s failed: %s", model, done.stderr.strip())
            return None
        return ModelSpeed.from_json(json.loads(done.stdout)["speed"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        log.warning("measuring %s failed: %s", model, error)
        return None
