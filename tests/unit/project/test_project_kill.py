"""Killing the program (SIGKILL) at random moments of a propagation loses at most the last second."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from app.project import Project, edits
from app.project.model import VideoInfo
from qcore import masks

FRAMES = 60_000
REPOSITORY = Path(__file__).resolve().parents[3]

# Writes as the program does: results one by one, now and then an edit by hand. Tells of each write once it
# has returned, with the time; "edit" lines promise that the write is on the disk already.
CHILD = """
import sys, time
import numpy as np
from app.project import Project, edits
from app.project.propagation import PropagationPass
from qcore import masks
from qcore.tracking.types import MaskResult

project = Project.open(sys.argv[1])
rle = masks.encode(np.random.default_rng(0).random((120, 160)) < 0.2)
run = PropagationPass(project)
for frame in range(project.video.frame_count):
    if frame % 50 == 49:
        project.apply(edits.set_mask(project, frame, 2, rle))
        print("edit", frame, time.monotonic(), flush=True)
    run.store([MaskResult(frame, 1, rle, 0.9, 0.9)])
    print("result", frame, time.monotonic(), flush=True)
"""


def killed_run(path: Path, after_s: float) -> list[tuple[str, int, float]]:
    """Start the child, kill it so long after its first write by its own clock; return all it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert child.stdout is not None
    told: list[tuple[str, int, float]] = []
    for line in child.stdout:
        if line.endswith("\n"):
            kind, frame, moment = line.split()
            told.append((kind, int(frame), float(moment)))
            if told[-1][2] - told[0][2] > after_s:
                child.kill()
    child.wait()
    child.stdout.close()
    return told


@pytest.mark.slow
def test_twenty_kills_lose_at_most_the_last_second(tmp_path: Path) -> None:
    rng = random.Random(20)
    video = VideoInfo(str(tmp_path / "a.mp4"), "a.mp4", 160, 120, 25.0, FRAMES, 1, "f")
    lost_s: list[float] = []
    written: list[float] = []
    for attempt in range(20):
        path = tmp_path / f"{attempt}.qmsproj"
        with Project.create(path, video) as project:
            project.apply(edits.add_object(project))
            project.apply(edits.add_object(project))

        told = killed_run(path, after_s=rng.uniform(0.0, 1.8))

        with Project.open(path) as project:
            tracked = set(project.frames_with_mask(1).tolist())
            edited = set(project.frames_with_mask(2).tolist())
            for _, found in project.iter_masks(sorted(tracked)[-1:] + sorted(edited)[-1:]):
                assert {masks.decode(mask.rle).shape for mask in found} == {(120, 160)}
            assert tracked == set(range(len(tracked)))
        assert {frame for kind, frame, _ in told if kind == "edit"} <= edited
        end = told[-1][2]
        missing = [end - at for kind, frame, at in told if kind == "result" and frame not in tracked]
        lost_s.append(max(missing, default=0.0))
        written.append(end - told[0][2])
    assert max(written) > 1.0  # else no run could have lost more than a second
    assert max(lost_s) <= 1.0
