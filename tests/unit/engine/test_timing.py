"""What frames cost: the estimates must not depend on how a frame's results are spread over time."""

from __future__ import annotations

import pytest

from app.engine.workbench import Timing


def known(encode_s: float) -> Timing:
    timing = Timing()
    for _ in range(2):  # the first encoding also warms up
        timing.note_encode(encode_s)
    return timing


def test_an_encoded_frame_tells_what_an_object_costs() -> None:
    timing = known(0.3)
    timing.note_frame(0.2, 2, was_encoded=True)
    assert timing.track_s == pytest.approx(0.1) and timing.encode_s == pytest.approx(0.3)


def test_of_a_new_frame_what_objects_do_not_take_is_encoding() -> None:
    timing = known(0.3)
    timing.note_frame(0.2, 2, was_encoded=True)
    for _ in range(60):
        timing.note_frame(0.7, 2, was_encoded=False)
    assert timing.encode_s == pytest.approx(0.5, abs=1e-3) and timing.track_s == pytest.approx(0.1)


def test_without_any_encoded_frame_the_objects_share_what_encoding_leaves() -> None:
    timing = known(0.3)
    timing.note_frame(0.5, 2, was_encoded=False)
    assert timing.track_s == pytest.approx(0.1)
    timing = known(0.3)
    timing.note_frame(0.25, 1, was_encoded=False)  # encoded beside: nothing can be said
    assert timing.track_s is None
