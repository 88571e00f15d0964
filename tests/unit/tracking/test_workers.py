"""Objects computed side by side and frames encoded ahead give what one thread gives."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, HEIGHT, WIDTH, Clip

from qcore.runtime import Precision, lower
from qcore.tracking import encoder, walk
from qcore.tracking.aids import Aids
from qcore.tracking.decoding import Decoded
from qcore.tracking.encoder import LOOK_AHEAD_FRAMES, LookAhead
from qcore.tracking.memory_attention import attend_itself
from qcore.tracking.mutual_kv import MutualKvSettings
from qcore.tracking.session import VideoSession
from qcore.tracking.tracker import Step
from qcore.tracking.types import Direction, MaskResult
from qcore.tracking.workers import Later, Workers, team_for


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


class Watched:
    """The clip's frames; remembers who read them, and may have one that cannot be read."""

    def __init__(self, clip: Clip, broken: int | None = None) -> None:
        self._frames, self._broken = clip.frames, broken
        self.size = (HEIGHT, WIDTH)
        self.readers: dict[int, str] = {}
        self.twins: list[Watched] = []
        self.is_closed = False
        self.cache_bytes: int | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        assert not self.is_closed
        if index == self._broken:
            raise OSError("frame cannot be read")
        self.readers[index] = threading.current_thread().name
        return self._frames[index]


class Reopenable(Watched):
    """A source that hands out second readers, as the real ones do."""

    def __init__(self, clip: Clip) -> None:
        super().__init__(clip)
        self._clip = clip

    def reopen(self, cache_bytes: int | None = None) -> Reopenable:
        self.twins.append(Reopenable(self._clip))
        self.twins[-1].cache_bytes = cache_bytes
        return self.twins[-1]

    def close(self) -> None:
        self.is_closed = True


def session_of(model: SAM2Base, source: Watched, count: int, **settings: object) -> VideoSession:
    session = VideoSession(model, source, **settings)  # type: ignore[arg-type]
    for object_id in range(1, count + 1):
        session.add_box(2, object_id, (10 + 12 * object_id, 20, 50 + 12 * object_id, 60))
    return session


def tracked(session: VideoSession, threads: int, direction: Direction) -> list[MaskResult]:
    torch.set_num_threads(threads)
    try:
        return list(session.propagate(0, FRAME_COUNT - 1, direction))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("direction", [Direction.FORWARD, Direction.BOTH])
def test_threads_change_nothing(micro_model: SAM2Base, clip: Clip, count: int, direction: Direction) -> None:
    settings = MutualKvSettings(target_groups=3.0)
    sessions = [session_of(micro_model, Watched(clip), count, mutual_kv=settings) for _ in range(2)]
    one, two = (tracked(s, threads, direction) for s, threads in zip(sessions, (1, 2), strict=True))
    assert two == one
    assert sessions[0].statistics.groups == sessions[1].statistics.groups
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "aids", [Aids(rivalry=True), Aids(appearance=True), Aids(edges=True), Aids(True, True, True, True, True)]
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing_with_aids(micro_model: SAM2Base, clip: Clip, count: int, aids: Aids) -> None:
    one, several = (
        tracked(session_of(micro_model, Watched(clip), count, aids=aids), threads, Direction.BOTH)
        for threads in (1, 3)
    )
    assert [replace(result, score=0) for result in one] == [replace(result, score=0) for result in several]
    # a vector times a small matrix, which MKL adds up in another order with three threads
    assert [result.score for result in one] == pytest.approx([result.score for result in several], abs=1e-6)


def test_frames_are_encoded_ahead_and_only_once(micro_model: SAM2Base, clip: Clip) -> None:
    source = Reopenable(clip)
    session = session_of(micro_model, source, 1)
    runs = session._encoder.encoder_runs
    torch.set_num_threads(2)
    steps = session.propagate(2)
    for _ in range(3):  # frames 2, 3 and 4
        next(steps)
    (twin,) = source.twins
    steps.close()
    assert twin.is_closed and not source.is_closed
    assert set(twin.readers.values()) <= {"tracking_0", "tracking_1"}
    assert 4 in twin.readers
    assert max(twin.readers) <= 4 + LOOK_AHEAD_FRAMES
    assert set(source.readers) == {2}
    assert session._encoder.encoder_runs - runs == len(twin.readers)


@pytest.mark.parametrize(
    ("direction", "wanted"), [(Direction.FORWARD, 0), (Direction.BACKWARD, None), (Direction.BOTH, None)]
)
def test_pictures_are_kept_only_for_a_way_back(
    micro_model: SAM2Base, clip: Clip, direction: Direction, wanted: int | None
) -> None:
    source = Reopenable(clip)
    session = session_of(micro_model, source, 1)
    torch.set_num_threads(2)
    tracked(session, 2, direction)
    assert [twin.cache_bytes for twin in source.twins] == [wanted]


def test_a_stopped_pass_leaves_no_thread_and_a_usable_session(micro_model: SAM2Base, clip: Clip) -> None:
    session = session_of(micro_model, Watched(clip), 2)
    torch.set_num_threads(2)
    steps = session.propagate()
    first = next(steps)
    steps.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tracking")]
    assert tracked(session, 2, Direction.FORWARD)[0] == first


def test_a_frame_that_cannot_be_read_fails_when_it_is_reached(micro_model: SAM2Base, clip: Clip) -> None:
    session = session_of(micro_model, Watched(clip, broken=5), 1)
    torch.set_num_threads(2)
    seen = []
    with pytest.raises(OSError, match="cannot be read"):
        for result in session.propagate():
            seen.append(result.frame_index)
    assert seen == [2, 3, 4]


def test_an_object_that_cannot_be_computed_fails_the_pass(
    micro_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(micro_model, Watched(clip), 2)
    decode = session._tracker.decode

    def broken(step: Step) -> Decoded:
        if step.frame_index == 5:
            raise MemoryError("no more of it")
        return decode(step)

    monkeypatch.setattr(session._tracker, "decode", broken)
    torch.set_num_threads(2)
    seen = []
    with pytest.raises(MemoryError, match="no more of it"):
        for result in session.propagate():
            seen.append(result.frame_index)
    assert set(seen) == {2, 3, 4}
    assert not [t for t in threading.enumerate() if t.name.startswith("tracking")]


def test_one_object_on_encoded_frames_gets_all_threads(
    micro_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "TEAM_FRAMES", 3)
    session = session_of(micro_model, Watched(clip), 1)
    decode, names = session._tracker.decode, []

    def watched(step: Step) -> Decoded:
        names.append(threading.current_thread().name)
        return decode(step)

    monkeypatch.setattr(session._tracker, "decode", watched)
    first = tracked(session, 2, Direction.FORWARD)
    # the last frames are encoded before they are tracked: too few for other shares of threads
    assert len(names) > 3
    assert all(name.startswith("tracking") for name in names)
    names.clear()
    assert tracked(session, 2, Direction.FORWARD) == first
    assert set(names) == {"MainThread"}
    names.clear()
    monkeypatch.setattr(walk, "TEAM_FRAMES", FRAME_COUNT)
    assert tracked(session, 2, Direction.FORWARD) == first
    assert all(name.startswith("tracking") for name in names)


class AttendedBy(list[str]):
    """Names of the threads that computed a frame's self-attention, which all its objects share."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()

        def watched(*arguments: Any) -> torch.Tensor | None:
            self.append(threading.current_thread().name)
            return attend_itself(*arguments)

        monkeypatch.setattr(encoder, "attend_itself", watched)


@pytest.fixture
def fast_model(micro_model: SAM2Base) -> SAM2Base:
    """The micro model on kernels whose memory attention can begin without memories."""
    model = copy.deepcopy(micro_model)
    lower(model, Precision.FP32)
    return model


@pytest.mark.parametrize("threads", [1, 2])
def test_objects_share_a_frames_self_attention(
    fast_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    with monkeypatch.context() as patches:
        patches.setattr(encoder, "attend_itself", lambda *_: None)
        alone = tracked(session_of(fast_model, Watched(clip), 3), 1, Direction.FORWARD)
    attended = AttendedBy(monkeypatch)
    assert tracked(session_of(fast_model, Watched(clip), 3), threads, Direction.FORWARD) == alone
    assert len(attended) == FRAME_COUNT - 3  # once a frame after the prompted one


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)


class Held:
    """Workers that work when they are told to, in the test's own thread."""

    def __init__(self) -> None:
        self._tasks: list[Callable[[], None]] = []

    def submit(self, call: Callable[..., object], *arguments: object) -> Future[object]:
        future: Future[object] = Future()
        self._tasks.append(lambda: future.set_result(call(*arguments)))
        return future

    def work(self) -> None:
        while self._tasks:
            self._tasks.pop(0)()


def test_the_encoder_leaves_self_attention_to_objects_that_wait_for_it(
    fast_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, workers = Watched(clip), Held()
    session = session_of(fast_model, source, 1)
    attended = AttendedBy(monkeypatch)
    ahead = LookAhead(session._encoder, source, workers, session._tracker.computing)  # type: ignore[arg-type]
    counts = []
    for due, coming in ((3, [3, 4]), (4, [5]), (6, []), (6, [7])):
        ahead.demand(due)
        ahead.begin(coming)
        workers.work()
        counts.append(len(attended))
    assert counts == [0, 1, 1, 2]  # 3 and 6 were due before they were encoded


def test_the_encoder_takes_self_attention_over_where_it_is_ahead(
    fast_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(fast_model, Watched(clip), 1)
    attended = AttendedBy(monkeypatch)
    torch.set_num_threads(2)
    for _ in session.propagate(2):
        until(lambda: not session._encoder._running)
    assert len(attended) == FRAME_COUNT - 3
    assert all(name.startswith("tracking") for name in attended)


def test_a_small_cache_is_not_filled_ahead(micro_model: SAM2Base, clip: Clip) -> None:
    source = Watched(clip)
    session = session_of(micro_model, source, 1, feature_cache_bytes=1)
    assert len(tracked(session, 2, Direction.FORWARD)) == FRAME_COUNT - 2
    assert "MainThread" in source.readers.values()
    assert not any(name.startswith("tracking") for name in source.readers.values())


def test_what_the_caller_does_between_two_objects_counts(micro_model: SAM2Base, clip: Clip) -> None:
    session = session_of(micro_model, Watched(clip), 3)
    torch.set_num_threads(2)
    steps = session.propagate(3)
    first = next(steps)
    session.remove_object(2)
    corrected = session.add_box(first.frame_index, 3, (5, 5, 30, 30))
    assert (first.object_id, next(steps)) == (1, corrected)
    assert next(steps).frame_index == first.frame_index + 1


def test_what_is_shared_does_not_wait_for_busy_workers() -> None:
    release = threading.Event()
    with Workers(2, 1) as workers:
        busy = [workers.submit(release.wait) for _ in range(2)]
        who = workers.share([threading.current_thread] * 3)
        release.set()
        assert who == [threading.current_thread()] * 3
        assert all(one.result() for one in busy)


def test_free_workers_take_their_share_and_results_keep_their_order() -> None:
    def call(number: int) -> tuple[int, str]:
        both.wait(timeout=30)
        return number, threading.current_thread().name

    both = threading.Barrier(2)
    with Workers(2, 1) as workers:
        # each call waits for another thread to be in one too
        results = workers.share([lambda number=number: call(number) for number in range(2)])
    assert [number for number, _ in results] == [0, 1]
    assert len({name for _, name in results}) == 2


def test_one_thread_or_an_accelerator_needs_no_workers() -> None:
    assert Workers.for_tasks(4, torch.device("cpu")) is None
    torch.set_num_threads(4)
    assert Workers.for_tasks(4, torch.device("cuda")) is None
    for tasks, expected in ((2, (2, 2)), (3, (3, 1)), (9, (4, 1))):
        workers = Workers.for_tasks(tasks, torch.device("cpu"))
        assert workers is not None
        with workers:
            assert (workers.count, workers.submit(torch.get_num_threads).result()) == expected
            assert torch.get_num_threads() == expected[1]
            with workers.team():
                assert torch.get_num_threads() == 4
            assert torch.get_num_threads() == expected[1]
        assert torch.get_num_threads() == 4


def test_small_maps_get_one_thread_large_ones_the_team_and_afterwards_all_is_as_before() -> None:
    cpu, before = torch.device("cpu"), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with team_for(24 * 24, cpu):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with team_for(64 * 64, cpu):
            assert torch.get_num_threads() == 3
        with team_for(24 * 24, torch.device("meta")):
            assert torch.get_num_threads() == 3
        with pytest.raises(ValueError), team_for(24 * 24, cpu):
            raise ValueError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_value_for_later_is_computed_once_by_whoever_comes_first() -> None:
    begun, may_go = threading.Event(), threading.Event()
    names = []

    def compute() -> int:
        names.append(threading.current_thread().name)
        begun.set()
        assert may_go.wait(10)
        return 7

    torch.set_num_threads(2)
    with Workers(1, 1) as workers:
        value = Later(compute)
        done = workers.submit(value.get)
        assert begun.wait(10)
        threading.Timer(0.05, may_go.set).start()
        assert value.get() == 7  # waits for the worker that is at it
        assert done.result() == 7
        # and with no free worker the one who needs it computes it
        blocked = threading.Event()
        blocking = workers.submit(blocked.wait, 10)
        other = Later(lambda: threading.current_thread().name)
        late = workers.submit(other.get)
        assert other.get() == "MainThread"
        blocked.set()
        assert blocking.result()
        assert late.result() == "MainThread"
    assert len(names) == 1
    assert Later.known(3).get() == 3


def test_a_value_that_cannot_be_computed_fails_for_everybody_who_asks() -> None:
    def compute() -> int:
        raise MemoryError("no more of it")

    value = Later(compute)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no more of it"):
            value.get()
