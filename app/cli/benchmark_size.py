"""`qminisam2 benchmark size`: what the bytes of bundles and model files are spent on."""

from __future__ import annotations

import argparse

from app.cli.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("models", nargs="+", metavar="ID|BUNDLE", help="ids or files of quantized bundles")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    from qcore.quant.size import measure_size, size_markdown  # brings torch

    rows = [measure_size(model) for model in args.models]
    console.line(size_markdown(rows).rstrip())
    console.result([row.to_json() for row in rows])
    return 0
