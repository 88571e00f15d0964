"""The session follows the project's conditions, whatever happened to it before."""

from __future__ import annotations

import numpy as np
import pytest
from fake_tracking import FakeBackend, FakeFrames, box, centre, true_mask

from app.engine.plan import ObjectFrames, plan_tracking
from app.engine.records import EngineError
from app.engine.workbench import Condition, Workbench
from qcore.masks import decode, encode
from qcore.tracking.types import Direction, Prompt


@pytest.fixture
def backend():
    return FakeBackend()


@pytest.fixture
def bench(backend):
    bench = Workbench(backend)
    bench.set_frames(FakeFrames())
    bench.load_model("m", "cpu")
    return bench


def set_prompts(backend):
    return [p for name, p in backend.session.log if name == "set_prompt"]


def forward(keys):
    return plan_tracking([ObjectFrames(1, sorted(keys))], Direction.FORWARD, min(keys), 0, 23)


def test_without_model_or_video_it_says_what_is_missing(backend):
    bench = Workbench(backend)
    with pytest.raises(EngineError, match="no model"):
        bench.click(Prompt(0, 1, box_xyxy=box(0, 0)), {}, None)
    bench.load_model("m", "cpu")
    with pytest.raises(EngineError, match="no video"):
        bench.click(Prompt(0, 1, box_xyxy=box(0, 0)), {}, None)


def test_a_click_whose_mask_is_unchanged_is_not_told_again_for_tracking(bench, backend):
    prompt = Prompt(0, 1, box_xyxy=box(0, 0))
    result = bench.click(prompt, {}, None)
    conditions = {(1, 0): Condition(0, 1, prompt, result.rle)}
    masks = [r for r in bench.track(forward([0]), conditions, {}) if r is not None]
    assert set_prompts(backend) == [prompt]
    assert all((decode(r.rle) == true_mask(0, r.frame_index)).all() for r in masks)
    assert [r.frame_index for r in masks] == list(range(24))


def test_after_an_undo_the_session_gets_the_mask_that_the_project_has(bench, backend):
    bench.click(Prompt(0, 1, box_xyxy=box(0, 0)), {}, None)
    other = encode(true_mask(1, 0))
    list(bench.track(forward([0]), {(1, 0): Condition(0, 1, None, other)}, {}))
    assert backend.session.keyframes[1] == {0: other}


def test_a_keyframe_that_is_gone_from_the_project_is_gone_from_the_session(bench, backend):
    bench.click(Prompt(0, 1, box_xyxy=box(0, 0)), {}, None)
    kept = Condition(5, 1, None, encode(true_mask(0, 5)))
    list(bench.track(forward([5]), {(1, 5): kept}, {}))
    assert sorted(backend.session.keyframes[1]) == [5]


def test_other_objects_are_left_alone(bench, backend):
    bench.click(Prompt(0, 2, points_xy=(centre(1, 0),), labels=(1,)), {}, None)
    list(bench.track(forward([0]), {(1, 0): Condition(0, 1, None, encode(true_mask(0, 0)))}, {}))
    assert sorted(backend.session.keyframes) == [1, 2]


def test_a_new_model_starts_from_the_conditions_alone(bench, backend):
    first = bench.click(Prompt(0, 1, box_xyxy=box(0, 0)), {}, None)
    bench.load_model("other", "cpu")
    assert len(backend.sessions) == 2
    list(bench.track(forward([0]), {(1, 0): Condition(0, 1, None, first.rle)}, {}))
    assert [p.mask for p in set_prompts(backend)] == [first.rle]


def test_an_anchor_conditions_one_run_and_is_forgotten_then(bench, backend):
    key = Condition(0, 1, None, encode(true_mask(0, 0)))
    anchor = encode(true_mask(0, 8))
    plan = plan_tracking([ObjectFrames(1, [0], list(range(9)))], Direction.FORWARD, 8, 0, 23)
    list(bench.track(plan, {(1, 0): key}, {(1, 8): anchor}))
    assert backend.session.keyframes[1][8] == anchor
    list(bench.track(forward([0]), {(1, 0): key}, {}))
    assert sorted(backend.session.keyframes[1]) == [0]


def test_a_click_on_a_painted_frame_refines_what_was_painted(bench, backend):
    prompt = Prompt(0, 1, box_xyxy=box(0, 0))
    bench.click(prompt, {}, None)
    painted = encode(np.ones((64, 96), np.uint8))
    seen = []
    session = backend.session
    original = session.set_prompt
    session.set_prompt = lambda p: (seen.append(session.recall(0, 1)), original(p))[1]
    bench.click(Prompt(0, 1, (centre(0, 0),), (1,), box(0, 0)), {}, painted, True)
    assert ("clear", (1, 0)) in session.log
    assert seen == [painted]
    assert session.recall(0, 1) is None


def test_frames_are_encoded_once_and_closed_at_the_end(bench, backend):
    assert bench.encode(3)
    assert not bench.encode(3)
    assert bench.encoded_frames()[3] and bench.encoded_frames().sum() == 1
    frames = backend.session.frames
    bench.set_frames(None)
    assert frames.closed and not bench.can_track
