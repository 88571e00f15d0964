"""The guided filter against its definition, window by window; outlines against what they should follow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import Clip, square_prompt

from qcore import masks
from qcore.tracking import decoding, edges
from qcore.tracking.aids import Aids
from qcore.tracking.close_look import CloseLook
from qcore.tracking.edges import Floats, Guide, follow_edges, guide_of
from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.session import VideoSession
from qcore.tracking.types import MaskResult, Prompt

SIDE = 16
GRID = SIDE // edges.SHRINK
RADIUS = edges.RADIUS


def guide_from(picture: np.ndarray) -> Guide:
    guide = guide_of(EncodedFrame((), torch.from_numpy(picture)))
    assert guide is not None
    return guide


def mirrored(index: int) -> int:
    """OpenCV's BORDER_REFLECT: fedcba|abcdefgh|hgfedcb."""
    return -index - 1 if index < 0 else 2 * GRID - index - 1 if index >= GRID else index


def window(centre: int) -> list[int]:
    return [mirrored(centre + step) for step in range(-RADIUS, RADIUS + 1)]


def enlarged(values: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(values)[None, None]
    return torch.nn.functional.interpolate(tensor, size=(SIDE, SIDE), mode="bilinear")[0, 0].numpy()


def filtered(logits: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Ridge regression from colours to logits in every window of the grid; a place takes the mean of the
    windows it lies in, a pixel the mean of the places around it."""
    colours = picture.astype(np.float64) / 255
    places = colours.reshape(GRID, edges.SHRINK, GRID, edges.SHRINK, 3).mean((1, 3))
    target = edges.LOGIT_LIMIT * np.tanh(logits.astype(np.float64) / edges.LOGIT_LIMIT)
    fitted = np.zeros((GRID, GRID, 4))
    for y, x in itertools.product(range(GRID), repeat=2):
        inside = np.ix_(window(y), window(x))
        seen, wanted = places[inside].reshape(-1, 3), target[inside].ravel()
        rows = np.concatenate([seen - seen.mean(0), np.sqrt(len(seen) * edges.LEAST_VARIANCE) * np.eye(3)])
        slope = np.linalg.lstsq(rows, np.concatenate([wanted - wanted.mean(), np.zeros(3)]), rcond=None)[0]
        fitted[y, x] = *slope, wanted.mean() - seen.mean(0) @ slope
    means = np.zeros((GRID, GRID, 4))
    for y, x in itertools.product(range(GRID), repeat=2):
        means[y, x] = fitted[np.ix_(window(y), window(x))].reshape(-1, 4).mean(0)
    *slopes, constant = (enlarged(means[..., k]) for k in range(4))
    return np.asarray((np.stack(slopes, -1) * colours).sum(-1) + constant)


def test_it_is_the_guided_filter() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    logits = random.normal(0, 3, (GRID, GRID)).astype(np.float32)
    got = follow_edges(logits, guide_from(picture))
    assert got.dtype == np.float32 and got.shape == (SIDE, SIDE)
    np.testing.assert_allclose(got, filtered(logits, picture), atol=1e-3)


def half_bright(edge: int) -> np.ndarray:
    picture = np.full((SIDE, SIDE, 3), 40, np.uint8)
    picture[:, edge:] = (200, 180, 90)
    return picture


@pytest.mark.parametrize("edge", [7, 8, 9])
def test_a_blurred_outline_moves_to_the_edge_next_to_it(edge: int) -> None:
    ramp: Floats = np.tile(np.linspace(-4, 4, SIDE, dtype=np.float32), (SIDE, 1))  # balances between 7 and 8
    got = follow_edges(ramp, guide_from(half_bright(edge)))
    assert (got[:, edge:] > 0).all() and (got[:, :edge] < 0).all()


def test_nothing_changes_sign_on_a_picture_of_one_colour() -> None:
    logits: Floats = np.full((SIDE, SIDE), -3.0, np.float32)
    logits[:, 8:] = 3.0
    got = follow_edges(logits, guide_from(np.full((SIDE, SIDE, 3), 90, np.uint8)))
    assert ((got > 0) == (logits > 0)).all()


def test_logits_of_a_coarser_grid_are_enlarged() -> None:
    logits: Floats = np.full((4, 4), -3.0, np.float32)
    logits[:, 2:] = 3.0
    got = follow_edges(logits, guide_from(half_bright(8)))
    assert ((got > 0) == (half_bright(8)[..., 0] > 100)).all()


def test_a_frame_without_its_picture_gives_no_guide() -> None:
    assert guide_of(EncodedFrame((torch.zeros(1, 2, 4, 4),))) is None


def results_of(session: VideoSession) -> list[MaskResult]:
    return [session.set_prompt(square_prompt(0, 1)), *session.propagate()]


def test_what_is_remembered_does_not_change(embedded_model: SAM2Base, clip: Clip) -> None:
    sessions = [VideoSession(embedded_model, clip.source(), aids=Aids(edges=on)) for on in (False, True)]
    plain, edged = (results_of(session) for session in sessions)
    assert [r.rle for r in plain] != [r.rle for r in edged]
    for one, other in zip(plain, edged, strict=True):
        assert (one.score, one.presence) == (other.score, other.presence)
        pixels = [masks.decode(result.rle).astype(bool) for result in (one, other)]
        assert (pixels[0] & pixels[1]).sum() >= 0.7 * (pixels[0] | pixels[1]).sum()
    left = [session._objects[1].logits for session in sessions]
    assert left[0].keys() == left[1].keys()
    assert all(torch.equal(left[0][t], left[1][t]) for t in left[0])


def test_tracking_again_gives_the_same_masks(embedded_model: SAM2Base, clip: Clip) -> None:
    session = VideoSession(embedded_model, clip.source(), aids=Aids(edges=True))
    first = results_of(session)[1:]
    assert list(session.propagate()) == first


def test_a_first_click_is_looked_at_where_the_decoder_saw_it(
    embedded_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes: list[tuple[float, float, float, float] | None] = []

    def remember(_look: CloseLook, prompt: Prompt, _previous: object) -> None:
        boxes.append(prompt.box_xyxy)

    monkeypatch.setattr(CloseLook, "mask", remember)
    # edges that lead far away from the object
    monkeypatch.setattr(decoding, "follow_edges", lambda logits_hw, _guide: np.ones_like(logits_hw))
    shown = []
    for on in (False, True):
        session = VideoSession(embedded_model, clip.source(), aids=Aids(close_look=True, edges=on))
        shown.append(session.set_prompt(Prompt(0, 1, ((40.0, 40.0),), (1,))))
    assert len(boxes) == 2 and boxes[0] is not None and boxes[0] == boxes[1]
    assert shown[1].rle.area == masks.decode(shown[1].rle).size > shown[0].rle.area
