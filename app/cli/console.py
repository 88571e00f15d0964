"""What the commands print where: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

_NOTE_EVERY_S = 10.0


class Progress:
    """A bar on a terminal; elsewhere a line every ten seconds, so that logs stay readable."""

    def __init__(self, title: str, total: int | None, unit: str, stream: TextIO) -> None:
        self._title, self._total, self._unit, self._stream = title, total, unit, stream
        self._done = 0
        self._noted_at = time.monotonic()
        self._bar: Any = None
        if stream.isatty():
            from tqdm import tqdm

            is_bytes = unit == "B"
            self._bar = tqdm(
                total=total,
                desc=title,
                unit=unit,
                unit_scale=is_bytes,
                unit_divisor=1000,
                file=stream,
                leave=False,
                disable=False,
                dynamic_ncols=True,
            )

    def set(self, done: int, total: int | None = None, title: str | None = None) -> None:
        """Show that ``done`` units (of ``total``, if that became known) are done."""
        self._done = done
        self._total = total if total is not None else self._total
        if title is not None and title != self._title:
            self._title = title
            if self._bar is not None:
                self._bar.set_description(title, refresh=False)
        if self._bar is not None:
            if total is not None:
                self._bar.total = total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._noted_at >= _NOTE_EVERY_S:
            self._noted_at = time.monotonic()
            of = f" of {self._total}" if self._total is not None else ""
            print(f"{self._title}: {self._done}{of} {self._unit}", file=self._stream, flush=True)

    def advance(self, by: int = 1) -> None:
        """Show that so many more units are done."""
        self.set(self._done + by)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


class Console:
    """The two streams of a command. With ``as_json`` stdout holds one JSON document and nothing else."""

    def __init__(
        self, as_json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr

    def line(self, text: str = "") -> None:
        """Print a result for a person; nothing when the result is JSON."""
        if not self.as_json:
            print(text, file=self._stdout)

    def note(self, text: str) -> None:
        """Tell a person something beside the result."""
        print(text, file=self._stderr, flush=True)

    def result(self, value: Any) -> None:
        """Print the command's result as JSON when that was asked for; strict JSON, so no NaN."""
        if self.as_json:
            print(json.dumps(value, indent=2, allow_nan=False), file=self._stdout, flush=True)

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None, unit: str) -> Iterator[Progress]:
        """A progress display that goes away at the end."""
        progress = Progress(title, total, unit, self._stderr)
        try:
            yield progress
        finally:
            progress.close()
