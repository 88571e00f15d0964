"""The order in which jobs run, without a thread."""

from __future__ import annotations

from app.engine.queue import Job, JobQueue, Priority


class Recorder:
    def __init__(self) -> None:
        self.queue = JobQueue()
        self.events: list[object] = []

    def job(self, name, priority, steps=0, key=None, fails=False):
        def start():
            if fails:
                raise ValueError(name)
            if not steps:
                self.events.append(name)
                return None

            def iterate():
                try:
                    for number in range(steps):
                        self.events.append((name, number))
                        yield
                finally:
                    self.events.append((name, "closed"))

            return iterate()

        return self.queue.submit(
            Job(
                priority,
                start,
                lambda error: self.events.append(("error", str(error))),
                lambda cancelled: self.events.append((name, "cancelled" if cancelled else "end")),
                key,
            )
        )

    def drain(self):
        while self.queue.run_one():
            pass


def test_the_most_urgent_job_runs_first_and_equal_ones_in_order():
    r = Recorder()
    r.job("idle", Priority.IDLE)
    r.job("click 1", Priority.CLICK)
    r.job("click 2", Priority.CLICK)
    r.job("load", Priority.CONTROL)
    r.drain()
    assert [e for e in r.events if isinstance(e, str)] == ["load", "click 1", "click 2", "idle"]


def test_a_click_is_answered_between_two_steps_of_a_propagation():
    r = Recorder()
    r.job("track", Priority.PROPAGATE, steps=3)
    assert r.queue.run_one() and r.queue.run_one()
    r.job("click", Priority.CLICK)
    r.drain()
    assert r.events.index(("track", 0)) < r.events.index("click") < r.events.index(("track", 1))


def test_cancel_closes_the_iterator_before_its_next_step_and_tells_once():
    r = Recorder()
    job = r.job("track", Priority.PROPAGATE, steps=5)
    r.queue.run_one()
    r.queue.run_one()
    r.queue.cancel(job)
    r.drain()
    assert r.events == [("track", 0), ("track", "closed"), ("track", "cancelled")]


def test_a_paused_job_waits_and_others_go_on():
    r = Recorder()
    job = r.job("track", Priority.PROPAGATE, steps=1)
    r.queue.set_paused(job, True)
    r.job("idle", Priority.IDLE)
    r.drain()
    assert "idle" in r.events and ("track", 0) not in r.events
    r.queue.set_paused(job, False)
    r.drain()
    assert r.events[-1] == ("track", "end")


def test_a_newer_job_of_a_key_replaces_the_one_that_waits_but_not_the_one_that_runs():
    r = Recorder()
    r.job("old preview", Priority.PREVIEW, key="preview")
    r.job("new preview", Priority.PREVIEW, key="preview")
    running = r.job("idle a", Priority.IDLE, steps=2, key="idle")
    r.drain_some = [r.queue.run_one() for _ in range(2)]
    r.job("idle b", Priority.IDLE, steps=1, key="idle")
    r.drain()
    assert "old preview" not in r.events and "new preview" in r.events
    assert ("idle a", 1) in r.events and ("idle b", 0) in r.events
    assert running.steps is not None


def test_an_error_ends_its_job_only():
    r = Recorder()
    r.job("bad", Priority.CLICK, fails=True)
    r.job("good", Priority.CLICK)
    r.drain()
    assert r.events[0] == ("error", "bad")
    assert "good" in r.events and ("bad", "end") not in r.events


def test_closing_cancels_everything_and_refuses_more():
    r = Recorder()
    r.job("track", Priority.PROPAGATE, steps=3)
    r.queue.run_one()
    r.queue.close()
    late = r.job("late", Priority.CLICK)
    r.drain()
    assert ("track", "cancelled") in r.events
    assert late.cancelled and "late" not in r.events
