"""Objects out of view are searched for by the frames that show them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip, square_prompt

from qcore.tracking import tracker
from qcore.tracking.aids import Aids
from qcore.tracking.decoding import Decoded
from qcore.tracking.doubt import LEAST_PRESENCE, RETURN_MARGIN
from qcore.tracking.session import VideoSession
from qcore.tracking.tracker import SEARCH_EVERY, Step
from qcore.tracking.types import MaskResult

SEARCHED = list(range(SEARCH_EVERY, FRAME_COUNT, SEARCH_EVERY))


class Scripted:
    """A session whose object is out of view but for what searches find."""

    def __init__(
        self, model: SAM2Base, clip: Clip, aids: Aids, found_logit: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.session = VideoSession(model, clip.source(), aids=aids)
        self.session.set_prompt(square_prompt(0, 1))
        self.decoded: dict[int, int] = defaultdict(int)
        """How often, by frame."""
        self._frame = -1
        self._found_logit = found_logit
        self._step, self._decode = self.session._tracker.decode, tracker.decode
        monkeypatch.setattr(self.session._tracker, "decode", self._begin)
        monkeypatch.setattr(tracker, "decode", self._answer)

    def _begin(self, step: Step) -> Decoded:
        self._frame = step.frame_index
        return self._step(step)

    def _answer(self, *arguments: Any) -> Decoded:
        decoded = self._decode(*arguments)
        self.decoded[self._frame] += 1
        logit = -2.0 if self.decoded[self._frame] == 1 else self._found_logit
        presence_b1 = torch.full_like(decoded.presence_logit_b1, logit)
        return dataclasses.replace(decoded, presence_logit_b1=presence_b1)

    def results(self) -> list[MaskResult]:
        return list(self.session.propagate())[1:]


def test_searches_come_now_and_then_and_must_be_sure(
    micro_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = LEAST_PRESENCE + RETURN_MARGIN
    for found_logit, is_found in ((sure + 0.01, True), (sure - 0.01, False), (-1.0, False)):
        with monkeypatch.context() as patch:
            scripted = Scripted(micro_model, clip, Aids(search=True), found_logit, patch)
            results = scripted.results()
        # what is found is in reach of a search's frame or not: only then is there no further search
        reach = scripted.session._tracker.geometry.map_reach
        searched = [t for t, times in scripted.decoded.items() if times == 2]
        assert searched == (SEARCHED if not is_found or reach < SEARCH_EVERY else SEARCHED[:1])
        assert len(scripted.decoded) == FRAME_COUNT - 1
        seen = [result.frame_index for result in results if result.presence > 0.5]
        assert seen == (searched if is_found else [])


def test_without_it_nobody_searches(
    micro_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(micro_model, clip, Aids(), 9.0, monkeypatch)
    assert not any(result.presence > 0.5 for result in scripted.results())
    assert set(scripted.decoded.values()) == {1}


def test_a_search_attends_to_the_frames_that_show_the_object_alone(
    micro_model: SAM2Base, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(micro_model, clip, Aids(search=True), -1.0, monkeypatch)
    scripted.results()
    memory = scripted.session._objects[1]
    last = FRAME_COUNT - 1
    plans = [scripted.session._tracker.plan(last, memory, False, only) for only in (False, True)]
    attended = [{t for _, t in (*plan.maps, *plan.pointers)} for plan in plans]
    assert attended[0] > attended[1] == {0}
    assert memory.is_lost([last - 1, last - 2])
    memory.recent[last - 2].is_present = True
    assert not memory.is_lost([last - 1, last - 2])
    assert not memory.is_lost([])
    shown = scripted.session._tracker.plan(last, memory, False, only_in_view=True)
    assert {t for _, t in (*shown.maps, *shown.pointers)} == {0, last - 2}
