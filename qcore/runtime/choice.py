"""Which of several kernels that compute the same is fastest here: measured once a kind and shape of work.

A contest is held when a model is loaded and meets work of a kind and shape that this machine has not measured
yet; `probe` remembers the times. Every way computes the same function, so any gain counts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

_REPEATS = 5
_ENOUGH_S = 0.03
"""Of processor time for one way: long work is repeated less."""
_NEAR, _MORE_ROUNDS = 1.6, 2
"""Ways within this factor of the fastest are timed again, so many times."""


class Way(StrEnum):
    """How a product is computed."""

    INTEGER = "int8"
    """oneDNN's kernels on a re-laid matrix of signed bytes."""
    INTEGER_PLAIN = "int8 as it lies"
    """The same on a matrix that is not re-laid, for one that is used once."""
    PACKED = "float, packed"
    """oneDNN's kernels on a re-laid matrix of floats: what the quantizers give, without the scale."""
    PLAIN = "float, plain"
    """BLAS in float32 on the matrix as it lies."""
    HALF = "bfloat16, plain"
    """oneDNN's product in bfloat16 on the matrix as it lies, for one that is used once."""

    @property
    def is_integer(self) -> bool:
        """Whether products are of 8-bit integers."""
        return self in (Way.INTEGER, Way.INTEGER_PLAIN)


@dataclass(frozen=True, slots=True)
class Case:
    """Work that is alike enough to be measured once."""

    kind: str
    """E.g. ``linear``."""
    sizes: tuple[int, ...]
    detail: str = ""
    """What else matters, e.g. bit widths."""

    @property
    def name(self) -> str:
        """The class of the work, e.g. ``linear 1024x128x512, 6 bits``; sizes are rounded up to powers of
        two."""
        sizes = "x".join(str(1 << (size - 1).bit_length()) for size in self.sizes)
        return f"{self.kind} {sizes}" + (f", {self.detail}" if self.detail else "")


Timer = Callable[[str, Way, Callable[[], object]], float]
"""Milliseconds of a call, given the name of its case and how it computes."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on the caller's thread alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fastest_ms(call: Callable[[], object]) -> float:
    """Processor time of the fastest of several calls on one thread: what else runs does not count."""
    call()
    best, begin = float("inf"), time.thread_time()
    for _ in range(_REPEATS):
        started = time.thread_time()
        call()
        now = time.thread_time()
        best = min(best, now - started)
        if now - begin > _ENOUGH_S:
            break
    return best * 1000


def _processor_time(_case: str, _way: Way, call: Callable[[], object]) -> float:
    with one_thread(), torch.inference_mode():
        return fastest_ms(call)


class Chooser:
    """Holds contests and knows the results of earlier ones.

    Args:
        known: milliseconds of every way by name of case.
        integers: whether ways in 8-bit integers may take part.
        timer: measures.
    """

    def __init__(
        self,
        known: Mapping[str, Mapping[str, float]] | None = None,
        integers: bool = True,
        timer: Timer = _processor_time,
    ) -> None:
        self.known = {case: dict(times) for case, times in (known or {}).items()}
        self.integers = integers
        self.chosen: dict[str, Way] = {}
        """What this chooser was asked, with the answer."""
        self.measured = 0
        """Cases that were not known."""
        self._timer = timer

    def fastest(self, case: Case, calls: Mapping[Way, Callable[[], Callable[[], object]]]) -> Way:
        """The way to do the work.

        Args:
            case: what it is.
            calls: for every way that can do it, makes the call to be timed; made only if not known.
        """
        able = [way for way in calls if self.integers or not way.is_integer]
        if len(able) == 1:
            return able[0]
        known = self.known.get(case.name, {})
        if any(way not in known for way in able):
            # all of them again: times of one moment are compared
            known = self._race(case, {way: calls[way]() for way in able})
            self.known[case.name] = {str(way): known[way] for way in able}
            self.measured += 1
        way = min(able, key=lambda way: known[way])
        self.chosen[case.name] = way
        return way

    def _race(self, case: Case, calls: Mapping[Way, Callable[[], object]]) -> dict[str, float]:
        """Best milliseconds of every way; those near the first run again, when the machine may have slowed
        down or recovered."""
        times = {way: self._timer(case.name, way, call) for way, call in calls.items()}
        for _ in range(_MORE_ROUNDS):
            near = [way for way, ms in times.items() if ms <= _NEAR * min(times.values())]
            if len(near) == 1:
                break
            for way in near:
                times[way] = min(times[way], self._timer(case.name, way, calls[way]))
        return {str(way): round(ms, 4) for way, ms in times.items()}

    def build(
        self, case: Case, builders: Mapping[Way, Callable[[], Any]], inputs: Callable[[], torch.Tensor]
    ) -> Any:
        """The fastest of several kernels, timed on ``inputs()``; the others are not kept."""

        def call_of(way: Way) -> Callable[[], object]:
            kernel, x = builders[way](), inputs()
            return lambda: kernel(x)

        calls: dict[Way, Callable[[], Callable[[], object]]] = {
            way: lambda way=way: call_of(way)  # type: ignore[misc]
            for way in builders
        }
        return builders[self.fastest(case, calls)]()


Choice = Chooser | bool
"""How a kernel is chosen: by contest, or in 8-bit integers wherever those are exact (True), or never."""
