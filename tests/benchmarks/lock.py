"""What Python's lock costs a tracked step: alone and beside an encoding thread, on plain calls and recorded.

    python tests/benchmarks/lock.py CLIP --box X0 Y0 X1 Y1 [--model embedded]

Milliseconds of one object's step on one thread, median of 40, each beside what the other thread does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from qcore.models import load_model
from qcore.models.loading import autocast_of
from qcore.runtime import lower
from qcore.runtime.recorded_calls import call_plainly, record_calls, trials
from qcore.tracking.aids import Aids
from qcore.tracking.decoding import Decoded
from qcore.tracking.session import VideoSession
from qcore.tracking.tracker import ObjectTracker, Step
from qcore.tracking.types import Prompt
from qcore.video import open_source

FRAMES, CALLS = 16, 40


@contextlib.contextmanager
def beside(call: Callable[[], object]) -> Iterator[None]:
    """Another thread makes the call over and over."""
    done = threading.Event()

    def work() -> None:
        torch.set_num_threads(1)
        while not done.is_set():
            call()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip")
    parser.add_argument("--box", nargs=4, type=float, required=True)
    parser.add_argument("--model", default="embedded")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(args.model)
    lower(model)
    source = open_source(args.clip)
    session = VideoSession(model, source, aids=Aids.for_model(model))
    session.set_prompt(Prompt(0, 1, box_xyxy=tuple(args.box)))
    steps: list[tuple[ObjectTracker, Step]] = []
    decode = ObjectTracker.decode

    def remember(tracker: ObjectTracker, step: Step) -> Decoded:
        steps.append((tracker, step))
        return decode(tracker, step)

    with mock.patch.object(ObjectTracker, "decode", remember):
        for _ in session.propagate(stop=FRAMES):
            pass
    tracker, step = steps[-1]
    picture = source[FRAMES]

    def track() -> None:
        with torch.no_grad(), autocast_of(model), trials():
            tracker.finish(step, tracker.decode(step))

    def encode() -> None:
        with torch.no_grad(), autocast_of(model), trials():
            tracker.encoder.encode_pictures([picture])

    figures = {}
    for name, prepare in (("plain", call_plainly), ("recorded", record_calls)):
        prepare(model)
        for _ in range(5):
            track()
            encode()
        alone = median_ms(track)
        with beside(encode):
            figures[name] = {"alone_ms": alone, "beside_an_encoder_ms": median_ms(track)}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
