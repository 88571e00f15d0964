"""How this program starts itself once more: from a frozen application as from an installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def own_command(*arguments: str) -> list[str]:
    """The command line of a verb, e.g. ``own_command("models", "list")``."""
    if getattr(sys, "frozen", False):
        return [sys.executable, *arguments]
    # pythonw has no standard streams to talk over
    python = Path(sys.executable)
    if python.stem.lower() == "pythonw":
        python = python.with_name(python.name.replace("w.exe", ".exe"))
    return [str(python), "-m", "app", *arguments]


def own_environment() -> dict[str, str]:
    """The environment for `own_command`: wherever it starts, it finds this installation's packages."""
    environment = dict(os.environ)
    if not getattr(sys, "frozen", False):
        root = str(Path(__file__).resolve().parents[1])
        before = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, before)))
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment
