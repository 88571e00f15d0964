"""The whole of Algorithm 1 on a small model: every method, its promises and its exits."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quant_models import SMALL, small_model
from quant_models import moving_clips as clips
from torch import nn

from qcore.models import load_model
from qcore.quant.affine import QuantizationError
from qcore.quant.bundle import save_bundle
from qcore.quant.bundle_header import ModelDescription
from qcore.quant.calibration_data import collect_clips, propose_box
from qcore.quant.clip_selection import ClipRequest
from qcore.quant.config import QuantConfig
from qcore.quant.fake_quantize import (
    ActivationQuantizer,
    QuantizerState,
    TensorQuantizer,
    quantizers,
    set_state,
)
from qcore.quant.folding import is_bimodal, prepare_weights
from qcore.quant.insertion import insert
from qcore.quant.layers import QuantizedLayer
from qcore.quant.methods import METHODS, method
from qcore.quant.mutual_kv_loop import share
from qcore.quant.pipeline import (
    CalibrationCancelledError,
    Progress,
    QuantizedModel,
    assert_deployable,
    freeze,
    quantize_model,
)
from qcore.quant.rollout import roll_out
from qcore.quant.sensitivity import Option, knapsack
from qcore.quant.sqnr import measure_sqnr, sqnr_markdown
from qcore.quant.units import UnitCall, find_units


def recipe(name: str, bits: str, iterations: int = 2, seed: int = 0) -> QuantConfig:
    """A method on a quarter of the layers: enough of every kind, without the wide ones, and quick."""
    skipped = ("image_encoder.trunk.blocks.[4-9]*", "image_encoder.trunk.blocks.1[0-5].*", "memory_encoder.*")
    return dataclasses.replace(method(name, bits, iterations, seed), exclude=skipped)


def logits(model: Any) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    handle = model.sam_mask_decoder.register_forward_hook(lambda m, a, out: seen.append(out[0].clone()))
    roll_out(model, clips(1))
    handle.remove()
    return seen


OURS = "q-minisam2"


@pytest.fixture(scope="module")
def ours() -> QuantizedModel:
    """One finished run of the full method, for every test that only looks at it."""
    return quantize_model(small_model(), clips(1), recipe(OURS, "w4a4"))


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_gives_a_deployable_model_that_survives_a_bundle(
    name: str, ours: QuantizedModel, tmp_path: Path
) -> None:
    result = ours if name == OURS else quantize_model(small_model(), clips(1), recipe(name, "w4a4"))
    assert_deployable(result.model)
    path = tmp_path / "b.safetensors"
    description = ModelDescription("embedded-fp16", "", 64, SMALL)
    save_bundle(path, result.model, description, {"method": name, "bits": "w4a4"}, result.mutual_kv)
    loaded = load_model(path)
    for stored, kept in zip(logits(loaded), logits(result.model)):
        assert torch.allclose(stored, kept, atol=1e-5)


def test_the_original_is_not_touched() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = dataclasses.replace(recipe(OURS, "w4a4", 1), include=("*.blocks.2.*", "memory_attention.*"))
    quantize_model(model, clips(1, 2), config)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _codes(result: QuantizedModel) -> dict[str, torch.Tensor]:
    return {
        name: module.weight_quantizer.codes
        for name, module in result.model.named_modules()
        if isinstance(module, QuantizedLayer) and module.weight_quantizer.codes is not None
    }


def _scales(result: QuantizedModel) -> dict[str, torch.Tensor]:
    return {n: q.get_buffer("scale") for n, q in quantizers(result.model) if isinstance(q, TensorQuantizer)}


def test_another_seed_gives_another_result(ours: QuantizedModel) -> None:
    other = quantize_model(small_model(), clips(1), recipe(OURS, "w4a4", seed=1))
    first, second = (_codes(run) | _scales(run) for run in (ours, other))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_learned_rounding_lowers_every_units_loss_or_keeps_the_nearest() -> None:
    result = quantize_model(small_model(), clips(), recipe("qdrop", "w3a8", 30))
    assert result.units
    for unit in result.units:
        assert unit.learned_loss <= unit.nearest_loss
        assert (unit.kept == "nearest") == (unit.learned_loss == unit.nearest_loss)
    gains = [unit.learned_loss / unit.nearest_loss for unit in result.units]
    assert np.mean(gains) < 0.97


def test_more_bits_are_closer_to_the_original() -> None:
    model = small_model()
    exact = logits(model)
    errors = {}
    for bits in ("w4a4", "w8a8"):
        ours = logits(quantize_model(model, clips(), recipe("omse", bits)).model)
        errors[bits] = sum(float((a - b).pow(2).mean()) for a, b in zip(ours, exact))
    assert errors["w8a8"] < 0.1 * errors["w4a4"]


def test_stopping_keeps_finished_units_and_going_on_gives_the_same_model(
    ours: QuantizedModel, tmp_path: Path
) -> None:
    """Most units are computed again here: one seed gives one result."""
    config = recipe(OURS, "w4a4")
    asked = 0

    def stop_later() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    with pytest.raises(CalibrationCancelledError):
        quantize_model(small_model(), clips(1), config, should_stop=stop_later, work_dir=tmp_path)
    kept = list(tmp_path.rglob("*.safetensors"))
    assert 0 < len(kept) < len(ours.units)
    resumed = quantize_model(small_model(), clips(1), config, work_dir=tmp_path)
    assert all(torch.equal(a, _codes(resumed)[name]) for name, a in _codes(ours).items())
    assert all(torch.equal(a, _scales(resumed)[name]) for name, a in _scales(ours).items())


def test_activation_steps_are_kept_in_half_precision_and_dead_channels_stay_positive() -> None:
    quantized = insert(small_model(), method(OURS, "w4a4"))
    steps = [q for _, q in quantizers(quantized) if isinstance(q, ActivationQuantizer)]
    wide = next(q for q in steps if q.scale.numel() > 1)
    for quantizer in steps:
        quantizer.scale = torch.full_like(quantizer.scale, 0.1)
    wide.scale[0] = 1e-8
    freeze(quantized)
    assert all(bool((q.scale > 0).all() and torch.equal(q.scale.half().float(), q.scale)) for q in steps)
    assert float((steps[0].scale - 0.1).abs().max()) < 0.1 / 2048
    # one tensor's step that half precision cannot hold leaves all of them as they were
    single = next(q for q in steps if q.scale.numel() == 1)
    single.scale, wide.scale = torch.tensor(1e-6), torch.full_like(wide.scale, 0.1)
    freeze(quantized)
    assert float(single.scale) == pytest.approx(1e-6)
    assert float(wide.scale.max()) == pytest.approx(0.1, rel=1e-7)


def test_progress_names_stages_and_only_grows() -> None:
    seen: list[Progress] = []
    quantize_model(small_model(), clips(1), recipe("adaround", "w4a4"), seen.append)
    assert {"prepare", "finish"} <= {p.stage for p in seen}
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == 1.0


@pytest.mark.parametrize("memory_encoder_bits", [4, 5])
def test_units_cover_every_low_bit_layer_once_at_every_granularity(memory_encoder_bits: int) -> None:
    model = small_model()
    config = dataclasses.replace(method("minmax", "w4a4"), optional_weight_bits=memory_encoder_bits)
    quantized = insert(model, config)
    wanted = {n for n, m in quantized.named_modules() if isinstance(m, QuantizedLayer)}
    stages: tuple[str, ...] = ("image_encoder", "memory_attention", "sam_mask_decoder")
    if memory_encoder_bits < 5:  # from there on nearest rounding does
        stages = (*stages, "memory_encoder")
    wanted = {n for n in wanted if n.startswith(stages) and _is_low(quantized.get_submodule(n))}
    for granularity in ("layer", "subblock", "block"):
        covered: list[nn.Module] = []
        for unit in find_units(quantized, model, granularity):
            covered += [layer for _, layer in unit.layers()]
        ids = [id(layer) for layer in covered if _is_low(layer)]
        assert len(ids) == len(set(ids))
        assert set(ids) == {id(quantized.get_submodule(name)) for name in wanted}, granularity


def _is_low(layer: Any) -> bool:
    return layer.weight_quantizer.bits < 8


def test_exact_rewrites_do_not_change_the_model() -> None:
    model = small_model()
    config: QuantConfig = dataclasses.replace(method("minmax"), centre_values=True, bimodal_integration=True)
    rewritten = prepare_weights(model, clips(1), config)
    for ours, theirs in zip(logits(rewritten), logits(model)):
        assert torch.allclose(ours, theirs, atol=2e-4, rtol=1e-3)
    moved = [
        not torch.equal(a, b) for a, b in zip(rewritten.state_dict().values(), model.state_dict().values())
    ]
    assert any(moved)


def test_two_separate_humps_are_bimodal_and_one_is_not() -> None:
    normal = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert is_bimodal(torch.cat([normal - 6, normal + 6]))
    assert not is_bimodal(normal)
    assert not is_bimodal(torch.zeros(10))


@torch.no_grad()
def test_sharing_identical_memory_frames_changes_nothing_with_the_log_bias() -> None:
    quantized = insert(small_model(), method("minmax"))
    cross = quantized.memory_attention.layers[0].cross_attn_image
    frame = torch.randn(1, 16, 32)
    first, pointers = torch.randn(1, 16, 32), torch.randn(1, 2, 32)
    memory = torch.cat([first, frame, frame, frame, pointers], 1)
    call = UnitCall(
        0, 0, (), {"q": torch.randn(1, 16, 32), "k": memory, "v": memory, "num_k_exclude_rope": 2}
    )
    shared = share(call, 0.99, log_bias=True)
    assert shared.kwargs["k"].shape[1] == 16 * 2 + 2
    assert torch.allclose(cross(**shared.kwargs), cross(**call.kwargs), atol=1e-5)
    literal = share(call, 0.99, log_bias=False)
    assert not torch.allclose(cross(**literal.kwargs), cross(**call.kwargs), atol=1e-3)
    assert share(call, 1.0, log_bias=True) is call


def test_assert_deployable_notices_soft_dropped_and_off() -> None:
    result = quantize_model(small_model(), clips(1, 2), recipe("minmax", "w4a4"))

    def finished() -> nn.Module:
        return copy.deepcopy(result.model)

    model = finished()
    layer = next(m for m in model.modules() if isinstance(m, QuantizedLayer))
    layer.weight_quantizer.codes = None
    with pytest.raises(QuantizationError, match="not decided"):
        assert_deployable(model)
    model = finished()
    next(q for _, q in quantizers(model) if isinstance(q, TensorQuantizer)).p_fp = 0.5
    with pytest.raises(QuantizationError, match="unquantized"):
        assert_deployable(model)
    model = finished()
    set_state(model, activations=QuantizerState.OFF)
    with pytest.raises(QuantizationError, match="not on"):
        assert_deployable(model)


def test_knapsack_agrees_with_trying_everything() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        options = []
        for unit in "abcd":
            size, error = int(generator.integers(4, 40)), float(generator.random())
            options += [Option(unit, bits, size * bits, error * 4.0 ** (4 - bits)) for bits in (4, 6, 8)]
        budget = int(sum(o.size_bytes for o in options if o.bits == 4) * 1.4)
        chosen = knapsack(options, budget)
        picked = [o for o in options if chosen[o.unit] == o.bits]
        assert sum(o.size_bytes for o in picked) <= budget
        least = _least_error(options, budget)
        start = sum(o.error for o in options if o.bits == 4)
        assert start - sum(o.error for o in picked) >= 0.8 * (start - least)
    with pytest.raises(QuantizationError, match="over the budget"):
        knapsack(options, 1)


def _least_error(options: list[Option], budget: int) -> float:
    import itertools

    groups = [[o for o in options if o.unit == unit] for unit in "abcd"]
    fitting = [c for c in itertools.product(*groups) if sum(o.size_bytes for o in c) <= budget]
    return min(sum(o.error for o in c) for c in fitting)


def test_sqnr_grows_about_six_decibels_a_bit() -> None:
    model = small_model()
    rows = {
        bits: measure_sqnr(model, quantize_model(model, clips(1), recipe("minmax", bits)).model, clips(1))
        for bits in ("w4a8", "w6a8")
    }
    low = [r for r in rows["w4a8"] if r.weight_bits == 4]
    high = [r for r in rows["w6a8"] if r.weight_bits == 6]
    gain = np.mean([b.weight_db - a.weight_db for a, b in zip(low, high)])
    assert 11 < gain < 14
    assert low[0].name in sqnr_markdown(low)


def test_clips_are_cut_evenly_and_prompts_start_theirs(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(30):
        Image.new("RGB", (32, 16), (index, 0, 0)).save(folder / f"{index:03d}.png")
    two = collect_clips([ClipRequest(folder)], clips=2, frames_per_clip=4, stride=3)
    assert [int(frame[0, 0, 0]) for frame in two[0].frames] == [5, 8, 11, 14]
    assert [int(frame[0, 0, 0]) for frame in two[1].frames] == [15, 18, 21, 24]
    prompted = collect_clips([ClipRequest(folder, ((7, (1, 2, 3, 4)),))], 1, 4, 3)
    assert prompted[0].box_xyxy == (1, 2, 3, 4)
    assert int(prompted[0].frames[0][0, 0, 0]) == 7
    with pytest.raises(QuantizationError, match="at least one video"):
        collect_clips([])


def test_a_proposed_box_lies_inside_the_picture() -> None:
    x0, y0, x1, y1 = propose_box(small_model(), clips(1)[0].frames[0])
    assert 0 <= x0 < x1 <= 64
    assert 0 <= y0 < y1 <= 48
