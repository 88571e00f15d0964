"""Entry points: `qminisam2` (the window, or a headless verb) and `qminisam2-gui` (always the window)."""

from __future__ import annotations

import sys

from app.threads import let_threads_sleep, take_turns_often
from qcore.allocator import keep_freed_memory


def _prepare_process() -> None:
    """What has to be set before other threads and libraries begin."""
    let_threads_sleep()
    take_turns_often()
    keep_freed_memory()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; without a verb, the window.

    Args:
        argv: arguments without the program's name; None for the process's own.

    Returns:
        Exit code: 0, 1 after an error (one sentence on stderr), 2 for a misused command line.
    """
    _prepare_process()
    from app.cli.program import run

    return run(sys.argv[1:] if argv is None else argv)


def main_gui() -> int:
    """Run the window, opening the first argument if there is one."""
    _prepare_process()
    from app.cli.window import open_window

    return open_window(sys.argv[1] if len(sys.argv) > 1 else None)


if __name__ == "__main__":
    sys.exit(main())
