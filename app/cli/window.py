"""Opening the window from the command line, or saying in one sentence why it cannot."""

from __future__ import annotations

import importlib
import os
import sys


def open_window(path: str | None) -> int:
    """Run the window until it is closed; the exit code."""
    problem = _obstacle()
    if problem is not None:
        _complain(problem)
        return 1
    try:
        application = importlib.import_module("app.ui.application")
    except ImportError as error:
        _complain(f"The window cannot start: {error} (see 'qminisam2 doctor').")
        return 1
    return int(application.run(path))


def _obstacle() -> str | None:
    """Why no window can open here, where Qt itself would just abort; None when nothing stands in the way."""
    if sys.platform != "linux":
        return None
    platform = os.environ.get("QT_QPA_PLATFORM", "")
    if not platform and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        return "There is no display to open a window on; the commands of 'qminisam2 --help' need none."
    from app.system_libraries import install_command, missing_libraries

    missing = missing_libraries(window=platform in ("", "xcb"))
    if missing:
        return f"System libraries of the window are missing; install them with: {install_command(missing)}"
    return None


def _complain(sentence: str) -> None:
    if sys.stderr is not None:  # a Windows program without a console has none
        print(f"qminisam2: {sentence}", file=sys.stderr)
