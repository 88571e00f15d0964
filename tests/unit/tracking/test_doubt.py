"""Tracked masks that the doubt head takes for something else: not shown, and remembered all the same."""

from __future__ import annotations

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip, square_prompt

from qcore.models.doubt_head import HEADS_AND_TOKEN, add_doubt_head, doubt_head_of
from qcore.runtime import lower
from qcore.runtime.recorded_calls import Recorded, call_plainly
from qcore.tracking import doubt
from qcore.tracking.aids import Aids
from qcore.tracking.doubt import RIVALS_MARGIN
from qcore.tracking.session import VideoSession
from qcore.tracking.types import MaskResult

AIDS = Aids(appearance=True, doubt=True)


@pytest.fixture
def doubting_model(micro_model: SAM2Base) -> SAM2Base:
    model = copy.deepcopy(micro_model)
    add_doubt_head(model)
    return model.requires_grad_(False)


def features(model: SAM2Base, seed: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    side, channels = model.image_size // 16, model.hidden_dim
    top = torch.randn(1, channels, side, side, generator=generator)
    finer = [
        torch.randn(1, channels // part, size, size, generator=generator)
        for part, size in ((8, 4 * side), (4, 2 * side))
    ]
    return {"backbone_features": top, "high_res_features": finer}


def tracked(model: SAM2Base, clip: Clip, aids: Aids) -> tuple[VideoSession, list[MaskResult]]:
    session = VideoSession(model, clip.source(), aids=aids)
    for object_id in (1, 2) if aids.rivalry else (1,):
        session.set_prompt(square_prompt(0, object_id))
    return session, list(session.propagate())


def test_the_heads_are_upstreams_and_the_token_is_the_presence_heads(
    micro_model: SAM2Base, doubting_model: SAM2Base
) -> None:
    seen: list[torch.Tensor] = []
    head = micro_model.sam_mask_decoder.pred_obj_score_head
    hook = head.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        want = micro_model._forward_sam_heads(**features(micro_model, 0))
    finally:
        hook.remove()
    *got, token = getattr(doubting_model, HEADS_AND_TOKEN)(**features(doubting_model, 0))
    assert len(got) == len(want)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert torch.equal(token, seen[0])
    assert all(
        torch.equal(a, b)
        for a, b in zip(doubting_model._forward_sam_heads(**features(doubting_model, 0)), want, strict=True)
    )


def test_a_copy_asks_its_own_heads(doubting_model: SAM2Base) -> None:
    twin = copy.deepcopy(doubting_model)
    with torch.no_grad():
        for parameter in twin.sam_mask_decoder.parameters():
            parameter.mul_(0.5)
    given = features(twin, 0)
    results = [getattr(model, HEADS_AND_TOKEN)(**given)[-1] for model in (twin, doubting_model)]
    assert not torch.equal(*results)


def test_threads_hear_their_own_tokens(doubting_model: SAM2Base) -> None:
    call = getattr(doubting_model, HEADS_AND_TOKEN)
    inputs = [features(doubting_model, seed) for seed in range(40)]
    want = [call(**one)[-1] for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda one: call(**one)[-1], inputs))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, want, strict=True))
    assert not any(torch.allclose(want[0], other, atol=1e-2) for other in want[1:])


@pytest.mark.parametrize("aids", [AIDS, dataclasses.replace(AIDS, rivalry=True, edges=True)])
def test_what_is_in_doubt_is_remembered_and_not_shown(
    doubting_model: SAM2Base, clip: Clip, aids: Aids
) -> None:
    head = doubt_head_of(doubting_model)
    assert head is not None
    given: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0][0]))
    sure, plain = tracked(doubting_model, clip, aids)  # a new head never doubts
    followed = [result for result in plain if result.frame_index > 0 and result.presence > 0.5]
    assert len(given) == len(followed) > FRAME_COUNT // 2
    assert not any(result.rle.is_empty for result in followed)

    # the estimated IoU and the token's first value decide, each by some of the frames
    token, scores = torch.stack(given)[:, 0].numpy(), np.array([result.score for result in followed])
    np.testing.assert_allclose(torch.stack(given)[:, head.channels].numpy(), scores, atol=1e-6)
    standing = (token - token.mean()) / token.std() + (scores - scores.mean()) / scores.std()
    cut = float(np.mean(np.sort(standing)[len(standing) // 2 - 1 : len(standing) // 2 + 1]))
    with torch.no_grad():
        line = head.line
        line.weight[0, 0], line.weight[0, -2] = float(1 / token.std()), float(1 / scores.std())
        line.bias.fill_(float(-token.mean() / token.std() - scores.mean() / scores.std()) - cut)
    careful, shown = tracked(doubting_model, clip, aids)
    margin = RIVALS_MARGIN if aids.rivalry else 0.0
    doubts = {(r.object_id, r.frame_index): s - cut - margin for r, s in zip(followed, standing, strict=True)}
    assert 0 < sum(value > 0 for value in doubts.values()) < len(doubts)
    for before, after in zip(plain, shown, strict=True):
        is_hidden = doubts.get((after.object_id, after.frame_index), -1.0) > 0
        assert after.rle.is_empty if is_hidden else after.rle == before.rle
        assert (after.score, after.rle.size) == (before.score, before.rle.size)
        if is_hidden:
            odds = np.exp(-doubts[after.object_id, after.frame_index])
            assert after.presence == pytest.approx(odds / (1 + odds), abs=1e-3)
        else:
            assert after.presence == before.presence
    for t, entry in sure._objects[1].recent.items():
        other = careful._objects[1].recent[t].map_bchw
        assert (entry.map_bchw is None) == (other is None)
        assert entry.map_bchw is None or other is None or torch.equal(entry.map_bchw, other)


def test_presence_that_is_hardly_there_is_doubted_without_a_head_too(
    micro_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tracked(micro_model, clip, Aids())[1]
    logits = {r.frame_index: float(np.log(r.presence / (1 - r.presence))) for r in plain if r.frame_index}
    least = sorted(logits.values())[len(logits) // 2]  # the lower half is in doubt
    assert min(logits.values()) > 0
    monkeypatch.setattr(doubt, "LEAST_PRESENCE", least)
    for before, after in zip(plain, tracked(micro_model, clip, Aids(doubt=True))[1], strict=True):
        distance = logits.get(after.frame_index, np.inf) - least
        if distance < -1e-4:
            assert after.rle.is_empty and after.rle.size == before.rle.size
            assert after.presence == pytest.approx(1 / (1 + np.exp(-distance)), abs=1e-4)
        elif distance > 1e-4:
            assert after == before


def test_it_takes_a_head_and_looks(micro_model: SAM2Base, doubting_model: SAM2Base, clip: Clip) -> None:
    head = doubt_head_of(doubting_model)
    assert head is not None
    head.line.bias.fill_(5.0)  # doubts everything
    plain = tracked(micro_model, clip, Aids(appearance=True))[1]
    hidden = [result.rle.is_empty for result in tracked(doubting_model, clip, AIDS)[1]]
    assert not hidden[0] and all(hidden[1:])
    for model, aids in (
        (micro_model, AIDS),
        (doubting_model, dataclasses.replace(AIDS, doubt=False)),
    ):
        assert tracked(model, clip, aids)[1] == plain
    # without a model of looks nothing is known about the object
    assert not any(result.rle.is_empty for result in tracked(doubting_model, clip, Aids(doubt=True))[1])


def test_it_is_the_same_with_recorded_calls(doubting_model: SAM2Base, clip: Clip) -> None:
    head = doubt_head_of(doubting_model)
    assert head is not None
    plain = copy.deepcopy(doubting_model)
    for model in (plain, doubting_model):
        lower(model, choice=True)
    call_plainly(plain)
    first = tracked(plain, clip, AIDS)[1]
    for _ in range(3):
        assert tracked(doubting_model, clip, AIDS)[1] == first
    recorded = vars(doubting_model)[HEADS_AND_TOKEN]
    assert isinstance(recorded, Recorded)
    assert any(kind.is_trusted for kind in recorded._kinds.values())
    call_plainly(doubting_model)
    assert not isinstance(vars(doubting_model)[HEADS_AND_TOKEN], Recorded)
    assert tracked(doubting_model, clip, AIDS)[1] == first
