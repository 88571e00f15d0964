"""Replaying a stage from its last finished block: the same inputs as a whole forward gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quant_models import moving_clips, small_model
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from torch import nn

from qcore.quant.insertion import insert
from qcore.quant.methods import method
from qcore.quant.replay import StageReplay
from qcore.quant.rollout import STAGES, ImageFeatures, StageCall, roll_out
from qcore.quant.units import UnitCall, cut, find_units


def seen_in_one_forward(model: nn.Module, stage: str, entries: list[str], call: StageCall) -> dict[str, Any]:
    """The input of every entry, from an ordinary forward of the stage."""
    seen: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[name] = UnitCall(call.clip, call.frame, args, kwargs).map(torch.clone)

        return before

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in entries
    ]
    with torch.no_grad():
        model.get_submodule(stage)(*call.args, **call.kwargs)
    for handle in handles:
        handle.remove()
    return seen


def check(model: nn.Module, stage: str, calls: list[StageCall], granularity: str) -> int:
    quantized = insert(model, method("minmax"))
    units = [u for u in find_units(quantized, model, granularity) if u.stage == stage]
    replay = StageReplay(quantized, stage, calls)
    whole = [seen_in_one_forward(quantized, stage, [u.entry for u in units], call) for call in calls]
    for unit in units:
        captured = replay.capture(unit, 5)
        assert [(c.clip, c.frame) for c in captured] == [(c.clip, c.frame) for c in calls]
        for call, seen in zip(captured, whole):
            expected = cut(seen[unit.entry], unit.sampling, 5 + 7919 * call.clip)
            assert call.signature() == expected.signature()
            for ours, theirs in zip(call.tensors(), expected.tensors()):
                # kept in fp16 at every block's end
                assert (ours - theirs).abs().max() <= 0.02 * theirs.abs().max().clamp(min=1e-3), unit.name
    assert not any("forward" in vars(module) for module in quantized.modules())
    return len(units)


@pytest.mark.parametrize("stage", STAGES[:3])
@pytest.mark.parametrize("granularity", ["subblock", "block"])
def test_every_unit_gets_what_a_whole_forward_gives_it(stage: str, granularity: str) -> None:
    model = small_model()
    calls = roll_out(model, moving_clips(2, 3), [stage])[stage]
    assert check(model, stage, calls, granularity) >= 1


class OneStage(nn.Module):
    def __init__(self, image_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        for stage in STAGES[1:]:
            self.add_module(stage, nn.Identity())


def test_hieras_levels_are_kept_for_the_neck() -> None:
    torch.manual_seed(0)
    trunk = Hiera(
        embed_dim=8,
        num_heads=1,
        stages=(1, 2, 1, 1),
        global_att_blocks=(2,),
        window_pos_embed_bkg_spatial_size=(4, 4),
        window_spec=(4, 4, 2, 2),
    )
    neck = FpnNeck(PositionEmbeddingSine(8), 8, trunk.channel_list, fpn_top_down_levels=[2, 3])
    model = OneStage(ImageEncoder(trunk, neck, scalp=1)).eval()
    call = StageCall(0, 0, (torch.randn(1, 3, 64, 64),), {})
    assert check(model, "image_encoder", [call], "subblock") == 2 * 5 + 3 + 4


def test_cached_image_features_do_not_change_a_rollout() -> None:
    model, clips = small_model(), moving_clips(2, 3)
    plain = roll_out(model, clips, ["sam_mask_decoder"])["sam_mask_decoder"]
    cached = roll_out(model, clips, ["sam_mask_decoder"], images=ImageFeatures(model, clips))
    for ours, theirs in zip(cached["sam_mask_decoder"], plain):
        assert torch.equal(ours.kwargs["image_embeddings"], theirs.kwargs["image_embeddings"])
