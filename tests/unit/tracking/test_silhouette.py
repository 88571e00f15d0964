"""Silhouettes and the signs of a mask against their definitions; what a session remembers of them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip, square_prompt

from qcore.models.doubt_head import SIGNS, add_doubt_head
from qcore.tracking.aids import Aids
from qcore.tracking.decoding import Decoded
from qcore.tracking.doubt import signs_of
from qcore.tracking.session import VideoSession
from qcore.tracking.silhouette import STEADIER_BY, UNCHANGED, changes, silhouette_of

SIDE = 24
CHANGES = ("growth", "overlap", "travel", "steadiness")


def logits(seed: int, share: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1, 1, SIDE, SIDE, generator=generator)
    return values - values.flatten().quantile(1 - share) + 1e-3


def decoded(logits_b1hw: torch.Tensor, score: float = 0.7, presence: float = 1.5) -> Decoded:
    nothing = torch.zeros(1, 4)
    return Decoded(logits_b1hw, logits_b1hw, nothing, torch.tensor([[presence]]), score)


def place(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(rows.mean()) / SIDE, float(columns.mean()) / SIDE


@pytest.mark.parametrize("seed", range(4))
def test_changes_are_those_of_the_masks(seed: int) -> None:
    one, other = logits(seed, 0.2), logits(seed + 10, 0.4)
    a, b = (x[0, 0].numpy() > 0 for x in (one, other))
    before = silhouette_of(one, None)
    after = silhouette_of(other, before)
    assert before is not None and after is not None
    np.testing.assert_array_equal(before.mask_hw.numpy(), a)
    np.testing.assert_allclose(before.facts_3.numpy(), [a.mean(), *place(a)], rtol=1e-5)
    pixel = 1 / SIDE**2
    wanted = [
        math.log((b.mean() + pixel) / (a.mean() + pixel)),
        (a & b).sum() / (a | b).sum(),
        math.dist(place(a), place(b)),
        (a & b).sum() / (a | b).sum(),
    ]
    np.testing.assert_allclose(changes(before, after).numpy(), wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(changes(before, before).numpy(), UNCHANGED, atol=1e-6)


def test_a_jump_is_forgiven_little_by_little() -> None:
    here, there = torch.full((1, 1, SIDE, SIDE), -1.0), torch.full((1, 1, SIDE, SIDE), -1.0)
    here[..., :8, :8] = there[..., 12:, 12:] = 1.0
    seen, found = None, []
    for mask in (here, here, there, there, there):
        seen = silhouette_of(mask, seen)
        assert seen is not None
        found.append(float(seen.steadiness))
    np.testing.assert_allclose(found, [1, 1, 0, STEADIER_BY, 2 * STEADIER_BY], atol=1e-6)
    again = silhouette_of(there, seen.lost())
    assert again is not None
    assert float(again.steadiness) == pytest.approx(STEADIER_BY)
    assert torch.equal(seen.lost().mask_hw, seen.mask_hw)


def test_an_empty_mask_has_no_silhouette() -> None:
    assert silhouette_of(torch.full((1, 1, SIDE, SIDE), -3.0), None) is None


def test_signs_are_what_they_say() -> None:
    now, before = logits(1), silhouette_of(logits(2), None)
    assert before is not None
    values = now[0, 0].numpy().astype(np.float64)
    inside, odds = values > 0, 1 / (1 + np.exp(-values))
    after = silhouette_of(now, before)
    assert after is not None
    wanted = {
        "score": 0.7,
        "alike": -0.2,
        "presence": 1.5,
        "sureness": values[inside].mean(),
        "peak": values.max(),
        "softness": (odds * (1 - odds)).sum() / inside.sum(),
        "border": 1.0,
        **dict(zip(CHANGES, changes(before, after).tolist(), strict=True)),
    }
    got = signs_of(decoded(now), -0.2, before)
    np.testing.assert_allclose(got.numpy(), [wanted[name] for name in SIGNS], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [None, "top", "bottom", "left", "right"])
def test_the_border_is_touched_or_not(side: str | None) -> None:
    inner = torch.full((1, 1, SIDE, SIDE), -1.0)
    inner[..., 5:9, 5:9] = 1.0
    edge = {"top": (0, 6), "bottom": (-1, 6), "left": (6, 0), "right": (6, -1)}
    if side is not None:
        inner[0, 0][edge[side]] = 1.0
    assert float(signs_of(decoded(inner), 0.0, None)[SIGNS.index("border")]) == float(side is not None)


def test_without_a_mask_or_a_past_nothing_has_changed() -> None:
    changed = [SIGNS.index(name) for name in CHANGES]
    empty = decoded(torch.full((1, 1, SIDE, SIDE), -3.0))
    for mask, before in ((decoded(logits(0)), None), (empty, silhouette_of(logits(1), None))):
        signs = signs_of(mask, 0.0, before)
        assert signs.isfinite().all()
        assert tuple(signs[changed].tolist()) == UNCHANGED


def test_a_session_remembers_the_last_mask_through_absence(
    micro_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(micro_model)
    add_doubt_head(model)
    session = VideoSession(model.requires_grad_(False), clip.source(), aids=Aids(appearance=True, doubt=True))
    session.set_prompt(square_prompt(0, 1))
    tracker, gone = session._tracker, range(4, 7)
    masks: dict[int, torch.Tensor] = {}
    seen: dict[int, torch.Tensor | None] = {}
    steady: dict[int, float] = {}
    decode = tracker.decode

    def scripted(step):  # type: ignore[no-untyped-def]
        found = decode(step)
        t = step.frame_index
        seen[t] = None if step.last_seen is None else step.last_seen.mask_hw
        steady[t] = -1.0 if step.last_seen is None else float(step.last_seen.steadiness)
        masks[t] = found.logits_b1hw[0, 0] > 0
        found.presence_logit_b1.fill_(-2.0 if t in gone else 2.0)
        return found

    monkeypatch.setattr(tracker, "decode", scripted)
    for _ in session.propagate():
        pass
    keyframe = session._objects[1].keyframes[0].logits_b1hw
    assert keyframe is not None
    for t in range(1, FRAME_COUNT):
        last = t - 1 if t - 1 not in gone else gone[0] - 1
        wanted = keyframe[0, 0] > 0 if last == 0 else masks[last]
        got = seen[t]
        assert got is not None and torch.equal(got, wanted)
        assert (steady[t] == 0) == (t - 1 in gone)
