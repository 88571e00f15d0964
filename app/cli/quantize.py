"""`qminisam2 quantize`: calibrate a model on one's own clips and save it as a bundle."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import platform
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.cli.console import Console
from app.cli.errors import CommandError
from app.cli.tracking import choose_device
from qcore import __version__, masks
from qcore.models.loading import load_model
from qcore.quant.bundle import save_bundle
from qcore.quant.calibration_data import ClipRequest, collect_clips
from qcore.quant.describe import describe_model
from qcore.quant.methods import DEFAULT_ITERATIONS, METHODS, method
from qcore.quant.pipeline import Progress, QuantizedModel, quantize_model
from qcore.quant.sensitivity import choose_bits
from qcore.quant.sqnr import measure_sqnr, sqnr_markdown
from qcore.quant.targets import make_plan

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
        help="videos, frame folders or projects to calibrate on; a project's own objects become the prompts",
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
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    if args.out is None and not args.plan:
        raise CommandError("Say where to write the bundle: --out FILE.")
    if args.out is not None and args.out.suffix != ".safetensors":
        raise CommandError("A bundle's name ends in .safetensors.")
    device = choose_device(args.device)
    model = load_model(args.model, device=device, image_size=args.image_size)
    bits = "w4a4" if args.bits == "auto" else args.bits
    config = method(
        args.method,
        bits,
        args.iterations,
        args.seed,
        hvq=not args.no_hvq,
        mutual_kv=not args.no_mutual_kv,
        preset=args.preset,
    )
    config = dataclasses.replace(config, include=tuple(args.include) or ("*",), exclude=tuple(args.exclude))
    if args.plan:
        plan = make_plan(model, config)
        console.line(plan.table())
        console.result({"layers": [dataclasses.asdict(layer) for layer in plan.layers]})
        return 0
    description = describe_model(args.model, model)
    clips = collect_clips(
        [request(path) for path in args.clips], args.clip_count, args.frames_per_clip, args.stride
    )
    with console.progress("Calibrating", 1000, "‰") as bar, _interruptible() as stopped:

        def show(state: Progress) -> None:
            loss = "" if state.loss is None else f", loss {state.loss:.3g}"
            left = "" if state.eta_s is None else f", {state.eta_s / 60:.1f} min left"
            bar.set(round(state.done * 1000), 1000, f"{state.stage} {state.module}{loss}{left}")

        if args.bits == "auto":
            if args.budget_mb is None:
                raise CommandError("--bits auto needs --budget-mb.")
            config = choose_bits(model, clips, config, int(args.budget_mb * 1e6), show)
        result = quantize_model(model, clips, config, show, lambda: bool(stopped), args.work_dir)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    size = save_bundle(args.out, result.model, description, information(result, args.bits), result.mutual_kv)
    full = 4 * sum(parameter.numel() for parameter in model.parameters())
    if args.sqnr is not None:
        args.sqnr.write_text(sqnr_markdown(measure_sqnr(model, result.model, clips)), encoding="utf-8")
    console.line(
        f"{args.out}: {size / 1e6:.2f} MB, {100 * (1 - size / full):.1f} % smaller than fp32 "
        f"({full / 1e6:.2f} MB), {len(result.units)} units fitted in {result.wall_s / 60:.1f} min"
    )
    console.result(
        {
            "bundle": str(args.out),
            "size_bytes": size,
            "fp32_bytes": full,
            "method": args.method,
            "bits": args.bits,
            "seconds": round(result.wall_s, 1),
            "cpu_seconds": round(result.cpu_s, 1),
            "mutual_kv_epsilon": None if result.mutual_kv is None else result.mutual_kv.epsilon,
            "units": [dataclasses.asdict(unit) for unit in result.units],
        }
    )
    return 0


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


def request(path: Path) -> ClipRequest:
    """What to calibrate on: a video or folder as it is; a project's video with boxes of the project's own
    objects.

    Raises:
        CommandError: the path does not exist.
    """
    if not path.exists():
        raise CommandError(f"There is no file or folder {str(path)!r}.")
    if path.suffix != _PROJECT_SUFFIX:
        return ClipRequest(path)
    project = importlib.import_module("app.project.store").Project.open(path)
    try:
        return ClipRequest(Path(project.video.path), tuple(_prompts(project)))
    finally:
        project.close()


def _prompts(project: Any) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """One box for each object, on the first frame where the project shows it."""
    for object_id in project.objects:
        for frame in sorted(project.frames_with_mask(object_id)):
            mask = project.mask(frame, object_id)
            if mask is not None and not mask.rle.is_empty:
                ys, xs = np.nonzero(masks.decode(mask.rle))
                yield int(frame), (float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
                break


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
