"""Threads that share the processor between the objects of a frame and the frames to come.

One torch operation on the small maps of video tracking does not fill several cores: the threads of its team
mostly wait for each other. So each worker computes alone, with its share of the threads, on a task of its
own: one object of the frame, or the encoding of a frame ahead.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import torch

Result = TypeVar("Result")


def _share_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    # torch sets a thread's number again at its first use, from the default of that moment: use it now
    torch.get_num_threads()


SMALL_MAP = 32 * 32
"""Positions of a map up to which one thread decodes a mask faster than a team that waits for itself."""


@contextlib.contextmanager
def team_for(positions: int, device: torch.device) -> Iterator[None]:
    """The right number of torch's threads for operations on maps of so many positions, then as before.

    A mask decoder's hundreds of small operations each end when the last thread of the team is done: with
    another program on one of the cores, a click on a small model took many times as long as on one thread.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or positions > SMALL_MAP or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Later(Generic[Result]):
    """A value that a worker computes when there is time, or whoever is the first to need it.

    Nobody waits for a worker that has not begun; an error goes to everybody who asks.
    """

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call: Callable[[], Result] | None = call
        self._values: list[Result] = []
        self._lock = threading.Lock()

    @classmethod
    def known(cls, value: Result) -> Later[Result]:
        """One that is there already."""
        later = cls(lambda: value)
        later.get()
        return later

    def get(self) -> Result:
        """The value, computed now unless it is there or somebody is at it."""
        with self._lock:
            if self._call is not None:
                self._values.append(self._call())
                self._call = None  # what it holds is needed no longer
            return self._values[0]


class Workers:
    """A few threads with a share of torch's threads each; a context manager that waits for them.

    Inside the block the caller computes on a share of its own, save in `team`.
    """

    def __init__(self, count: int, threads_each: int) -> None:
        self.count = count
        self.threads_each = threads_each
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "tracking", _share_threads, (threads_each,))

    @classmethod
    def for_tasks(cls, tasks: int, device: torch.device) -> Workers | None:
        """Workers for so many tasks a frame; None where one thread does it all.

        An accelerator computes one thing after the other anyway.
        """
        threads = torch.get_num_threads()
        count = min(tasks, threads)
        if count < 2 or device.type != "cpu":
            return None
        return cls(count, threads // count)

    def submit(self, call: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Have a call done by the next free worker, in the order of submission."""
        return self._pool.submit(call, *arguments)

    def share(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """Have calls made by free workers, and by the caller those that no worker has begun.

        For what others wait for, while the workers may be busy with something long that can wait.
        """
        begun = [self._pool.submit(call) for call in calls]
        own = {k: calls[k]() for k in reversed(range(len(calls))) if begun[k].cancel()}
        return [own[k] if k in own else begun[k].result() for k in range(len(calls))]

    @contextlib.contextmanager
    def team(self) -> Iterator[None]:
        """All threads for one computation of the caller's, while the workers have nothing to do."""
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(self.threads_each)

    def __enter__(self) -> Self:
        # the caller gets a worker's share too: MKL has one number for all threads of the process, and with
        # the caller's full number every worker's products would wait for a team that finds no free core
        self._threads, barrier = torch.get_num_threads(), threading.Barrier(self.count)
        for started in [self._pool.submit(barrier.wait) for _ in range(self.count)]:
            started.result()
        torch.set_num_threads(self.threads_each)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads)
