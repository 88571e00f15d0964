"""Which steps beyond SAM 2 a session takes."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip, square_prompt

from qcore.tracking import decoding
from qcore.tracking.aids import NO_AIDS, Aids
from qcore.tracking.session import VideoSession
from qcore.tracking.types import MaskResult


def test_only_small_inputs_get_them(embedded_model: SAM2Base) -> None:
    assert Aids.for_model(embedded_model) == Aids(True, True, True, True, True)
    large = copy.copy(embedded_model)
    large.image_size = 1024
    assert Aids.for_model(large) == NO_AIDS


def test_none_is_taken_unasked() -> None:
    assert Aids(*[False] * 5) == NO_AIDS


@pytest.mark.parametrize("aids", [Aids(doubt=True), Aids(doubt=True, rivalry=True)])
def test_what_is_in_doubt_is_remembered_and_not_shown(
    micro_model: SAM2Base, clip: Clip, aids: Aids, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results_of(aids: Aids) -> tuple[VideoSession, list[MaskResult]]:
        session = VideoSession(micro_model, clip.source(), aids=aids)
        for object_id in (1, 2) if aids.rivalry else (1,):
            session.set_prompt(square_prompt(0, object_id))
        return session, list(session.propagate())

    session, plain = results_of(dataclasses.replace(aids, doubt=False))
    logits = sorted(float(np.log(r.presence / (1 - r.presence))) for r in plain if r.frame_index > 0)
    assert logits[0] > 0 and any(not result.rle.is_empty for result in plain)
    # in doubt: the lower half of the frames
    monkeypatch.setattr(decoding, "LEAST_PRESENCE", logits[len(logits) // 2])
    careful, hidden = results_of(aids)
    assert [(r.score, r.presence) for r in hidden] == [(r.score, r.presence) for r in plain]
    for one, other in zip(plain, hidden, strict=True):
        logit = np.log(other.presence / (1 - other.presence))
        if other.frame_index > 0 and logit < decoding.LEAST_PRESENCE - 1e-6:
            assert other.rle.is_empty and other.rle.size == one.rle.size
        elif other.frame_index == 0 or logit > decoding.LEAST_PRESENCE + 1e-6:
            assert other.rle == one.rle
    assert sum(r.rle.is_empty for r in hidden) >= sum(r.rle.is_empty for r in plain) + FRAME_COUNT // 3
    for t, entry in session._objects[1].recent.items():
        other_map = careful._objects[1].recent[t].map_bchw
        assert (entry.map_bchw is None) == (other_map is None)
        assert entry.map_bchw is None or other_map is None or torch.equal(entry.map_bchw, other_map)
