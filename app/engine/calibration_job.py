"""One calibration as a folder of its own: what was asked for, checkpoints, the result. Free of Qt and torch.

The folder outlives the window, so a calibration that was quit or killed goes on where it stopped.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from qcore.quant.clip_list import write_clip_list
from qcore.quant.clip_selection import ClipRequest

BUDGETS = {"fast": 30, "balanced": 100, "paper": 20_000}
"""Iterations a unit; the time of each is measured before it starts."""


def calibrations_dir() -> Path:
    """Where the folders lie."""
    return Path(platformdirs.user_data_dir("qminisam2", False)) / "calibrations"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the user chose."""

    name: str
    model: str = "embedded-fp16"
    bits: str = "w6a6"
    method: str = "q-minisam2"
    iterations: int = BUDGETS["fast"]
    clip_count: int = 8
    frames_per_clip: int = 20
    budget_mb: float | None = None
    """Largest size of the weights, with bits ``auto``."""
    keep: tuple[str, ...] = ()
    """Globs of layers that stay in full precision."""
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class CalibrationJob:
    """A recipe and its folder."""

    folder: Path
    recipe: Recipe

    @property
    def bundle(self) -> Path:
        """The quantized model once it is finished."""
        return self.folder / f"{self.recipe.name}.safetensors"

    @property
    def report(self) -> Path:
        """The report as data."""
        return self.folder / "report.json"

    @property
    def is_finished(self) -> bool:
        """Whether model and report are there."""
        return self.bundle.exists() and self.report.exists()

    def arguments(self, estimate: bool = False) -> list[str]:
        """The command line of the work, after the program's name."""
        r = self.recipe
        words = ["quantize", "--remote", "--model", r.model, "--clips", str(self.folder / "clips.json")]
        words += ["--clip-count", str(r.clip_count), "--frames-per-clip", str(r.frames_per_clip)]
        words += ["--method", r.method, "--bits", r.bits, "--iterations", str(r.iterations)]
        words += ["--device", r.device]
        if r.budget_mb is not None:
            words += ["--budget-mb", str(r.budget_mb)]
        for glob in r.keep:
            words += ["--exclude", glob]
        if estimate:
            return [*words, "--estimate"]
        words += ["--out", str(self.bundle), "--work-dir", str(self.folder / "units")]
        return [*words, "--report-json", str(self.report), "--report", str(self.folder / "report.html")]

    def discard(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def tidy(self) -> None:
        """Keep the report and what was asked for: the model is among the installed ones now."""
        shutil.rmtree(self.folder / "units", ignore_errors=True)
        self.bundle.unlink(missing_ok=True)


def create_job(root: Path, recipe: Recipe, requests: Sequence[ClipRequest]) -> CalibrationJob:
    """Make a folder for a calibration.

    Raises:
        OSError: the disk refuses.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", recipe.name).strip("-.") or "calibration"
    folder = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10_000:04d}-{stem}"
    folder.mkdir(parents=True)
    write_clip_list(folder / "clips.json", requests)
    (folder / "job.json").write_text(json.dumps(asdict(recipe)), encoding="utf-8")
    return CalibrationJob(folder, recipe)


def waiting_jobs(root: Path) -> list[CalibrationJob]:
    """Calibrations that have no result yet, or one that is not in use, newest first.

    Unreadable folders are skipped.
    """
    found = []
    for file in sorted(root.glob("*/job.json"), reverse=True):
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            job = CalibrationJob(file.parent, Recipe(**{**value, "keep": tuple(value.get("keep", ()))}))
        except (OSError, ValueError, TypeError):
            continue
        if job.is_finished or not job.report.exists():
            found.append(job)
    return found
