"""The linear model of an object's looks, against numpy's least squares and on sessions."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip, square_prompt

from qcore import masks
from qcore.tracking import appearance
from qcore.tracking.aids import Aids
from qcore.tracking.appearance import (
    Appearance,
    Evidence,
    colours_of,
    features_of,
    likeness,
    mean_evidence,
    observe,
    score,
)
from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.session import VideoSession
from qcore.tracking.workers import Later

SIDE, CHANNELS = 8, 5


def picture(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (SIDE ** 2, CHANNELS) and logits (1, 1, 4 * SIDE, 4 * SIDE) of an object to be told apart."""
    random = np.random.default_rng(seed)
    logits = np.full((1, 1, 4 * SIDE, 4 * SIDE), -6.0, np.float32)
    top, left = random.integers(0, 2 * SIDE, 2)
    logits[..., top : top + 13, left : left + 10] = 7.0
    is_object = torch.from_numpy(logits)[0, 0, ::4, ::4].flatten() > 0
    features = random.normal(2.0, 1.0, (SIDE**2, CHANNELS)).astype(np.float32)
    features[:, 0] += 3 * is_object.numpy()
    return torch.from_numpy(features), torch.from_numpy(logits)


def targets_and_weights(logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Target and weight of every place, pixel by pixel from their definition."""
    chance = 1 / (1 + np.exp(-logits[0, 0].double().numpy()))
    inside = np.array(
        [chance[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean() for y in range(SIDE) for x in range(SIDE)]
    )
    weight = inside / max(inside.sum(), 1) + (1 - inside) / max((1 - inside).sum(), 1)
    return 2 * inside - 1, weight


def fitted(
    pictures: list[tuple[torch.Tensor, torch.Tensor]], shares: list[float]
) -> tuple[np.ndarray, float]:
    """The ridge regression over all places of all pictures, by numpy's least squares on stacked rows."""
    x = np.concatenate([features.double().numpy() for features, _ in pictures])
    y = np.concatenate([targets_and_weights(logits)[0] for _, logits in pictures])
    w = np.concatenate(
        [share * targets_and_weights(logits)[1] for (_, logits), share in zip(pictures, shares, strict=True)]
    )
    w /= w.sum()
    mean = w @ x
    variance = w @ (x - mean) ** 2
    penalty = np.sqrt(appearance.RIDGE * variance + 1e-3 * variance.mean() + 1e-4 * mean**2)
    rows = np.concatenate(
        [np.sqrt(w)[:, None] * np.c_[x, np.ones(len(x))], np.c_[np.diag(penalty), 0 * penalty]]
    )
    solution = np.linalg.lstsq(rows, np.concatenate([np.sqrt(w) * y, 0 * penalty]), rcond=None)[0]
    return solution[:-1], float(solution[-1])


def expected_score(features: torch.Tensor, solution: tuple[np.ndarray, float]) -> np.ndarray:
    values = features.double().numpy() @ solution[0] + solution[1]
    return np.clip(values, -appearance.LARGEST_SCORE, appearance.LARGEST_SCORE).reshape(1, 1, SIDE, SIDE)


def evidence_of(features: torch.Tensor, logits: torch.Tensor) -> Evidence:
    evidence = observe(features, logits)
    assert evidence is not None
    return evidence


def test_the_score_is_the_ridge_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appearance, "LARGEST_SCORE", 0.4)  # so that some places reach it
    first, other = picture(0), picture(1)
    got = score(other[0], evidence_of(*first))
    want = expected_score(other[0], fitted([first], [1.0]))
    np.testing.assert_allclose(got.numpy(), want, atol=1e-4)
    assert (np.abs(want) == 0.4).any() and (np.abs(want) < 0.4).any()


def test_mixed_evidence_is_that_of_all_places_together() -> None:
    first, second, third = picture(0), picture(1), picture(2)
    mean = mean_evidence((evidence_of(*first), evidence_of(*second)))
    mixed = mean.mixed(evidence_of(*third), 0.25)
    want = expected_score(third[0], fitted([first, second, third], [0.375, 0.375, 0.25]))
    np.testing.assert_allclose(score(third[0], mixed).numpy(), want, atol=1e-4)


def test_it_tells_the_object_from_the_rest() -> None:
    first, other = picture(0), picture(3)
    got = score(other[0], evidence_of(*first)).flatten()
    is_object = torch.from_numpy(targets_and_weights(other[1])[0] > 0)
    assert got[is_object].mean() > got[~is_object].mean() + 0.1


def test_likeness_is_the_mean_score_inside_a_mask() -> None:
    first, other = picture(0), picture(3)
    evidence = evidence_of(*first)
    scores = expected_score(other[0], fitted([first], [1.0])).flatten()
    inside = (targets_and_weights(other[1])[0] + 1) / 2
    want = (scores * inside).sum() / inside.sum()
    for _ in range(2):  # worked out, then known
        assert likeness(other[0], evidence, other[1]) == pytest.approx(want, abs=1e-4)
    assert likeness(other[0], evidence, -other[1]) < want - 0.1


def test_an_object_smaller_than_a_place_still_teaches() -> None:
    features, _ = picture(0)
    logits = torch.full((1, 1, 4 * SIDE, 4 * SIDE), -20.0)
    logits[..., 9, 9] = 20.0
    want = expected_score(features, fitted([(features, logits)], [1.0]))
    np.testing.assert_allclose(score(features, evidence_of(features, logits)).numpy(), want, atol=1e-4)


def test_an_empty_mask_teaches_nothing() -> None:
    features, logits = picture(0)
    assert observe(features, logits.clamp(max=-1)) is None


@pytest.mark.parametrize("constant", [0.0, 100.0])
def test_features_that_never_change_are_no_harm(constant: float) -> None:
    features, logits = picture(0)
    padded = torch.cat([features, torch.full((SIDE**2, 3), constant)], 1)
    got = score(padded, evidence_of(padded, logits))
    assert torch.isfinite(got).all()
    np.testing.assert_allclose(got.numpy(), score(features, evidence_of(features, logits)).numpy(), atol=2e-2)


def test_features_are_on_the_grid_of_the_finer_level() -> None:
    levels = tuple(torch.rand(1, c, s, s) for c, s in ((2, 16), (3, 8), (4, 4)))
    features = features_of(EncodedFrame(levels))
    assert features.shape == (64, 7)
    assert torch.equal(features[8 * 2 + 5, :3], levels[1][0, :, 2, 5])
    # place (2, 5) of the finer grid lies a quarter from place (1, 2) of the coarser to its neighbours
    around = levels[2][0, :, 0:2, 2:4]
    want = torch.einsum("cyx,y,x->c", around, torch.tensor([0.25, 0.75]), torch.tensor([0.75, 0.25]))
    assert torch.allclose(features[8 * 2 + 5, 3:], want)
    assert features_of(EncodedFrame(levels[2:])).shape == (16, 4)


def test_colours_are_products_of_cosines_of_the_mean_colour() -> None:
    picture = 4 * np.random.default_rng(0).integers(0, 64, (8, 8, 3), dtype=np.uint8)
    got = colours_of(torch.from_numpy(picture), (4, 4)).numpy()
    waves = appearance.COLOUR_WAVES
    assert got.shape == (16, waves**3 - 1)
    means = picture.reshape(4, 2, 4, 2, 3).mean((1, 3)).astype(np.float32)
    lab = cv2.cvtColor(means / 255, cv2.COLOR_RGB2LAB)
    for y, x in ((0, 0), (1, 3), (3, 2)):
        lightness, a, b = lab[y, x]
        shares = [np.clip(v, 0, 1) for v in (lightness / 100, a / 128 + 0.5, b / 128 + 0.5)]
        want = [
            np.prod([np.cos(np.pi * k * share) for k, share in zip(ks, shares, strict=True)])
            for ks in itertools.product(range(waves), repeat=3)
        ]
        np.testing.assert_allclose(got[4 * y + x], want[1:], atol=1e-4)


def test_colours_come_after_the_features() -> None:
    levels = (torch.rand(1, 3, 8, 8), torch.rand(1, 4, 4, 4))
    picture = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    features = features_of(EncodedFrame(levels, picture))
    assert torch.equal(features[:, :7], features_of(EncodedFrame(levels)))
    assert torch.equal(features[:, 7:], colours_of(picture, (8, 8)))


def test_advice_moves_the_logits_and_learns_from_the_result() -> None:
    (features, logits), (now, unsure) = picture(0), picture(1)
    levels = (now.T.reshape(1, CHANNELS, SIDE, SIDE),)
    keyframes, before = evidence_of(features, logits), evidence_of(*picture(2))
    unsure = 0.1 * unsure
    looks = Appearance(keyframes, Later.known(before))
    advised = looks.advise(features_of(EncodedFrame(levels)), unsure)
    after = looks.learn(features_of(EncodedFrame(levels)), advised)
    opinion = score(now, before.mixed(keyframes, appearance.KEYFRAME_SHARE))
    wanted = torch.nn.functional.interpolate(opinion, scale_factor=4.0, mode="bilinear", align_corners=False)
    assert torch.allclose(advised, unsure + appearance.GAIN * wanted)
    learned = before.mixed(evidence_of(now, advised), appearance.LEARNING_RATE)
    assert torch.equal(after.moments_ck, learned.moments_ck)


def test_what_was_tracked_is_kept_where_the_object_is_not_seen() -> None:
    features, logits = picture(0)
    known = evidence_of(features, logits)
    levels = (features.T.reshape(1, CHANNELS, SIDE, SIDE),)
    looks = Appearance(known, Later.known(known))
    assert looks.learn(features_of(EncodedFrame(levels)), torch.full_like(logits, -30.0)) is known


def results_of(session: VideoSession) -> list[object]:
    session.set_prompt(square_prompt(0, 1))
    return list(session.propagate())


def test_a_session_remembers_with_it_and_shows_the_decoders_mask(
    embedded_model: SAM2Base, clip: Clip
) -> None:
    plain = results_of(VideoSession(embedded_model, clip.source()))
    session = VideoSession(embedded_model, clip.source(), aids=Aids(appearance=True))
    advised = results_of(session)
    # the keyframe's memory is that of its mask alone, so the frame after it is the same, but not what it left
    assert advised[:2] == plain[:2]
    assert advised[2:] != plain[2:]
    assert all(
        entry.evidence is not None
        for entry in session._objects[1].recent.values()
        if entry.map_bchw is not None
    )


def test_without_gain_a_session_is_as_without_it(
    embedded_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appearance, "GAIN", 0.0)
    plain = results_of(VideoSession(embedded_model, clip.source()))
    assert results_of(VideoSession(embedded_model, clip.source(), aids=Aids(appearance=True))) == plain


def test_tracking_again_gives_the_same_masks(embedded_model: SAM2Base, clip: Clip) -> None:
    session = VideoSession(embedded_model, clip.source(), aids=Aids(appearance=True))
    first = results_of(session)
    assert list(session.propagate()) == first


def test_a_frame_said_to_be_empty_teaches_nothing(embedded_model: SAM2Base, clip: Clip) -> None:
    session = VideoSession(embedded_model, clip.source(), aids=Aids(appearance=True))
    first = session.set_prompt(square_prompt(0, 1))
    session.add_mask(4, first.object_id, masks.encode(np.zeros(clip.source().size, np.bool_)))
    assert len(list(session.propagate())) == FRAME_COUNT
    keyframes = session._objects[first.object_id].keyframes
    assert keyframes[0].entry is not None and keyframes[0].entry.evidence is not None
    assert keyframes[4].entry is not None and keyframes[4].entry.evidence is None
