"""A priority queue of stepwise jobs: the most urgent job runs next, long jobs yield between their steps.

Free of Qt and torch, so its rules are tested without a thread. One thread calls `run_one`; any thread may
submit, pause and cancel.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

log = logging.getLogger(__name__)


class Priority(IntEnum):
    """Smaller runs first."""

    CONTROL = 0
    """Opening, closing, loading: everything later depends on it."""
    CLICK = 1
    PREVIEW = 2
    ARRIVAL = 3
    """Encoding the frame the user looks at."""
    PROPAGATE = 4
    IDLE = 5


@dataclass(slots=True, eq=False)
class Job:
    """One unit of work. ``start`` does it at once (returns None) or returns its steps as an iterator."""

    priority: Priority
    start: Callable[[], Iterator[None] | None]
    on_error: Callable[[Exception], None]
    on_end: Callable[[bool], None] | None = None
    """Called once when the job is over, with True when it was cancelled; not after an error."""
    key: Hashable | None = None
    """A queued, not yet started job with the same key is replaced."""
    order: int = 0
    paused: bool = False
    cancelled: bool = False
    steps: Iterator[None] | None = field(default=None, repr=False)


class JobQueue:
    """Holds the jobs and decides which step runs next."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._counter = itertools.count()
        self._wake = threading.Condition()
        self._closed = False

    def submit(self, job: Job) -> Job:
        """Queue a job; one with the same key that has not started is dropped without a trace."""
        with self._wake:
            if self._closed:
                job.cancelled = True
                return job
            if job.key is not None:
                self._jobs = [j for j in self._jobs if j.key != job.key or j.steps is not None]
            job.order = next(self._counter)
            self._jobs.append(job)
            self._wake.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Ask a job to end before its next step."""
        with self._wake:
            job.cancelled = True
            job.paused = False
            self._wake.notify_all()

    def set_paused(self, job: Job, paused: bool) -> None:
        """Hold a job between two steps, or let it go on."""
        with self._wake:
            job.paused = paused and not job.cancelled
            self._wake.notify_all()

    def drop(self, key: Hashable) -> None:
        """Forget queued jobs of a key that have not started."""
        with self._wake:
            self._jobs = [j for j in self._jobs if j.key != key or j.steps is not None]

    def close(self) -> None:
        """Cancel everything and release the waiting thread; later jobs are refused."""
        with self._wake:
            self._closed = True
            for job in self._jobs:
                job.cancelled = True
                job.paused = False
            self._wake.notify_all()

    @property
    def is_closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def has_ready(self) -> bool:
        """True when some job could run now."""
        with self._wake:
            return self._next() is not None

    def wait(self) -> None:
        """Block until a job could run or the queue was closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._next() is not None)

    def run_one(self) -> bool:
        """Run one step of the most urgent job in the calling thread; False when there was none."""
        with self._wake:
            job = self._next()
            if job is None:
                return False
            if job.steps is None:
                # out of the list while it starts: a job of the same key submitted meanwhile must be kept
                self._jobs.remove(job)
        self._step(job)
        return True

    def _next(self) -> Job | None:
        ready = [job for job in self._jobs if not job.paused]
        # a cancelled job ends at once, whatever its priority: the user is waiting for it to stop
        return min(ready, key=lambda job: (not job.cancelled, job.priority, job.order), default=None)

    def _finish(self, job: Job) -> None:
        with self._wake:
            if job in self._jobs:
                self._jobs.remove(job)

    def _step(self, job: Job) -> None:
        try:
            if job.cancelled:
                self._close_steps(job)
                self._finish(job)
                if job.on_end is not None:
                    job.on_end(True)
                return
            if job.steps is None:
                job.steps = job.start()
                if job.steps is not None:
                    with self._wake:
                        self._jobs.append(job)
                    return
            else:
                try:
                    next(job.steps)
                    return
                except StopIteration:
                    self._finish(job)
            if job.on_end is not None:
                job.on_end(False)
        except Exception as error:
            log.debug("job failed", exc_info=True)
            self._finish(job)
            job.on_error(error)

    @staticmethod
    def _close_steps(job: Job) -> None:
        close = getattr(job.steps, "close", None)
        if close is not None:
            close()
