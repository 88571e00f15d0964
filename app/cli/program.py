"""The `qminisam2` program: choose the window or a verb, turn errors into sentences and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path

from app.cli.console import Console
from app.cli.errors import sentence_for
from app.cli.verbs import Verb, available_verbs

log = logging.getLogger(__name__)

_PROGRAM = "qminisam2"


def run(argv: list[str]) -> int:
    """Run one command line (without the program's name); the exit code."""
    verbs = available_verbs()
    try:
        if argv and argv[0] in verbs:
            return _run_verb(verbs[argv[0]], argv[1:])
        return _run_window(argv, verbs)
    except SystemExit as exit_:  # argparse has printed help or what was wrong
        return exit_.code if isinstance(exit_.code, int) else 2


def _run_window(argv: list[str], verbs: dict[str, Verb]) -> int:
    listing = "\n".join(f"  {verb.name:<11}{verb.summary}" for verb in verbs.values())
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Annotate video with a SAM 2 on this machine. Without a command, the window opens.",
        epilog=f"commands (see '{_PROGRAM} COMMAND --help'):\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", nargs="?", help="a video, a folder of frames or a project to open")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    args = parser.parse_args(argv)
    if args.version:
        from qcore import __version__

        print(f"{_PROGRAM} {__version__}")
        return 0
    if args.path is not None and not Path(args.path).expanduser().exists():
        parser.error(f"there is no file, folder or command {args.path!r}")
    from app.cli.window import open_window

    return open_window(args.path)


def _run_verb(verb: Verb, argv: list[str]) -> int:
    summary = verb.summary[:1].upper() + verb.summary[1:]
    parser = argparse.ArgumentParser(prog=f"{_PROGRAM} {verb.name}", description=f"{summary}.")
    parser.add_argument("--verbose", action="store_true", help="log details to stderr")
    verbose, console = "--verbose" in argv, Console()
    try:
        _set_up_logging(verbose)
        module = verb.load()
        module.configure(parser)
        args = parser.parse_args(argv)
        as_json = bool(getattr(args, "json", False))
        console = Console(as_json)
        # Libraries that print must not end up in the JSON on stdout.
        quiet = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
        with quiet:
            return module.run(args, console)
    except BrokenPipeError:
        # the reader (such as `head`) went away; keep Python from complaining when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, console, verbose)


def _report(error: BaseException, console: Console, verbose: bool) -> int:
    sentence = sentence_for(error)
    if verbose:
        traceback.print_exception(error)
    if sentence is None:
        hint = "" if verbose else " (run it again with --verbose for details)"
        sentence = f"This is a mistake of the program: {type(error).__name__}: {error}{hint}."
    console.note(f"{_PROGRAM}: {' '.join(sentence.split())}")
    return 1


def _set_up_logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.CRITICAL,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    if not verbose:
        warnings.simplefilter("ignore")
