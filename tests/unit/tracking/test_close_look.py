"""A closer look at boxed objects, against the same model on cropped pictures and closed-form crops."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import HEIGHT, WIDTH, Clip, ListSource, square_corner

from qcore import masks
from qcore.tracking.aids import Aids
from qcore.tracking.close_look import MARGIN, Crop, _cropped, crop_around
from qcore.tracking.encoder import FrameEncoder
from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Prompt

SQUARE = 3


SCALE = 6


@pytest.fixture(scope="module")
def large(clip: Clip) -> ListSource:
    """The drawn clip at a size of which the model's input sees a part only."""
    size = (WIDTH * SCALE, HEIGHT * SCALE)
    return ListSource([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in clip.frames])


def boxed(frame_index: int, *points: tuple[float, float], labels: tuple[int, ...] = ()) -> Prompt:
    """The square's box in the large clip, with clicks."""
    x, y = square_corner(frame_index)
    box = (x * SCALE, y * SCALE, (x + 26) * SCALE, (y + 26) * SCALE)
    return Prompt(frame_index, SQUARE, points, labels or (1,) * len(points), box)


@given(st.data())
def test_a_crop_holds_its_box_and_stays_in_the_frame(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(2, 2000)), data.draw(st.integers(2, 2000))
    xs = sorted(data.draw(st.lists(st.floats(0, width), min_size=2, max_size=2)))
    ys = sorted(data.draw(st.lists(st.floats(0, height), min_size=2, max_size=2)))
    least = data.draw(st.integers(1, 1024))
    crop = crop_around((xs[0], ys[0], xs[1], ys[1]), (height, width), least)
    assert 0 <= crop.x <= crop.x + crop.width <= width
    assert 0 <= crop.y <= crop.y + crop.height <= height
    assert crop.width >= 1 and crop.height >= 1
    # the frame's shape, to rounding
    assert abs(crop.width * height / width - crop.height) <= 1 + height / width
    # a pixel of rounding at each side
    assert crop.x <= xs[0] + 1 and crop.x + crop.width >= xs[1] - 1
    assert crop.y <= ys[0] + 1 and crop.y + crop.height >= ys[1] - 1
    longest = max((xs[1] - xs[0]) / width, (ys[1] - ys[0]) / height)
    assert min(least, width) - 1 <= crop.width <= min(width, max(least, MARGIN * longest * width)) + 1


def test_cropped_logits_follow_the_whole_ones() -> None:
    """A linear ramp stays the same ramp, read at the crop's pixel centres."""
    side, size_hw, crop = 32, (96, 144), Crop(36, 24, 72, 48)
    ys, xs = np.mgrid[:side, :side].astype(np.float32)
    cut = _cropped(torch.from_numpy(0.3 * xs - 0.7 * ys)[None, None], crop, size_hw)[0, 0].numpy()
    # the crop is the middle half of each side
    wanted_x = 8 + (np.arange(side) + 0.5) / 2 - 0.5
    wanted = 0.3 * wanted_x[None] - 0.7 * wanted_x[:, None]
    # OpenCV places samples on a grid of 1/32 pixel
    assert np.abs(cut - wanted).max() < 0.04


def test_the_mask_is_the_mean_of_the_crop_and_its_mirror_image(
    embedded_model: SAM2Base, large: ListSource
) -> None:
    prompt = boxed(2)
    assert prompt.box_xyxy is not None
    got = VideoSession(embedded_model, large, aids=Aids(close_look=True)).set_prompt(prompt)
    crop = crop_around(prompt.box_xyxy, large.size, 256)
    picture = np.ascontiguousarray(crop.of(large.frames[2]))
    x0, y0, x1, y1 = prompt.box_xyxy
    box = (x0 - crop.x, y0 - crop.y, x1 - crop.x, y1 - crop.y)
    mirrored_box = (crop.width - box[2], box[1], crop.width - box[0], box[3])
    logits = []
    for image, drawn in ((picture, box), (np.ascontiguousarray(picture[:, ::-1]), mirrored_box)):
        session = VideoSession(embedded_model, ListSource([image]))
        session.set_prompt(Prompt(0, 1, box_xyxy=drawn))
        kept = session._objects[1].keyframes[0].logits_b1hw
        assert kept is not None
        logits.append(kept[0, 0].numpy())
    mean = (logits[0] + logits[1][:, ::-1]) / 2
    wanted = np.zeros(large.size, bool)
    crop.of(wanted)[...] = cv2.resize(mean, (crop.width, crop.height)) > 0
    assert wanted.any() and not wanted.all()
    assert masks.iou(got.rle, masks.encode(wanted)) > 0.999


def test_a_small_object_gets_a_better_mask(embedded_model: SAM2Base, large: ListSource) -> None:
    frame, truth = large.frames[7].copy(), np.zeros(large.size, np.uint8)
    for image, colour in ((frame, (210, 40, 40)), (truth, 1)):
        cv2.ellipse(image, (150, 430), (26, 11), 30, 0, 360, colour, -1)
    prompt = Prompt(0, 1, box_xyxy=(126, 413, 175, 448))
    close, plain = (
        masks.iou(
            VideoSession(embedded_model, ListSource([frame]), aids=Aids(close_look=look))
            .set_prompt(prompt)
            .rle,
            masks.encode(truth > 0),
        )
        for look in (True, False)
    )
    assert close > plain + 0.05
    assert close > 0.9


def test_clicks_go_on_from_the_box_and_are_taken_back(embedded_model: SAM2Base, large: ListSource) -> None:
    session = VideoSession(embedded_model, large, aids=Aids(close_look=True))
    x, y = square_corner(1)
    inside, outside = ((x + 13.0) * SCALE, (y + 13.0) * SCALE), (1.0, 550.0)
    corner = ((x + 24.0) * SCALE, (y + 24.0) * SCALE)
    first = session.set_prompt(boxed(1))
    second = session.set_prompt(boxed(1, corner, labels=(0,)))
    assert second.rle != first.rle
    third = session.set_prompt(boxed(1, corner, inside, labels=(0, 1)))
    assert third == session.preview(boxed(1, corner, inside, labels=(0, 1)))
    assert session.set_prompt(boxed(1, corner, labels=(0,))) == second
    assert session.set_prompt(boxed(1)) == first
    # a click that the crop does not show says nothing about it
    assert masks.iou(session.preview(boxed(1, outside, labels=(0,))).rle, first.rle) > 0.9


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each closer look encodes."""
    counts: list[int] = []
    real = FrameEncoder.encode_pictures

    def counted(self: FrameEncoder, pictures: Sequence[np.ndarray]) -> list[EncodedFrame]:
        counts.append(len(pictures))
        return real(self, pictures)

    monkeypatch.setattr(FrameEncoder, "encode_pictures", counted)
    return counts


def test_further_clicks_on_a_boxed_object_need_no_encoder(
    embedded_model: SAM2Base, large: ListSource, looks: list[int]
) -> None:
    session = VideoSession(embedded_model, large, aids=Aids(close_look=True))
    x, y = square_corner(1)
    click = ((x + 24.0) * SCALE, (y + 24.0) * SCALE)
    session.set_prompt(boxed(1))
    session.preview(boxed(1, click, labels=(0,)))
    corrected = session.set_prompt(boxed(1, click, labels=(0,)))
    session.set_prompt(boxed(1))
    assert looks == [2]
    # another frame and another box are looked at for themselves
    elsewhere = session.set_prompt(boxed(4))
    assert looks == [2, 2]
    assert VideoSession(embedded_model, large, aids=Aids(close_look=True)).set_prompt(boxed(4)) == elsewhere
    fresh = VideoSession(embedded_model, large, aids=Aids(close_look=True))
    fresh.set_prompt(boxed(1))
    assert fresh.set_prompt(boxed(1, click, labels=(0,))) == corrected


def clicked(frame_index: int, *labels: int) -> Prompt:
    """Clicks into the square's middle and near one of its corners."""
    x, y = square_corner(frame_index)
    points = (((x + 13.0) * SCALE, (y + 13.0) * SCALE), ((x + 24.0) * SCALE, (y + 24.0) * SCALE))
    return Prompt(frame_index, SQUARE, points[: len(labels)], labels)


def test_a_first_click_is_looked_at_as_if_boxed(embedded_model: SAM2Base, large: ListSource) -> None:
    plain = VideoSession(embedded_model, large).set_prompt(clicked(2, 1))
    x, y, width, height = plain.rle.box_xywh
    box = dataclasses.replace(clicked(2, 1), box_xyxy=(x, y, x + width, y + height))
    close = VideoSession(embedded_model, large, aids=Aids(close_look=True))
    assert close.set_prompt(clicked(2, 1)).rle != plain.rle
    assert close.set_prompt(clicked(2, 1)) == close.set_prompt(box)


def test_of_clicks_only_the_first_needs_the_encoder(
    embedded_model: SAM2Base, large: ListSource, looks: list[int]
) -> None:
    session = VideoSession(embedded_model, large, aids=Aids(close_look=True))
    session.preview(clicked(1, 1))
    assert looks == []
    session.set_prompt(clicked(1, 1))
    assert looks == [2]
    session.preview(clicked(1, 1, 0))
    session.set_prompt(clicked(1, 1, 0))
    assert looks == [2]


def test_hovering_does_not_look_closely(embedded_model: SAM2Base, large: ListSource) -> None:
    plain, close = (VideoSession(embedded_model, large, aids=Aids(close_look=look)) for look in (False, True))
    assert close.preview(clicked(2, 1)) == plain.preview(clicked(2, 1))


def test_clicks_go_on_from_a_click_and_are_taken_back(embedded_model: SAM2Base, large: ListSource) -> None:
    session = VideoSession(embedded_model, large, aids=Aids(close_look=True))
    first = session.set_prompt(clicked(1, 1))
    assert session.set_prompt(clicked(1, 1)) == first
    second = session.set_prompt(clicked(1, 1, 0))
    assert second.rle != first.rle
    assert session.preview(clicked(1, 1, 0)) == second
    assert session.set_prompt(clicked(1, 1)) == first


def test_a_click_on_a_tracked_frame_corrects_its_mask(embedded_model: SAM2Base, large: ListSource) -> None:
    """The mask that is there already says more than a box around the click's own."""
    sessions = [VideoSession(embedded_model, large, aids=Aids(close_look=look)) for look in (False, True)]
    for session in sessions:
        session.set_prompt(Prompt(0, SQUARE, mask=sessions[0].preview(boxed(0)).rle))
        list(session.propagate())
    plain, close = (session.set_prompt(clicked(3, 1)) for session in sessions)
    assert close == plain


def test_a_click_that_finds_nothing_is_an_ordinary_one(
    embedded_model: SAM2Base, large: ListSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcore.tracking.decoding.Decoded.is_present", property(lambda self: False))
    plain, close = (VideoSession(embedded_model, large, aids=Aids(close_look=look)) for look in (False, True))
    assert close.set_prompt(clicked(2, 1)) == plain.set_prompt(clicked(2, 1))


def test_tracking_goes_on_from_the_closer_mask(embedded_model: SAM2Base, large: ListSource) -> None:
    session = VideoSession(embedded_model, large, aids=Aids(close_look=True))
    first = session.set_prompt(boxed(0))
    tracked = list(session.propagate())
    assert tracked[0] == first
    given_again = VideoSession(embedded_model, large)
    given_again.add_mask(0, SQUARE, first.rle)
    expected = list(given_again.propagate())
    assert [result.rle for result in tracked] == [result.rle for result in expected]


@pytest.mark.parametrize("labels", [(1, 1), (1, 0), (0,)])
def test_other_clicks_are_left_to_the_whole_frame(
    embedded_model: SAM2Base, large: ListSource, labels: tuple[int, ...]
) -> None:
    prompt = clicked(3, *labels)
    close, plain = (VideoSession(embedded_model, large, aids=Aids(close_look=look)) for look in (True, False))
    assert close.set_prompt(prompt) == plain.set_prompt(prompt)


def test_an_object_that_no_crop_shows_is_left_to_the_whole_frame(
    embedded_model: SAM2Base, large: ListSource
) -> None:
    model = copy.deepcopy(embedded_model)
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-1000.0)
    close, plain = (VideoSession(model, large, aids=Aids(close_look=look)) for look in (True, False))
    result = close.set_prompt(boxed(0))
    assert result.rle.is_empty
    assert result == plain.set_prompt(boxed(0))


@pytest.mark.parametrize("corner", [(0.0, 0.0), (WIDTH * SCALE, HEIGHT * SCALE)])
def test_a_box_of_no_size_at_the_edge(
    embedded_model: SAM2Base, large: ListSource, corner: tuple[float, float]
) -> None:
    session = VideoSession(embedded_model, large, aids=Aids(close_look=True))
    result = session.set_prompt(Prompt(0, 1, box_xyxy=(*corner, *corner)))
    assert result.rle.size == large.size
