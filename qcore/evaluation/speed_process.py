"""Load time and peak memory, each measured in a process of its own (this module, run as a program).

A process's peak never goes down, and a second load finds everything warm.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from qcore.evaluation.memory import peak_rss_bytes
from qcore.evaluation.upstream import UpstreamClip, build_upstream
from qcore.models.loading import load_model
from qcore.models.official import build_official
from qcore.models.registry import MODELS, ModelKind
from qcore.runtime import lower
from qcore.tracking.session import VideoSession
from qcore.video import FrameSource, open_source


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What a fresh process measured of itself."""

    load_ms: float
    """From the model's file to a model on its kernels; programs are imported already."""
    peak_mb: float
    """Largest resident memory after tracking, in MB (10^6 bytes)."""


def measure_process(
    who: str, model: str, video: str, frames: int, objects: int, image_size: int | None = None
) -> ProcessFacts:
    """Track in a fresh process.

    Args:
        who: ``upstream`` or ``ours``.
        model: as `qcore.models.load_model` takes it.
        video: a file or frame folder, played again and again.
        frames: how many to track.
        objects: how many at once.
        image_size: input side; None for the model's own.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    words = [who, model, video, str(frames), str(objects), str(image_size or 0), str(torch.get_num_threads())]
    command = [sys.executable, "-m", "qcore.evaluation.speed_process", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the measuring process failed"])[-1])
    return ProcessFacts(**json.loads(done.stdout.splitlines()[-1]))


class LoopedSource:
    """A source played again and again up to a number of frames."""

    def __init__(self, source: FrameSource, frame_count: int) -> None:
        self._source = source
        self._frame_count = frame_count
        self.size = source.size

    def __len__(self) -> int:
        return self._frame_count

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        return self._source[index % len(self._source)]


def default_boxes(height: int, width: int, count: int) -> list[tuple[float, float, float, float]]:
    """Boxes spread over the frame: what is in them does not change the time."""
    columns = int(np.ceil(np.sqrt(count)))
    boxes = []
    for index in range(count):
        row, column = divmod(index, columns)
        x, y = (column + 0.25) * width / columns, (row + 0.25) * height / columns
        boxes.append((x, y, x + 0.5 * width / columns, y + 0.5 * height / columns))
    return boxes


def _ours(model_id: str, source: LoopedSource, objects: int, image_size: int | None) -> float:
    started = time.perf_counter()
    if model_id in MODELS and MODELS[model_id].kind is ModelKind.OFFICIAL:
        model = build_official(MODELS[model_id], image_size).eval().requires_grad_(False)
    else:
        model = load_model(model_id, image_size=image_size)
    lower(model)
    load_ms = (time.perf_counter() - started) * 1000
    session = VideoSession(model, source)
    for index, box in enumerate(default_boxes(*source.size, objects), 1):
        session.add_box(0, index, box)
    for _ in session.propagate(0, len(source) - 1):
        pass
    return load_ms


def _upstream(model_id: str, source: LoopedSource, objects: int, image_size: int | None) -> float:
    started = time.perf_counter()
    predictor = build_upstream(model_id, image_size)
    load_ms = (time.perf_counter() - started) * 1000
    with UpstreamClip(predictor, (source[i] for i in range(len(source)))) as clip:
        state = clip.load()
        for index, box in enumerate(default_boxes(*source.size, objects), 1):
            clip.click(state, index, box)
        for _ in clip.steps(state):
            pass
    return load_ms


def _main(words: list[str]) -> None:
    who, model, video, frames, objects, image_size, threads = words
    torch.set_num_threads(int(threads))
    run = _ours if who == "ours" else _upstream
    with open_source(Path(video)) as opened:
        load_ms = run(model, LoopedSource(opened, int(frames)), int(objects), int(image_size) or None)
    print(json.dumps({"load_ms": load_ms, "peak_mb": peak_rss_bytes() / 1e6}))


if __name__ == "__main__":
    _main(sys.argv[1:])
