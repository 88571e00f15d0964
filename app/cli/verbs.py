"""The table of verbs. A verb is a module with `configure(parser)` and `run(args, console) -> int`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Protocol, cast

from app.cli.console import Console


class VerbModule(Protocol):
    """What the module of a verb offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        ...

    def run(self, args: argparse.Namespace, console: Console) -> int:
        """Do it; the exit code. User errors are raised."""
        ...


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb; its module is imported only when it is used, so that `--help` is instant."""

    name: str
    module: str
    summary: str

    @property
    def is_available(self) -> bool:
        """True when this installation has the module."""
        return importlib.util.find_spec(self.module) is not None

    def load(self) -> VerbModule:
        """Import the module."""
        return cast(VerbModule, importlib.import_module(self.module))


_TABLE = (
    Verb("propagate", "app.cli.propagate", "track prompted objects through a video and export the masks"),
    Verb("export", "app.cli.export", "write a project's masks in another format"),
    Verb("import", "app.cli.import_masks", "read masks of another format into a project"),
    Verb("quantize", "app.cli.quantize", "calibrate a model on your clips and save it as a bundle"),
    Verb("evaluate", "app.cli.evaluate", "score a model on a benchmark"),
    Verb("benchmark", "app.cli.benchmark", "measure accuracy tables, speed and size"),
    Verb("models", "app.cli.models", "list, download, import, verify and remove models"),
    Verb("doctor", "app.cli.doctor", "show versions, devices, kernels and what is missing"),
)


def available_verbs() -> dict[str, Verb]:
    """Verbs of this installation by name, in the order to show them."""
    return {verb.name: verb for verb in _TABLE if verb.is_available}
