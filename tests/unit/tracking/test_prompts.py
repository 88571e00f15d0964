"""Clicks, boxes, masks and previews on single frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, HEIGHT, WIDTH, Clip, disc_center

from qcore import masks
from qcore.masks import Rle
from qcore.models import load_model
from qcore.tracking.errors import TrackingError
from qcore.tracking.mutual_kv import MutualKvSettings
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Prompt

DISC = 7


def clicks(frame_index: int, count: int) -> Prompt:
    x, y = disc_center(frame_index)
    points = ((x, y), (x + 30.0, y), (x - 30.0, y + 5.0))[:count]
    return Prompt(frame_index, DISC, points, (1, 1, 0)[:count])


def test_a_click_finds_what_it_hits(embedded_model: SAM2Base, clip: Clip) -> None:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    cx, cy = disc_center(2)
    truth = masks.encode((xs - cx) ** 2 + (ys - cy) ** 2 < 18**2)
    result = VideoSession(embedded_model, clip.source()).set_prompt(clicks(2, 1))
    assert masks.iou(result.rle, truth) > 0.85
    assert (result.frame_index, result.object_id, result.rle.size) == (2, DISC, (HEIGHT, WIDTH))
    assert 0.5 < result.score <= 1.0
    assert 0.9 < result.presence <= 1.0


def test_a_preview_equals_the_prompt_and_changes_nothing(embedded_model: SAM2Base, clip: Clip) -> None:
    previewing, plain = (VideoSession(embedded_model, clip.source()) for _ in range(2))
    preview = previewing.preview(clicks(1, 1))
    assert previewing.objects == ()
    assert previewing.state_bytes() == 0
    for session in (previewing, plain):
        assert session.set_prompt(clicks(1, 1)) == preview
    tracked = [list(session.propagate(1, 4)) for session in (previewing, plain)]
    assert tracked[0] == tracked[1]
    for n in (1, 2, 3):  # hovering over a tracked frame and over a prompted one
        previewing.preview(clicks(3, n))
        previewing.preview(clicks(1, n))
    assert previewing.set_prompt(clicks(3, 2)) == plain.set_prompt(clicks(3, 2))
    assert list(previewing.propagate(3, 5)) == list(plain.propagate(3, 5))


def test_clicking_on_an_encoded_frame_runs_no_encoder(embedded_model: SAM2Base, clip: Clip) -> None:
    source = clip.source()
    session = VideoSession(embedded_model, source)
    session.encode(2)
    session.encode(2)
    assert source.reads == [2]
    assert np.flatnonzero(session.encoded_frames()).tolist() == [2]
    for n in (1, 2, 3):
        session.preview(clicks(2, n))
        session.set_prompt(clicks(2, n))
    assert source.reads == [2]


@pytest.mark.parametrize("is_tracked", [False, True])
def test_taking_back_a_click_restores_the_mask(
    embedded_model: SAM2Base, clip: Clip, is_tracked: bool
) -> None:
    session = VideoSession(embedded_model, clip.source())
    if is_tracked:
        session.set_prompt(clicks(0, 1))
        list(session.propagate())
    first = [session.set_prompt(clicks(4, n)) for n in (1, 2, 3)]
    assert len({result.rle for result in first}) == 3
    assert [session.set_prompt(clicks(4, n)) for n in (2, 1, 2, 3)] == [
        first[1],
        first[0],
        first[1],
        first[2],
    ]
    session.clear_prompts(DISC, 4)
    if is_tracked:
        assert session.keyframes(DISC) == (0,)
        assert session.set_prompt(clicks(4, 1)) == first[0]
    else:
        assert session.objects == ()


def test_a_click_refines_the_mask_that_the_project_holds(embedded_model: SAM2Base, clip: Clip) -> None:
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[20:70, 30:90] = 1
    rle = masks.encode(drawn)
    asked: list[tuple[int, int]] = []

    def recall(frame_index: int, object_id: int) -> Rle | None:
        asked.append((frame_index, object_id))
        return rle

    refined = VideoSession(embedded_model, clip.source(), recall=recall).set_prompt(clicks(3, 1))
    fresh = VideoSession(embedded_model, clip.source()).set_prompt(clicks(3, 1))
    assert asked == [(3, DISC)]
    assert masks.iou(refined.rle, rle) > masks.iou(fresh.rle, rle)


def test_a_given_mask_comes_back_bit_for_bit(embedded_model: SAM2Base, clip: Clip) -> None:
    rng = np.random.default_rng(0)
    noise = masks.encode(rng.random((HEIGHT, WIDTH)) < 0.3)
    source = clip.source()
    session = VideoSession(embedded_model, source)
    assert session.add_mask(3, DISC, noise).rle == noise
    assert session.set_prompt(Prompt(4, DISC, mask=noise)).rle == noise
    assert session.preview(Prompt(5, DISC, mask=noise)).rle == noise
    assert source.reads == []
    assert session.keyframes(DISC) == (3, 4)


def test_an_empty_given_mask_says_that_the_object_is_away(embedded_model: SAM2Base, clip: Clip) -> None:
    session = VideoSession(embedded_model, clip.source())
    session.set_prompt(clicks(0, 1))
    gone = session.add_mask(2, DISC, masks.empty((HEIGHT, WIDTH)))
    assert gone.presence == 0.0
    assert len(list(session.propagate())) == FRAME_COUNT


def test_box_and_clicks_add_up(embedded_model: SAM2Base, clip: Clip) -> None:
    x, y = disc_center(1)
    box = (x - 18.0, y - 18.0, x + 18.0, y + 18.0)
    session, whole = (VideoSession(embedded_model, clip.source()) for _ in range(2))
    session.add_box(1, DISC, box)
    session.add_points(1, DISC, [(x, y)], [1])
    session.add_points(1, DISC, [(3.0, 3.0)], [0])
    whole.set_prompt(Prompt(1, DISC, box_xyxy=box))
    whole.set_prompt(Prompt(1, DISC, ((x, y),), (1,), box))
    result = whole.set_prompt(Prompt(1, DISC, ((x, y), (3.0, 3.0)), (1, 0), box))
    assert list(session.propagate(1, 1)) == [result]


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (Prompt(0, DISC), "needs at least one click"),
        (Prompt(FRAME_COUNT, DISC, ((1.0, 1.0),), (1,)), "outside the video, which has 8 frames"),
        (Prompt(-1, DISC, ((1.0, 1.0),), (1,)), "outside the video"),
        (Prompt(0, DISC, ((float("nan"), 1.0),), (1,)), "ordinary numbers"),
        (Prompt(0, DISC, ((1.0, 1.0),), (2,)), "part of the object"),
        (Prompt(0, DISC, box_xyxy=(0.0, 0.0, float("inf"), 4.0)), "ordinary numbers"),
        (Prompt(0, DISC, mask=masks.empty((4, 5))), "5 x 4 pixels, but the video is 144 x 96"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_and_leaves_no_trace(
    embedded_model: SAM2Base, clip: Clip, prompt: Prompt, sentence: str
) -> None:
    session = VideoSession(embedded_model, clip.source())
    for ask in (session.set_prompt, session.preview):
        with pytest.raises(TrackingError, match=sentence):
            ask(prompt)
    assert session.objects == ()


def test_tracking_without_a_prompt_or_outside_the_video_is_refused(
    embedded_model: SAM2Base, clip: Clip
) -> None:
    session = VideoSession(embedded_model, clip.source())
    with pytest.raises(TrackingError, match="Nothing to track"):
        session.propagate()
    session.set_prompt(clicks(0, 1))
    with pytest.raises(TrackingError, match="Object 9 has no prompt"):
        session.propagate(objects=[9])
    with pytest.raises(TrackingError, match="outside the video"):
        session.propagate(0, FRAME_COUNT)


def test_a_half_precision_model_tracks_nearly_as_the_exact_one(embedded_model: SAM2Base, clip: Clip) -> None:
    half = load_model("embedded-fp16", dtype=torch.bfloat16, image_size=256)
    tracks = []
    for model in (embedded_model, half):
        session = VideoSession(model, clip.source(), mutual_kv=MutualKvSettings(epsilon=0.9))
        session.set_prompt(clicks(0, 1))
        session.add_mask(4, DISC, session.set_prompt(clicks(4, 2)).rle)
        tracks.append(list(session.propagate()))
        assert session.statistics.groups < session.statistics.memory_frames
    for exact, rounded in zip(*tracks, strict=True):
        assert masks.iou(exact.rle, rounded.rle) > 0.9
