"""Fitting one unit: which clips are fitted and which judge."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from qcore.quant.fake_quantize import ActivationQuantizer, QuantizerState, WeightQuantizer, set_state
from qcore.quant.layers import QuantizedLayer
from qcore.quant.methods import method
from qcore.quant.reconstruct import UnitData, UnitReport, judged_calls, judging_share, reconstruct_unit
from qcore.quant.units import Unit, UnitCall

JUDGES = (3, 7)


def calls(clip_count: int) -> list[UnitCall]:
    """With related channels: rounding errors of unrelated ones cannot make up for each other."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.eye(16) + torch.randn(16, 16, generator=generator)
    return [
        UnitCall(clip, frame, (torch.randn(1, 24, 16, generator=generator) @ mixing,), {})
        for clip in range(clip_count)
        for frame in range(3)
    ]


def data_of(recorded: list[UnitCall]) -> UnitData:
    targets: list[tuple[Tensor, ...]] = [(call.args[0],) for call in recorded]
    return UnitData(recorded, recorded, targets)


def test_every_fourth_clip_judges_and_few_clips_do_both() -> None:
    data = data_of(calls(8))
    fitted, judging = data.split()
    assert {call.clip for call in judging.quantized} == set(JUDGES)
    assert {call.clip for call in fitted.quantized} == {0, 1, 2, 4, 5, 6}
    for part in (fitted, judging):
        assert part.quantized == part.original
        assert all(call.args[0] is target[0] for call, target in zip(part.quantized, part.targets))
    few = data_of(calls(3))
    assert few.split() == (few, few)


@pytest.mark.parametrize("count", [1, 3, 4, 8, 11])
def test_the_shares_told_to_an_estimate_are_those_of_the_split(count: int) -> None:
    data = data_of(calls(count))
    shares = [len(part.quantized) / len(data.quantized) for part in data.split()]
    assert judging_share(count) == pytest.approx(shares)
    assert judging_share(0) == (1.0, 1.0)


def test_a_judge_looks_at_evenly_spaced_calls_and_enough_of_them() -> None:
    assert list(judged_calls(5)) == [0, 1, 2, 3, 4] and list(judged_calls(48))[:3] == [0, 2, 4]
    assert all(len(judged_calls(n)) >= min(n, 24) for n in range(200))


def fitted_unit(name: str, truthful: set[int]) -> UnitReport:
    """A linear layer; in clips that are not ``truthful`` the original sees the opposite of what it sees."""
    torch.manual_seed(0)
    teacher = nn.Linear(16, 12).requires_grad_(False)
    layer = QuantizedLayer(copy.deepcopy(teacher), WeightQuantizer(3, 12), ActivationQuantizer(8))
    layer.weight_quantizer.observe(layer.weight, "minmax")
    assert layer.input_quantizer is not None
    set_state(layer, activations=QuantizerState.OBSERVE)
    recorded = calls(8)
    for call in recorded:
        layer(*call.args)
    layer.input_quantizer.finish_observing()
    set_state(layer, weights=QuantizerState.ON, activations=QuantizerState.ON)
    unit = Unit("unit", "", layer, teacher, "", "all", -1)
    opposite = [call if call.clip in truthful else call.map(torch.neg) for call in recorded]
    data = UnitData.of(unit, recorded, opposite)
    config = dataclasses.replace(method(name, "w3a8", 400), hvq=None, mutual_kv=None)
    return reconstruct_unit(unit, data, config, seed=0)


@pytest.mark.parametrize("name", ["qdrop", "q-minisam2"])
def test_a_fit_that_does_not_carry_over_to_other_clips_is_not_kept(name: str) -> None:
    assert fitted_unit(name, set(range(8))).kept != "nearest"
    assert fitted_unit(name, set(JUDGES)).kept == "nearest"
