"""`qminisam2 evaluate`: score a model on a benchmark folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from app.cli.console import Console
from app.cli.tracking import add_model_options, choose_device, load_for_tracking, mutual_kv_settings
from qcore.evaluation import BASELINES, DATASETS, EvaluationProgress, PromptKind, evaluate


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--dataset", choices=DATASETS, required=True, help="which benchmark's layout to read")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the benchmark's folder")
    parser.add_argument(
        "--sequences",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        metavar="A,B",
        help="only these sequences (default: all)",
    )
    add_model_options(parser)
    parser.add_argument(
        "--prompt",
        choices=[kind.value for kind in PromptKind],
        default=PromptKind.BOX.value,
        help="what each object is prompted with, from its true mask (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = f"Baselines in place of a model: --model {', '.join(BASELINES)}."


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    is_baseline = args.model in BASELINES
    device = "cpu" if is_baseline else choose_device(args.device)
    model = args.model if is_baseline else load_for_tracking(args.model, device)[0]
    with console.progress("Evaluating", None, "frames") as progress:

        def show(state: EvaluationProgress) -> None:
            number = f"{state.sequence_index + 1}/{state.sequence_count}"
            progress.set(state.frame, state.frame_count, f"{state.sequence} ({number})")

        report = evaluate(
            model,
            args.dataset,
            args.root,
            sequences=args.sequences,
            prompt=args.prompt,
            mutual_kv=mutual_kv_settings(args.mutual_kv),
            device=device,
            model_name=args.model,
            progress=show,
        )
    console.line(report.to_markdown().rstrip())
    console.result(report.to_json())
    return 0
