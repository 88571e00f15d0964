"""`qminisam2 benchmark WHAT`: measure accuracy tables, speed and size. Each WHAT is a module of its own."""

from __future__ import annotations

import argparse

from app.cli.console import Console
from app.cli.verbs import Verb

_TABLE = (
    Verb(
        "tables", "app.cli.benchmark_tables", "the paper's Tables 1-3 and Figure 3, and errors layer by layer"
    ),
    Verb("speed", "app.cli.benchmark_speed", "speed side by side with upstream"),
    Verb("size", "app.cli.benchmark_size", "the size of bundles, part by part"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a command for every benchmark of this installation."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT", title="what to measure")
    for verb in _TABLE:
        if verb.is_available:
            summary = verb.summary
            verb.load().configure(
                commands.add_parser(
                    verb.name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}."
                )
            )


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    return next(verb for verb in _TABLE if verb.name == args.what).load().run(args, console)
