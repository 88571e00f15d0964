"""`qminisam2 quantize`: calibrate a model on one's own clips, save it as a bundle, report what it costs.

The calibration wizard runs this verb in a process of its own (``--remote``), so what the window shows and
what the command line writes is one thing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base

from app.cli.console import Console
from app.cli.errors import CommandError, sentence_for
from app.cli.remote import Remote, be_polite
from app.cli.tracking import choose_device
from app.clip_requests import request_of_file
from app.engine.model_speed import measure_in_process
from qcore import __version__
from qcore.models.loading import load_model, resolve_model
from qcore.quant.bundle import save_bundle
from qcore.quant.calibration_data import read_clip
from qcore.quant.clip_list import read_clip_list
from qcore.quant.clip_selection import ClipRequest, plan_clips
from qcore.quant.config import QuantConfig
from qcore.quant.describe import describe_model
from qcore.quant.estimate import estimate_cost
from qcore.quant.methods import DEFAULT_ITERATIONS, METHODS, method
from qcore.quant.pipeline import CalibrationCancelledError, Progress, QuantizedModel, quantize_model
from qcore.quant.report import CalibrationReport
from qcore.quant.report_build import build_report
from qcore.quant.report_html import report_html
from qcore.quant.sensitivity import CHOICES, choose_bits
from qcore.quant.sqnr import measure_sqnr, sqnr_markdown
from qcore.quant.targets import Role, make_plan

_QUANTIZING = 0.85
"""Share of the whole that quantizing takes when a report follows."""

SPEED_ROUNDS = 3
"""Times each model of a report is measured; the fastest counts."""
_PROJECT_SUFFIX = ".qmsproj"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument(
        "--model", default="embedded-fp16", metavar="ID|FILE", help="the full-precision model"
    )
    parser.add_argument(
        "--clips",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help="videos, frame folders or projects to calibrate on, or one JSON list of clips; a project's own "
        "objects become the prompts, and its accepted masks are measured against",
    )
    parser.add_argument("--clip-count", type=int, default=8, metavar="N", help="clips in all (default: 8)")
    parser.add_argument("--frames-per-clip", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--stride", type=int, default=4, metavar="N", help="take every Nth (default: 4)")
    parser.add_argument("--method", choices=list(METHODS), default="q-minisam2")
    parser.add_argument("--bits", default="w6a6", metavar="WxAy|auto", help="e.g. w6a6, w4a4; default: w6a6")
    parser.add_argument("--budget-mb", type=float, metavar="MB", help="with --bits auto: largest weight size")
    parser.add_argument(
        "--iterations",
        type=int,
        default=DEFAULT_ITERATIONS,
        metavar="N",
        help="steps per reconstructed unit (default: %(default)s; the paper: 20000)",
    )
    parser.add_argument("--preset", choices=("practical", "paper"), default="practical")
    parser.add_argument("--no-hvq", action="store_true", help="without the video terms (Eqs. 4 and 5)")
    parser.add_argument("--no-mutual-kv", action="store_true", help="without shared keys and values")
    parser.add_argument("--include", action="append", default=[], metavar="GLOB", help="only these layers")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="not these layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, metavar="N", help="input side in pixels, a multiple of 32")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--out", type=Path, metavar="FILE", help="the bundle to write (.safetensors)")
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="keep finished units to go on from")
    parser.add_argument("--plan", action="store_true", help="only print what would be quantized how")
    parser.add_argument("--sqnr", type=Path, metavar="FILE", help="also write a per-layer error report (.md)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="measure the result, write it as .html")
    parser.add_argument("--report-json", type=Path, metavar="FILE", help="the same report as data")
    parser.add_argument("--estimate", action="store_true", help="only measure how long it would take")
    parser.add_argument(
        "--remote",
        action="store_true",
        help="be run by another program: events as JSON lines on stdout, pause, resume and stop on stdin",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    if not args.remote:
        return _run(args, console, None)
    remote = Remote()
    console = Console(as_json=False, stdout=sys.stderr)  # stdout is for events
    be_polite()
    try:
        return _run(args, console, remote)
    except Exception as error:
        stopped = isinstance(error, CalibrationCancelledError)
        remote.tell("stopped" if stopped else "error", message=sentence_for(error) or _mistake(error))
        raise


def _mistake(error: Exception) -> str:
    return f"This is a mistake of the program: {type(error).__name__}: {error}."


def _run(args: argparse.Namespace, console: Console, remote: Remote | None) -> int:
    if args.out is None and not (args.plan or args.estimate):
        raise CommandError("Say where to write the bundle: --out FILE.")
    if args.out is not None and args.out.suffix != ".safetensors":
        raise CommandError("A bundle's name ends in .safetensors.")
    if args.bits == "auto" and args.budget_mb is None:
        raise CommandError("--bits auto needs --budget-mb.")
    model = load_model(args.model, device=choose_device(args.device), image_size=args.image_size)
    config = _config(args)
    if args.plan:
        plan = make_plan(model, config)
        console.line(plan.table())
        console.result({"layers": [dataclasses.asdict(layer) for layer in plan.layers]})
        return 0
    description = describe_model(args.model, model)
    requests = [request for path in args.clips for request in clip_requests(path)]
    plans = plan_clips(requests, args.clip_count, args.frames_per_clip, args.stride)
    if args.estimate:
        return _estimate(model, config, plans, console, remote)
    _check_space(args, model)
    clips = [read_clip(plan) for plan in plans]
    with _watched(args, console, remote) as (show, should_stop):
        if args.bits == "auto":
            config = choose_bits(model, clips, config, int(args.budget_mb * 1e6), show)
        result = quantize_model(model, clips, config, show, should_stop, args.work_dir)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        size = save_bundle(
            args.out, result.model, description, information(result, args.bits), result.mutual_kv
        )
        report = None
        if args.report is not None or args.report_json is not None:

            def step(what: str, share: float) -> None:
                if should_stop():
                    raise CalibrationCancelledError("Calibration was stopped.")
                show(Progress(what, "", share, None, None))

            report = build_report(
                model, result, resolve_model(args.model), args.out, plans, requests, args.bits,
                lambda path: measure_in_process(path, requests[0].path, args.device, rounds=SPEED_ROUNDS),
                step,
            )  # fmt: skip
            _write_report(args, report)
    if args.sqnr is not None:
        args.sqnr.write_text(sqnr_markdown(measure_sqnr(model, result.model, clips)), encoding="utf-8")
    _tell_result(args, console, remote, model, result, size, report)
    return 0


def _config(args: argparse.Namespace) -> QuantConfig:
    config = method(
        args.method,
        "w4a4" if args.bits == "auto" else args.bits,
        args.iterations,
        args.seed,
        hvq=not args.no_hvq,
        mutual_kv=not args.no_mutual_kv,
        preset=args.preset,
    )
    return dataclasses.replace(config, include=tuple(args.include) or ("*",), exclude=tuple(args.exclude))


def _estimate(
    model: SAM2Base, config: QuantConfig, plans: list[Any], console: Console, remote: Remote | None
) -> int:
    first = dataclasses.replace(plans[0], indices=plans[0].indices[:3])
    frames = sum(len(plan.indices) for plan in plans)
    checked = sum(len(plan.held_out) for plan in plans)
    cost = estimate_cost(model, read_clip(first), len(plans), frames, checked, config)
    found = dataclasses.asdict(cost)
    found["disk_bytes"] = space_needed(model)
    found["smallest_weight_bytes"], found["largest_weight_bytes"] = weight_range(model, config)
    console.line(
        f"About {found['seconds'] / 60:.0f} min and {found['memory_bytes'] / 1e9:.1f} GB of memory "
        f"({found['measured_units']} of {found['units']} units measured in {found['took_s']:.0f} s)"
    )
    if remote is not None:
        remote.tell("estimate", **found)
    console.result(found)
    return 0


def weight_range(model: SAM2Base, config: QuantConfig) -> tuple[int, int]:
    """Bytes of all weights with the fewest and with the most bits that ``--bits auto`` may choose."""
    layers = make_plan(model, config).layers
    mixed = sum(layer.weights for layer in layers if layer.role is Role.QUANTIZED)
    rest = sum(x.weights * (x.weight_bits or 16) // 8 for x in layers if x.role is not Role.QUANTIZED)
    return rest + mixed * min(CHOICES) // 8, rest + mixed * max(CHOICES) // 8


def space_needed(model: SAM2Base) -> int:
    """Bytes that checkpoints, the bundle and the report may take: codes and weights of every unit, twice."""
    weights = sum(int(parameter.numel()) for parameter in model.parameters())
    return 12 * weights + (32 << 20)


def _check_space(args: argparse.Namespace, model: SAM2Base) -> None:
    place = (args.work_dir or args.out.parent).absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, space_needed(model)
    if free < needed:
        raise CommandError(
            f"The disk of {place} is too full: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free."
        )


def _write_report(args: argparse.Namespace, report: CalibrationReport) -> None:
    if args.report_json is not None:
        args.report_json.parent.mkdir(parents=True, exist_ok=True)
        args.report_json.write_text(json.dumps(report.to_json(), allow_nan=False), encoding="utf-8")
    if args.report is not None:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(report_html(report), encoding="utf-8")


def _tell_result(
    args: argparse.Namespace,
    console: Console,
    remote: Remote | None,
    model: SAM2Base,
    result: QuantizedModel,
    size: int,
    report: CalibrationReport | None,
) -> None:
    full = 4 * sum(parameter.numel() for parameter in model.parameters())
    console.line(
        f"{args.out}: {size / 1e6:.2f} MB, {100 * (1 - size / full):.1f} % smaller than fp32 "
        f"({full / 1e6:.2f} MB), {len(result.units)} units fitted in {result.wall_s / 60:.1f} min"
    )
    if report is not None:
        console.line(report.verdict())
    value = {
        "bundle": str(args.out),
        "size_bytes": size,
        "fp32_bytes": full,
        "method": args.method,
        "bits": args.bits,
        "seconds": round(result.wall_s, 1),
        "cpu_seconds": round(result.cpu_s, 1),
        "mutual_kv_epsilon": None if result.mutual_kv is None else result.mutual_kv.epsilon,
        "units": [dataclasses.asdict(unit) for unit in result.units],
        "agreement": None if report is None or not report.frames else round(100 * report.jf, 2),
    }
    if remote is not None:
        remote.tell("result", bundle=str(args.out), size_bytes=size, seconds=value["seconds"])
    console.result(value)


@contextmanager
def _watched(
    args: argparse.Namespace, console: Console, remote: Remote | None
) -> Iterator[tuple[Callable[[Progress], None], Callable[[], bool]]]:
    """How progress is shown and a stop is noticed: on the terminal, or by the other program."""
    with_report = args.report is not None or args.report_json is not None
    pace = _Pace(_QUANTIZING if with_report else 1.0)
    if remote is not None:

        def tell(state: Progress) -> None:
            done, eta_s = pace.judge(state)
            loss = state.loss if state.loss is not None and abs(state.loss) < float("inf") else None
            remote.tell(
                "progress", stage=state.stage, module=state.module, unit=state.unit, units=state.units,
                done=round(done, 5), loss=loss, eta_s=eta_s,
            )  # fmt: skip

        yield tell, remote.should_stop
        return
    with console.progress("Calibrating", 1000, "‰") as bar, _interruptible() as stopped:

        def show(state: Progress) -> None:
            done, eta_s = pace.judge(state)
            loss = "" if state.loss is None else f", loss {state.loss:.3g}"
            left = "" if eta_s is None else f", {eta_s / 60:.1f} min left"
            bar.set(round(done * 1000), 1000, f"{state.stage} {state.module}{loss}{left}")

        yield show, lambda: bool(stopped)


class _Pace:
    """Joins quantizing and the report to one share, and judges the time left by the pace of the stage."""

    def __init__(self, quantizing: float) -> None:
        self._quantizing = quantizing
        self._stage = ""
        self._began = (0.0, 0.0)

    def judge(self, state: Progress) -> tuple[float, float | None]:
        """Share done of everything, and seconds left once the pace is known."""
        own = state.stage in ("prepare", "sensitivity", "observe", "reconstruct", "finish")
        low, high = (0.0, self._quantizing) if own else (self._quantizing, 1.0)
        done = low + (high - low) * state.done
        now = time.monotonic()
        # restored units go by in no time: the pace counts from the first step with a loss
        if state.stage != self._stage and (state.loss is not None or state.stage != "reconstruct"):
            self._stage, self._began = state.stage, (now, done)
        began, was = self._began
        if state.stage not in ("reconstruct", "compare", "parts") or done - was < 0.01:
            return done, None
        return done, round((now - began) * (1 - done) / (done - was), 1)


def information(result: QuantizedModel, bits: str) -> dict[str, Any]:
    """The bundle's provenance: JSON-ready, without times, so that the file is reproducible."""
    return {
        "method": result.config.method,
        "bits": bits,
        "config": json.loads(json.dumps(result.config.to_dict())),
        "calibration": result.calibration,
        "reconstruction": {
            unit.name: {
                "nearest": round(unit.nearest_loss, 6),
                "loss": round(unit.learned_loss, 6),
                "kept": unit.kept,
            }
            for unit in result.units
        },
        "environment": {
            "torch": torch.__version__,
            "qcore": __version__,
            "python": platform.python_version(),
        },
    }


def clip_requests(path: Path) -> list[ClipRequest]:
    """What to calibrate on: a video or folder as it is, a list of clips, or a project's video with boxes of
    its own objects and its accepted masks.

    Raises:
        CommandError: the path does not exist.
        QuantizationError: the list of clips cannot be used.
        ProjectError: the project cannot be read.
    """
    if not path.exists():
        raise CommandError(f"There is no file or folder {str(path)!r}.")
    if path.suffix == ".json":
        return read_clip_list(path)
    if path.suffix != _PROJECT_SUFFIX:
        return [ClipRequest(path)]
    return [request_of_file(path)]


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """A list that is no longer empty once Ctrl-C was pressed; a second press ends the program."""
    stopped: list[bool] = []

    def on_signal(number: int, frame: types.FrameType | None) -> None:
        stopped.append(True)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
