"""The error of this package, and what SQLite's errors mean to a person."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

_log = logging.getLogger(__name__)


class ProjectError(Exception):
    """A project cannot be opened, read or written; the message is one sentence for the user."""


def explain(error: sqlite3.Error | OSError, path: Path, saving: bool = False) -> ProjectError:
    """A `ProjectError` that says in one sentence what went wrong with the project at ``path``."""
    _log.warning("project %s: %r", path, error)
    name = path.name
    kept = " so the last change was undone" if saving else ""
    if isinstance(error, OSError):
        reason = error.strerror or "unknown reason"
        return ProjectError(f"“{name}” cannot be used here: {reason.lower()}.")
    code = getattr(error, "sqlite_errorname", "") or ""
    if code.startswith("SQLITE_FULL"):
        return ProjectError(f"The disk that holds “{name}” is full,{kept or ' so it cannot be saved'}.")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ProjectError(f"“{name}” is already open in another window or program.")
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return ProjectError(f"“{name}” cannot be written here: it or its folder is read-only{_comma(kept)}.")
    if code.startswith("SQLITE_NOTADB"):
        return ProjectError(f"“{name}” is not a project of this program.")
    if code.startswith("SQLITE_CORRUPT") or not code.startswith("SQLITE_IOERR"):
        return ProjectError(f"“{name}” is damaged{_comma(kept)}.")
    return ProjectError(f"The disk that holds “{name}” reported an error{_comma(kept)}.")


def _comma(text: str) -> str:
    return "," + text if text else ""
