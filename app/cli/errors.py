"""The command line's own error, and which errors speak to the user."""

from __future__ import annotations

import errno


class CommandError(RuntimeError):
    """The command cannot be carried out; the message is one sentence for the user."""


class StoppedError(CommandError):
    """The user pressed Ctrl-C; the message says what was kept."""


def sentence_for(error: BaseException) -> str | None:
    """The one sentence that tells a person about an error; None for a mistake of the program.

    Every package of ours has one family of exceptions whose messages are written for people.
    """
    for base in type(error).__mro__:
        if base.__module__.split(".")[0] in ("app", "qcore"):
            return " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return "Stopped."
    if isinstance(error, ImportError):
        return f"A part of the installation is missing ({error}); see 'qminisam2 doctor'."
    if isinstance(error, MemoryError):
        return "There is not enough memory: close other programs, or choose a smaller model."
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return "The disk is full: free some space and try again."
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    return None
