"""Speed side by side with upstream: one process, one clip, equal weights, measurements interleaved.

Every row is a pair of medians and their ratio. Absolute times hold for the machine and the moment; the ratio
is what to quote.
"""

from __future__ import annotations

import functools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qcore.evaluation.speed_process import default_boxes, measure_process
from qcore.evaluation.speed_subjects import Contender, Subject, build_subject
from qcore.evaluation.upstream import UpstreamClip
from qcore.runtime import cpu_kernels
from qcore.runtime.probe import processor_name
from qcore.tracking.encoder import LOOK_AHEAD_FRAMES
from qcore.tracking.session import VideoSession
from qcore.video import open_source

Progress = Callable[[str], None]
"""Called with the name of the measurement that begins."""


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One comparison; lower is better."""

    model: str
    ours: str
    """Which of our ways, e.g. ``CPU fp32``."""
    what: str
    upstream_value: float
    our_value: float
    unit: str = "ms"

    @property
    def ratio(self) -> float:
        """How many times faster (or smaller) ours is."""
        return self.upstream_value / self.our_value


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """All rows of one run and what they were measured on."""

    rows: list[SpeedRow]
    machine: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; every row with its ratio."""
        return {
            "machine": self.machine,
            "rows": [{**_rounded(asdict(r)), "ratio": round(r.ratio, 3)} for r in self.rows],
        }

    def to_markdown(self) -> str:
        """A table a model, for people."""
        lines = [f"- {key}: {value}" for key, value in self.machine.items()]
        for model, rows in groupby(self.rows, lambda row: row.model):
            lines += ["", f"### {model}", "", "| what | ours runs as | upstream fp32 | ours | ratio |"]
            lines.append("|---|---|---|---|---|")
            for row in rows:
                values = f"{row.upstream_value:.1f} {row.unit} | {row.our_value:.1f} {row.unit}"
                lines.append(f"| {row.what} | {row.ours} | {values} | {row.ratio:.2f}x |")
        return "\n".join(lines) + "\n"


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}


@dataclass(frozen=True, slots=True)
class SpeedPlan:
    """What to measure."""

    models: tuple[str, ...] = ("embedded-fp16",)
    """Ids of the registry or files of bundles."""
    bits: str | None = "w6a6"
    """Run models of the registry quantized to these too."""
    groups: float | None = 3.0
    """Run the last form of a model with Mutual-KV too, at this mean number of groups."""
    image_size: int | None = None
    """Input side; None for each model's own."""
    frames: int = 12
    """Frames of the propagations. A mean over the frames whose memory is full is reported."""
    objects: tuple[int, ...] = (1, 3, 8)
    repeats: int = 5
    """Of encoder, memory attention and clicks."""
    memory_frames: int = 0
    """Frames that a fresh process tracks for its peak memory; 0 leaves that and the load time out."""
    memory_objects: int = 2


def _clock() -> Callable[[], float]:
    """Tells seconds. On one thread of processor time, so that what else the machine does does not count.

    To be asked for before the work begins: inside a propagation the number of threads is another.
    """
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def interleaved_ms(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median times of several calls (see `_clock`), taken in turns after one warm-up each."""
    now = _clock()
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, times, strict=True):
            started = now()
            call()
            taken.append((now() - started) * 1000)
    return [statistics.median(taken) for taken in times]


def measure_speed(video: str, plan: SpeedPlan | None = None, progress: Progress | None = None) -> SpeedReport:
    """Run the whole comparison on a video file or frame folder.

    Raises:
        VideoError: the video cannot be read.
        ModelError: a model of the plan is unknown or not installed.
        QuantizationError: the plan's bit widths are none.
    """
    plan = plan or SpeedPlan()
    say = progress or (lambda _: None)
    rows: list[SpeedRow] = []
    source = open_source(video)
    try:
        frames = [source[i].copy() for i in range(min(plan.frames, len(source)))]
        for model in plan.models:
            say(f"{model}: load")
            subject = build_subject(model, frames, plan.image_size, plan.bits, plan.groups)
            rows += _measure_parts(subject, frames, plan, say)
            rows += _measure_tracking(subject, video, frames, plan, say)
            if plan.memory_frames:
                say(f"{model}: load time and memory")
                rows += _process_rows(subject, model, video, plan)
    finally:
        source.close()
    return SpeedReport(rows, machine_facts())


def machine_facts() -> dict[str, str]:
    """Processor, instruction sets, threads, clock and versions."""
    return {
        "processor": processor_name(),
        "instruction sets": instruction_sets(),
        "kernels": cpu_kernels().summary,
        "threads": str(torch.get_num_threads()),
        "times": "processor time" if torch.get_num_threads() == 1 else "wall time",
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "system": platform.system(),
    }


def instruction_sets() -> str:
    """What of AVX2, AVX-512, VNNI, bf16 and AMX this processor has, as far as torch tells."""
    names = {
        "AVX2": "_is_avx2_supported",
        "AVX-512": "_is_avx512_supported",
        "VNNI": "_is_vnni_supported",
        "AVX-512 BF16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
    }
    found = [name for name, ask in names.items() if getattr(torch.cpu, ask, lambda: False)()]
    return ", ".join(found) or torch.backends.cpu.get_cpu_capability()


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


def _rows(
    subject: Subject, contenders: Sequence[Contender], what: str, values: Sequence[float]
) -> list[SpeedRow]:
    """Upstream's value stands first in ``values``."""
    return [
        SpeedRow(subject.name, contender.name, what, values[0], value)
        for contender, value in zip(contenders, values[1:], strict=True)
    ]


def _measure_parts(
    subject: Subject, frames: list[npt.NDArray[np.uint8]], plan: SpeedPlan, say: Progress
) -> list[SpeedRow]:
    upstream = subject.upstream
    full = [contender for contender in subject.contenders if contender.groups is None]
    models: list[Any] = [upstream, *(contender.model for contender in full)]
    rows: list[SpeedRow] = []
    with torch.inference_mode():
        say(f"{subject.name}: encoder")
        image = torch.randn(1, 3, upstream.image_size, upstream.image_size)
        encode = [functools.partial(model.forward_image, image) for model in models]
        rows += _rows(subject, full, "image encoder", interleaved_ms(encode, plan.repeats))
        for memories in sorted({1, 3, upstream.num_maskmem}):
            say(f"{subject.name}: memory attention, {memories} memories")
            inputs = memory_inputs(upstream, memories)
            attend = [functools.partial(model.memory_attention, **inputs) for model in models]
            what = f"memory attention, {memories} {'memory' if memories == 1 else 'memories'}"
            rows += _rows(subject, full, what, interleaved_ms(attend, plan.repeats))
        if plan.groups is not None:
            rows += _merged_attention_rows(subject, plan, say)
    say(f"{subject.name}: click to mask")
    with UpstreamClip(upstream, frames[:1]) as clip:
        box = default_boxes(frames[0].shape[0], frames[0].shape[1], 1)[0]
        state = clip.load()
        clicks: list[Callable[[], object]] = [lambda: clip.click(state, 1, box)]
        for contender in full:
            session = VideoSession(contender.model, _Frames(frames[:1]))
            clicks.append(functools.partial(session.add_box, 0, 1, box))
        rows += _rows(subject, full, "click to mask, frame encoded", interleaved_ms(clicks, plan.repeats))
    return rows


def _merged_attention_rows(subject: Subject, plan: SpeedPlan, say: Progress) -> list[SpeedRow]:
    """Upstream with all memories against ours with their groups, weighed."""
    assert plan.groups is not None
    upstream, contender = subject.upstream, subject.contenders[-1]
    memories, groups = upstream.num_maskmem, min(upstream.num_maskmem, round(plan.groups))
    say(f"{subject.name}: memory attention, {groups} groups")
    full, merged = memory_inputs(upstream, memories), memory_inputs(upstream, groups)
    bias = torch.zeros(merged["memory"].shape[0])
    bias[: (upstream.image_size // 16) ** 2] = float(np.log(1 + memories - groups))
    attention: Any = contender.model.memory_attention
    calls = [
        functools.partial(upstream.memory_attention, **full),
        functools.partial(attention, **merged, key_bias=bias),
    ]
    what = f"memory attention, {memories} memories in {groups} groups"
    return _rows(subject, [contender], what, interleaved_ms(calls, plan.repeats))


class _Frames:
    """Decoded frames as a session's source."""

    def __init__(self, frames: Sequence[npt.NDArray[np.uint8]]) -> None:
        self._frames = frames
        self.size = (int(frames[0].shape[0]), int(frames[0].shape[1]))

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        return self._frames[index]


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass over the clip."""

    frame_ms: float
    """Mean over the frames whose memory is full (the later ones in a short clip), without the last two: while
    they are tracked there is no frame ahead to encode."""
    total_ms: float

    @classmethod
    def of(cls, steps: Iterator[object], memories: int) -> _Pass:
        """Run through ``steps``, one a frame."""
        taken: list[float] = []
        clock = _clock()
        begin = before = clock()
        for _ in steps:
            now = clock()
            taken.append((now - before) * 1000)
            before = now
        # the first frame is prompted and given back as it is
        stop = max(2, len(taken) - LOOK_AHEAD_FRAMES)
        steady = taken[min(memories + 1, max(1, stop - 3)) : stop] or taken
        return cls(statistics.fmean(steady), (clock() - begin) * 1000)


def _measure_tracking(
    subject: Subject, video: str, frames: list[npt.NDArray[np.uint8]], plan: SpeedPlan, say: Progress
) -> list[SpeedRow]:
    """First pass and second pass, upstream and every contender in turns."""
    rows: list[SpeedRow] = []
    memories = subject.upstream.num_maskmem
    with UpstreamClip(subject.upstream, frames) as clip:
        for count in plan.objects:
            boxes = default_boxes(frames[0].shape[0], frames[0].shape[1], count)
            objects = "1 object" if count == 1 else f"{count} objects"
            say(f"{subject.name}: {objects}, upstream")
            passes = [_upstream_passes(clip, boxes, memories)]
            for contender in subject.contenders:
                say(f"{subject.name}: {objects}, {contender.name}")
                passes.append(_our_passes(contender, video, len(frames), boxes, memories))
            for index, what in enumerate(("tracking a frame", "tracking a frame again")):
                values = [both[index].frame_ms for both in passes]
                rows += _rows(subject, subject.contenders, f"{what}, {objects}", values)
            values = [both[0].total_ms / len(frames) for both in passes]
            what = f"opening, prompting and tracking a clip of {len(frames)} frames, per frame, {objects}"
            rows += _rows(subject, subject.contenders, what, values)
    return rows


def _upstream_passes(
    clip: UpstreamClip, boxes: list[tuple[float, float, float, float]], memories: int
) -> tuple[_Pass, _Pass]:
    now = _clock()
    started = now()
    state = clip.load()
    for index, box in enumerate(boxes, 1):
        clip.click(state, index, box)
    prepared_ms = (now() - started) * 1000
    first = _Pass.of(clip.steps(state), memories)
    return _Pass(first.frame_ms, first.total_ms + prepared_ms), _Pass.of(clip.steps(state), memories)


def _our_passes(
    contender: Contender,
    video: str,
    frame_count: int,
    boxes: list[tuple[float, float, float, float]],
    memories: int,
) -> tuple[_Pass, _Pass]:
    now = _clock()
    started = now()
    with open_source(video) as source:
        session = VideoSession(contender.model, source, mutual_kv=contender.mutual_kv)
        for index, box in enumerate(boxes, 1):
            session.add_box(0, index, box)
        prepared_ms = (now() - started) * 1000
        first = _Pass.of(_by_frame(session, frame_count), memories)
        again = _Pass.of(_by_frame(session, frame_count), memories)
    return _Pass(first.frame_ms, first.total_ms + prepared_ms), again


def _by_frame(session: VideoSession, frame_count: int) -> Iterator[object]:
    """Yields once a frame, when all its objects are there."""
    waiting = len(session.objects)
    for _ in session.propagate(0, frame_count - 1):
        waiting -= 1
        if not waiting:
            yield None
            waiting = len(session.objects)


def _process_rows(subject: Subject, model: str, video: str, plan: SpeedPlan) -> list[SpeedRow]:
    facts = [
        measure_process(who, name, video, plan.memory_frames, plan.memory_objects, plan.image_size)
        for who, name in (("upstream", subject.upstream_id), ("ours", model))
    ]
    what = f"peak memory, {plan.memory_frames} frames, {plan.memory_objects} objects"
    return [
        SpeedRow(subject.name, "a process of its own", "loading", facts[0].load_ms, facts[1].load_ms),
        SpeedRow(subject.name, "a process of its own", what, facts[0].peak_mb, facts[1].peak_mb, "MB"),
    ]
