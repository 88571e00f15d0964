"""Sessions whose model's steps are recorded, against the same session on plain calls."""

from __future__ import annotations

import dataclasses

import pytest
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip, square_prompt

from qcore.models import load_model
from qcore.runtime import lower
from qcore.runtime.recorded_calls import Recorded, call_plainly
from qcore.tracking.aids import Aids
from qcore.tracking.session import VideoSession


def lowered(name: str) -> SAM2Base:
    model = load_model(name)
    lower(model, choice=True)  # the same kernels every time, whatever is measured
    return model


def kinds_of(model: SAM2Base) -> list[object]:
    owners = (model, model.memory_attention)
    recorded = [value for owner in owners for value in vars(owner).values() if isinstance(value, Recorded)]
    return [kind for function in recorded for kind in function._kinds.values()]


@pytest.mark.parametrize("name", ["embedded", "embedded-fp16"])
def test_masks_are_those_of_plain_calls(name: str, clip: Clip) -> None:
    recorded, plain = lowered(name), lowered(name)
    call_plainly(plain)
    aids = Aids.for_model(plain)
    sessions = [VideoSession(model, clip.source(), aids=aids) for model in (recorded, plain)]
    for session in sessions:
        session.set_prompt(square_prompt(0, 1))
        session.set_prompt(dataclasses.replace(square_prompt(0, 2), box_xyxy=(20.0, 28.0, 62.0, 70.0)))
    for _ in range(3):  # more of it is recorded every time
        results = [list(session.propagate()) for session in sessions]
        assert results[0] == results[1]
        assert len(results[0]) == 2 * FRAME_COUNT
    trusted = [kind for kind in kinds_of(recorded) if kind.is_trusted]
    assert len(trusted) >= 4
    assert not any(kind.recording is not None and kind.is_refused for kind in kinds_of(recorded))
    assert not kinds_of(plain)


def test_who_waits_for_a_click_does_not_wait_for_a_recording(clip: Clip) -> None:
    model = lowered("embedded")
    session = VideoSession(model, clip.source(), aids=Aids.for_model(model))
    for t in range(4):
        session.set_prompt(square_prompt(t, 1))
        session.preview(square_prompt(t, 1))
    kinds = kinds_of(model)
    assert kinds
    assert not any(kind.calls or kind.recording for kind in kinds)
