"""`qminisam2 benchmark speed`: our ways of running a model against upstream's predictor, on one clip."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from app.cli.console import Console
from app.cli.errors import CommandError
from resources import resource_path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--models",
        nargs="+",
        default=["embedded-fp16"],
        metavar="ID|BUNDLE",
        help="models of the registry and files of quantized bundles (default: embedded-fp16); official ones "
        "need not be installed: random weights are as fast",
    )
    parser.add_argument(
        "--clip", type=Path, metavar="VIDEO", help="video or frame folder (default: the sample)"
    )
    parser.add_argument("--frames", type=int, default=12, help="frames to track (default: %(default)s)")
    parser.add_argument(
        "--objects",
        type=_numbers,
        default=(1, 3, 8),
        metavar="N,N",
        help="numbers of objects to track at once (default: 1,3,8)",
    )
    parser.add_argument(
        "--bits",
        default="w6a6",
        help="run registry models quantized too, or none (default: %(default)s)",
    )
    parser.add_argument(
        "--groups",
        type=float,
        default=3.0,
        help="run with Mutual-KV at this mean number of groups too, 0 for not (default: %(default)g)",
    )
    parser.add_argument("--size", type=int, help="side of the model's input in pixels (default: its own)")
    parser.add_argument("--repeats", type=int, default=5, help="of the short parts (default: %(default)s)")
    parser.add_argument(
        "--memory-frames",
        type=int,
        default=0,
        metavar="N",
        help="also measure load time and peak memory, in a fresh process that tracks N frames of two objects",
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="CPU threads (default: one a core); with 1, processor time is measured, which other programs "
        "disturb little",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write FILE.md and FILE.json")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",") if word.strip())


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    import torch

    from qcore.evaluation.speed import SpeedPlan, measure_speed

    if args.frames < 4 or args.repeats < 1 or not args.objects or min(args.objects) < 1:
        raise CommandError("At least 4 frames, one repeat and one object are needed.")
    if args.threads:
        torch.set_num_threads(args.threads)
    clip = args.clip or next(iter(sorted(resource_path("sample").glob("*.mp4"))))
    plan = SpeedPlan(
        models=tuple(args.models),
        bits=None if args.bits == "none" else args.bits,
        groups=args.groups or None,
        image_size=args.size,
        frames=args.frames,
        objects=args.objects,
        repeats=args.repeats,
        memory_frames=args.memory_frames,
    )
    report = measure_speed(str(clip), plan, lambda name: print(name, file=sys.stderr, flush=True))
    command = _command(args, clip)
    text = f"`{command}`\n\n{report.to_markdown()}"
    result = {"command": command, **report.to_json()}
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".md").write_text(text, encoding="utf-8")
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.line(text.rstrip())
    console.result(result)
    return 0


def _command(args: argparse.Namespace, clip: Path) -> str:
    """The command to repeat the measurement, with file names instead of this machine's paths."""
    models = [Path(model).name if Path(model).suffix else model for model in args.models]
    words = ["qminisam2", "benchmark", "speed", "--models", *models]
    if args.clip is not None:
        words += ["--clip", clip.name]
    words += ["--frames", str(args.frames), "--objects", ",".join(map(str, args.objects))]
    words += ["--bits", args.bits, "--groups", f"{args.groups:g}", "--repeats", str(args.repeats)]
    for option in ("size", "threads"):
        if getattr(args, option):
            words += [f"--{option}", str(getattr(args, option))]
    if args.memory_frames:
        words += ["--memory-frames", str(args.memory_frames)]
    return shlex.join(words)
