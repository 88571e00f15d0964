"""`qminisam2 benchmark tables`: the paper's Tables 1 to 3 and Figure 3 on one's own model."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.console import Console
from app.cli.errors import CommandError

if TYPE_CHECKING:
    from qcore.evaluation.tables import Recipe
    from qcore.quant.calibration_data import CalibrationClip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--model", default="embedded-fp16", metavar="ID|FILE", help="the full-precision model"
    )
    parser.add_argument(
        "--clips", nargs="+", type=Path, required=True, metavar="PATH", help="what to calibrate on"
    )
    parser.add_argument("--clip-count", type=int, default=8, metavar="N", help="clips in all (default: 8)")
    parser.add_argument("--frames-per-clip", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--video-dataset", choices=("davis", "sav"), default="davis")
    parser.add_argument(
        "--video-root", type=Path, metavar="DIR", help="Tables 2 and 3: the benchmark's folder"
    )
    parser.add_argument(
        "--coco-root", type=Path, metavar="DIR", help="Table 1: boxes come from its own truth"
    )
    parser.add_argument(
        "--detections",
        type=Path,
        metavar="FILE",
        help="boxes of a detector instead: its results in COCO's format",
    )
    parser.add_argument("--sequences", type=_names, metavar="A,B", help="only these sequences")
    parser.add_argument("--images", type=_names, metavar="A,B", help="only these images")
    parser.add_argument("--max-frames", type=int, metavar="N", help="cut every sequence; not comparable then")
    parser.add_argument(
        "--bits", type=_names, default=["w6a6", "w4a4"], metavar="A,B", help="default: w6a6,w4a4"
    )
    parser.add_argument("--methods", type=_names, metavar="A,B", help="default: all of them")
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2], metavar="A,B", help="default: 0,1,2")
    parser.add_argument("--iterations", type=int, metavar="N", help="steps per reconstructed unit")
    parser.add_argument("--no-ablation", action="store_true", help="without Table 3")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="results; finished rows there are kept"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(name) for name in _names(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers") from error


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    from app.cli.quantize import clip_requests
    from qcore.evaluation.tables import (
        METHOD_ROWS,
        RowStore,
        size_figure,
        table_recipes,
        tables_markdown,
    )
    from qcore.models.files import sha256_of
    from qcore.models.loading import resolve_model
    from qcore.quant.calibration_data import collect_clips, fingerprint
    from qcore.quant.methods import DEFAULT_ITERATIONS

    if args.video_root is None and args.coco_root is None:
        raise CommandError("Say what to score on: --video-root DIR, --coco-root DIR, or both.")
    if not args.seeds or not args.bits:
        raise CommandError("At least one seed and one bit width are needed.")
    args.iterations = DEFAULT_ITERATIONS if args.iterations is None else args.iterations
    clips = collect_clips(
        [request for path in args.clips for request in clip_requests(path)],
        args.clip_count,
        args.frames_per_clip,
    )
    _refuse_overlap(args)
    settings = {
        "model": args.model,
        "model_sha256": sha256_of(resolve_model(args.model)),
        "calibration_sha256": fingerprint(clips),
        "iterations": args.iterations,
        "video_dataset": args.video_dataset,
        "video": args.video_root is not None,
        "coco": args.coco_root is not None,
        "detections_sha256": None if args.detections is None else sha256_of(args.detections),
        "sequences": args.sequences,
        "images": args.images,
        "max_frames": args.max_frames,
    }
    recipes = table_recipes(args.bits, args.methods or METHOD_ROWS, args.seeds, not args.no_ablation)
    try:
        store = RowStore(args.out, settings)
    except ValueError as error:
        raise CommandError(str(error)) from error
    rows: dict[str, dict[str, Any]] = {}
    with console.progress("Tables", len(recipes), "rows") as bar:
        for number, recipe in enumerate(recipes):
            bar.set(number, len(recipes), recipe.key)
            row = store.load(recipe)
            if row is None:
                store.save(recipe, _measure(recipe, args, clips))
                row = store.load(recipe)
                assert row is not None
            rows[recipe.key] = row
    command = _command(args)
    facts = "\n".join(f"- {name}: {value}" for name, value in settings.items() if value is not None)
    text = f"`{command}`\n\n{facts}\n\n{tables_markdown(rows, recipes)}"
    result = {"command": command, "settings": settings, "rows": [rows[r.key] for r in recipes]}
    (args.out / "tables.md").write_text(text, encoding="utf-8")
    (args.out / "tables.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    (args.out / "figure3.svg").write_text(size_figure(list(rows.values())), encoding="utf-8")
    console.line(text.rstrip())
    console.result(result)
    return 0


def _refuse_overlap(args: argparse.Namespace) -> None:
    """Never calibrate on what is scored."""
    for root in (args.video_root, args.coco_root):
        for path in args.clips:
            if root is not None and path.resolve().is_relative_to(root.resolve()):
                raise CommandError(f"{path} lies in the benchmark that is scored: calibrate on other clips.")


def _measure(recipe: Recipe, args: argparse.Namespace, clips: list[CalibrationClip]) -> dict[str, Any]:
    """Calibrate, save, read back and score one row."""
    from app.cli.quantize import information
    from qcore.evaluation import evaluate
    from qcore.evaluation.coco import coco_images
    from qcore.evaluation.detections import read_detections, score_detections
    from qcore.evaluation.tables import FULL_PRECISION
    from qcore.evaluation.trackers import SessionTracker
    from qcore.models import load_model
    from qcore.quant.bundle import read_header, save_bundle
    from qcore.quant.describe import describe_model
    from qcore.quant.methods import method
    from qcore.quant.pipeline import quantize_model
    from qcore.runtime import Precision, lower
    from qcore.tracking.mutual_kv import MutualKvSettings

    model = load_model(args.model)
    row: dict[str, Any] = {
        "size_bytes": 4 * sum(parameter.numel() for parameter in model.parameters()),
        "calibration_s": 0.0,
    }
    mutual_kv = None
    if recipe.method != FULL_PRECISION:
        config = method(
            recipe.method, recipe.bits, args.iterations, recipe.seed, recipe.hvq, recipe.mutual_kv
        )
        result = quantize_model(model, clips, config)
        path = args.out / "bundles" / f"{recipe.key}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_bundle(
            path,
            result.model,
            describe_model(args.model, model),
            information(result, recipe.bits),
            result.mutual_kv,
        )
        row = {"size_bytes": path.stat().st_size, "calibration_s": round(result.wall_s, 1)}
        model = load_model(path)
        header = read_header(path).mutual_kv
        if header is not None:
            mutual_kv = MutualKvSettings(epsilon=header.epsilon, weigh_groups=header.log_bias)
            row["epsilon"] = header.epsilon
    lower(model, Precision.FP32)  # the same function to rounding, several times faster
    started = time.monotonic()
    if args.video_root is not None:
        report = evaluate(
            model,
            args.video_dataset,
            args.video_root,
            sequences=args.sequences,
            mutual_kv=mutual_kv,
            max_frames=args.max_frames,
            model_name=recipe.key,
        )
        row.update({"J": report.j, "F": report.f, "JF": report.jf, "fps": report.fps})
        row["sequences"] = report.to_json()["sequences"]
    if args.coco_root is not None:
        if args.detections is None:
            report = evaluate(model, "coco", args.coco_root, sequences=args.images, model_name=recipe.key)
            row["mAP"] = (report.average_precision or {}).get("AP")
        else:
            images = coco_images(args.coco_root, args.images)
            boxes = read_detections(args.detections)
            row["mAP"] = score_detections(SessionTracker(model).session, images, boxes).get("AP")
    row["evaluation_s"] = round(time.monotonic() - started, 1)
    return row


def _command(args: argparse.Namespace) -> str:
    """The command that gives these tables, folders by their last name."""
    words = ["qminisam2", "benchmark", "tables", "--model", args.model, "--clips"]
    words += [path.name for path in args.clips]
    words += ["--clip-count", str(args.clip_count), "--frames-per-clip", str(args.frames_per_clip)]
    if args.video_root is not None:
        words += ["--video-dataset", args.video_dataset, "--video-root", args.video_root.name]
    if args.coco_root is not None:
        words += ["--coco-root", args.coco_root.name]
        words += ["--detections", args.detections.name] if args.detections else []
    for name, value in (("sequences", args.sequences), ("images", args.images), ("methods", args.methods)):
        words += [f"--{name}", ",".join(value)] if value else []
    words += ["--bits", ",".join(args.bits), "--seeds", ",".join(map(str, args.seeds))]
    words += ["--iterations", str(args.iterations)]
    words += ["--max-frames", str(args.max_frames)] if args.max_frames else []
    words += ["--no-ablation"] if args.no_ablation else []
    return shlex.join([*words, "--out", args.out.name])
