"""Speed side by side with upstream: one process, one clip, equal weights, measurements interleaved.

Every row is a pair of medians and their ratio. Absolute times hold for the machine and the moment; the ratio
is what to quote.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qcore.evaluation.upstream import UpstreamClip, build_pair
from qcore.models.registry import MODELS, ModelKind
from qcore.runtime import Precision, lower
from qcore.runtime.probe import processor_name
from qcore.tracking.session import VideoSession
from qcore.video import FrameSource, open_source

Progress = Callable[[str], None]
"""Called with the name of the measurement that begins."""


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One comparison; times in milliseconds, lower is better."""

    model: str
    what: str
    upstream_ms: float
    ours_ms: float
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.upstream_ms / self.ours_ms


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """All rows of one run and what they were measured on."""

    rows: list[SpeedRow]
    machine: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; every row with its ratio."""
        return {
            "machine": self.machine,
            "rows": [{**asdict(r), "ratio": round(r.ratio, 3)} for r in self.rows],
        }

    def to_markdown(self) -> str:
        """A table for people."""
        lines = [f"- {key}: {value}" for key, value in self.machine.items()]
        lines += [
            "",
            "| model | what | upstream fp32, ms | ours, ms | ratio | note |",
            "|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            times = f"{row.upstream_ms:.1f} | {row.ours_ms:.1f} | {row.ratio:.2f}x"
            lines.append(f"| {row.model} | {row.what} | {times} | {row.note} |")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class SpeedPlan:
    """What to measure."""

    models: tuple[str, ...] = ("embedded-fp16", "sam2.1_hiera_tiny", "sam2.1_hiera_base_plus")
    image_size: int | None = None
    """Input side; None for each model's own."""
    frames: int = 20
    """Frames of the propagations; official models at 1024 use a third."""
    objects: tuple[int, ...] = (1, 3, 8)
    repeats: int = 3
    precisions: tuple[Precision, ...] = (Precision.FP32, Precision.BF16)


def interleaved_ms(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median wall times of several calls, taken in turns after one warm-up each."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            taken.append((time.perf_counter() - started) * 1000)
    return [statistics.median(taken) for taken in times]


def measure_speed(video: str, plan: SpeedPlan | None = None, progress: Progress | None = None) -> SpeedReport:
    """Run the whole comparison on a video file or frame folder.

    Raises:
        VideoError: the video cannot be read.
        ModelError: a model of the plan is unknown.
    """
    plan = plan or SpeedPlan()
    say = progress or (lambda _: None)
    rows: list[SpeedRow] = []
    source = open_source(video)
    try:
        for model_id in plan.models:
            official = MODELS[model_id].kind is ModelKind.OFFICIAL
            count = max(8, plan.frames // 3) if official else plan.frames
            frames = [source[i].copy() for i in range(min(count, len(source)))]
            for precision in plan.precisions:
                say(f"{model_id}, {precision}")
                rows += _measure_model(model_id, precision, source, frames, plan, say)
    finally:
        source.close()
    return SpeedReport(rows, machine_facts())


def machine_facts() -> dict[str, str]:
    """Processor, threads and versions."""
    return {
        "processor": processor_name(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def default_boxes(height: int, width: int, count: int) -> list[tuple[float, float, float, float]]:
    """Boxes spread over the frame: what is in them does not change the time."""
    columns = int(np.ceil(np.sqrt(count)))
    boxes = []
    for index in range(count):
        row, column = divmod(index, columns)
        x, y = (column + 0.25) * width / columns, (row + 0.25) * height / columns
        boxes.append((x, y, x + 0.5 * width / columns, y + 0.5 * height / columns))
    return boxes


def _measure_model(
    model_id: str,
    precision: Precision,
    source: FrameSource,
    frames: list[npt.NDArray[np.uint8]],
    plan: SpeedPlan,
    say: Progress,
) -> list[SpeedRow]:
    predictor, ours = build_pair(model_id, plan.image_size)
    report = lower(ours, precision)
    name = f"{model_id} {ours.image_size}px {report.summary}"
    rows: list[SpeedRow] = []

    def add(what: str, pair: list[float], note: str = "") -> None:
        rows.append(SpeedRow(name, what, pair[0], pair[1], note))

    image = torch.randn(1, 3, ours.image_size, ours.image_size)
    say(f"{name}: encoder")
    with torch.inference_mode():
        calls = [lambda: predictor.forward_image(image), lambda: ours.forward_image(image)]
        add("image encoder", interleaved_ms(calls, plan.repeats))
    for memories in (1, 3, predictor.num_maskmem):
        say(f"{name}: memory attention, {memories} memories")
        with torch.inference_mode():
            inputs = memory_inputs(predictor, memories)
            modules = (predictor.memory_attention, ours.memory_attention)
            attend = [functools.partial(module, **inputs) for module in modules]
            add(f"memory attention, {memories} memories", interleaved_ms(attend, plan.repeats))
    height, width = source.size
    with UpstreamClip(predictor, frames) as clip:
        box = default_boxes(height, width, 1)[0]
        state, session = clip.load(), VideoSession(ours, source)
        calls = [lambda: clip.click(state, 1, box), lambda: session.add_box(0, 1, box)]
        say(f"{name}: click to mask")
        add("click to mask, frame encoded", interleaved_ms(calls, max(5, plan.repeats)))
        for count in plan.objects:
            say(f"{name}: propagation, {count} objects")
            rows += _propagation_rows(name, clip, ours, source, len(frames), count)
    return rows


def memory_inputs(model: Any, memories: int) -> dict[str, Any]:
    """Random inputs of the memory attention: one frame, ``memories`` maps and the usual pointers."""
    tokens = (model.image_size // 16) ** 2
    width, depth = model.hidden_dim, model.mem_dim
    pointers = model.max_obj_ptrs_in_encoder * (width // depth)
    total = tokens * memories + pointers
    return {
        "curr": [torch.randn(tokens, 1, width)],
        "curr_pos": [torch.randn(tokens, 1, width)],
        "memory": torch.randn(total, 1, depth),
        "memory_pos": torch.randn(total, 1, depth),
        "num_obj_ptr_tokens": pointers,
    }


def _propagation_rows(
    name: str, clip: UpstreamClip, ours: Any, source: FrameSource, frame_count: int, count: int
) -> list[SpeedRow]:
    """First pass (decoding included on both sides) and second pass, per frame."""
    boxes = default_boxes(*source.size, count)

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        started = time.perf_counter()
        result = call()
        return (time.perf_counter() - started) * 1000 / frame_count, result

    def upstream_pass() -> Any:
        state = clip.load()
        for index, box in enumerate(boxes, 1):
            clip.click(state, index, box)
        clip.propagate(state)
        return state

    def our_pass() -> None:
        for index, box in enumerate(boxes, 1):
            session.add_box(0, index, box)
        for _ in session.propagate(0, frame_count - 1):
            pass

    session = VideoSession(ours, source)
    upstream_ms, state = timed(upstream_pass)
    ours_ms, _ = timed(our_pass)
    upstream_again, _ = timed(lambda: clip.propagate(state))
    ours_again, _ = timed(our_pass)
    plural = "s" if count > 1 else ""
    return [
        SpeedRow(name, f"propagation a frame, {count} object{plural}", upstream_ms, ours_ms),
        SpeedRow(name, f"second propagation, {count} object{plural}", upstream_again, ours_again),
    ]


_MEMORY_SCRIPT = """
import sys
from qcore.evaluation.memory import peak_rss_bytes
from qcore.models import load_model
from qcore.runtime import lower
from qcore.tracking.session import VideoSession
from qcore.video import open_source
from qcore.evaluation.speed import LoopedSource, default_boxes
model_id, video, frames, objects = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = load_model(model_id)
lower(model)
source = LoopedSource(open_source(video), frames)
session = VideoSession(model, source)
for index, box in enumerate(default_boxes(*source.size, objects), 1):
    session.add_box(0, index, box)
loaded = peak_rss_bytes()
for _ in session.propagate(0, frames - 1):
    pass
print(loaded, peak_rss_bytes())
"""


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


def peak_memory_mb(model_id: str, video: str, frames: int, objects: int) -> tuple[float, float]:
    """Peak resident memory, in MB, of a fresh process after the first prompts and after propagating."""
    command = [sys.executable, "-c", _MEMORY_SCRIPT, model_id, video, str(frames), str(objects)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loaded, peak = (int(word) / 1e6 for word in output.split())
    return loaded, peak
