"""Quantizers in real SAM 2 modules: nothing changes while they are off, everything planned changes when
on.
"""

from __future__ import annotations

import pytest
import torch
from quant_models import small_model
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from sam2.modeling.sam.transformer import Attention, RoPEAttention
from torch import nn

from qcore.models import MODELS, build_official
from qcore.quant.affine import QuantizationError
from qcore.quant.attention import quantized_class
from qcore.quant.config import ActivationSpec, Override, QuantConfig, SoftmaxSpec, WeightSpec
from qcore.quant.fake_quantize import (
    ActivationQuantizer,
    Chances,
    QuantizerState,
    TensorQuantizer,
    dropping,
    quantizers,
    set_state,
)
from qcore.quant.insertion import insert
from qcore.quant.layers import QuantizedLayer
from qcore.quant.methods import method
from qcore.quant.softmax_quantizer import LogSoftmaxQuantizer
from qcore.quant.targets import Role, make_plan


def recipe(bits: int = 4, **changes: object) -> QuantConfig:
    return QuantConfig(
        "minmax",
        WeightSpec(bits),
        ActivationSpec(bits),
        SoftmaxSpec(bits),
        **changes,  # type: ignore[arg-type]
    )


def image(size: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_model_with_all_quantizers_off_is_the_original_bit_for_bit() -> None:
    model = small_model()
    quantized = insert(model, recipe())
    ours, theirs = quantized.forward_image(image(64)), model.forward_image(image(64))
    assert all(torch.equal(a, b) for a, b in zip(ours["backbone_fpn"], theirs["backbone_fpn"]))
    memory, pos = torch.randn(2 * 16 + 2, 1, 32), torch.randn(2 * 16 + 2, 1, 32)
    curr, curr_pos = torch.randn(16, 1, 32), torch.randn(16, 1, 32)
    a, b = (m.memory_attention(curr, memory, curr_pos, pos, 2) for m in (quantized, model))
    assert torch.equal(a, b)


@pytest.mark.slow
@torch.no_grad()
def test_the_official_architecture_runs_off_and_on() -> None:
    torch.manual_seed(0)
    model = build_official(MODELS["sam2.1_hiera_tiny"], image_size=128)
    quantized = insert(model, recipe(exempt_bits=None, optional_bits=None))
    x = image(128)
    expected = model.image_encoder(x)["vision_features"]
    assert torch.equal(quantized.image_encoder(x)["vision_features"], expected)
    set_state(quantized.image_encoder, activations=QuantizerState.OBSERVE)
    quantized.image_encoder(x)
    for name, quantizer in quantizers(quantized.image_encoder):
        if isinstance(quantizer, TensorQuantizer):
            assert quantizer.saw_data, name
            quantizer.finish_observing()
    set_state(quantized.image_encoder, activations=QuantizerState.ON)
    rounded = quantized.image_encoder(x)["vision_features"]
    assert rounded.shape == expected.shape
    assert not torch.equal(rounded, expected)


def test_the_plan_covers_every_layer_and_follows_the_exemptions() -> None:
    model = small_model()
    plan = make_plan(model, recipe(exempt_bits=None, optional_bits=8))
    by_name = {layer.name: layer for layer in plan.layers}
    layers = [
        n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]
    assert sorted(by_name) == sorted(layers)
    assert by_name["image_encoder.trunk.stem"].role is Role.EXEMPT
    assert by_name["image_encoder.trunk.stem"].weight_bits is None
    assert by_name["sam_mask_decoder.output_upscaling.3"].role is Role.EXEMPT
    assert by_name["memory_encoder.pix_feat_proj"].weight_bits == 8
    assert by_name["memory_attention.layers.0.linear1"].weight_bits == 4
    attentions = [n for n, m in model.named_modules() if isinstance(m, (Attention, MultiScaleAttention))]
    assert sorted(a.name for a in plan.attentions) == sorted(attentions)
    assert all(name in plan.table() for name in by_name)


def test_what_lies_outside_has_weights_of_one_bit_more_and_inputs_of_eight() -> None:
    model = small_model()
    for bits, weights in (("w4a4", 5), ("w6a6", 7), ("w8a8", 8)):
        by_name = {layer.name: layer for layer in make_plan(model, method("omse", bits)).layers}
        outside = by_name["memory_encoder.pix_feat_proj"]
        assert (outside.weight_bits, outside.activation_bits) == (weights, 8)
        assert by_name["sam_mask_decoder.conv_s0"].weight_bits == 8
    plan = make_plan(model, method("omse", "w4a4", preset="paper"))
    assert all(x.weight_bits is None for x in plan.layers if x.role is not Role.QUANTIZED)


def test_globs_and_overrides_choose_layers_and_typing_errors_are_refused() -> None:
    model = small_model()
    config = recipe(
        exclude=("image_encoder.neck.*",),
        overrides=(Override("image_encoder.trunk.blocks.0.*", 8, 8), Override("*.linear2", None, None)),
    )
    by_name = {layer.name: layer for layer in make_plan(model, config).layers}
    assert by_name["image_encoder.neck.convs.0.conv"].weight_bits is None
    assert by_name["image_encoder.trunk.blocks.0.dw"].weight_bits == 8
    assert by_name["memory_attention.layers.0.linear2"].weight_bits is None
    with pytest.raises(QuantizationError, match="No layer is called"):
        make_plan(model, recipe(exclude=("image_encodr.*",)))


def test_insertion_wraps_exactly_what_the_plan_says_and_leaves_the_original_alone() -> None:
    model = small_model()
    before = {name: type(module) for name, module in model.named_modules()}
    plan = make_plan(model, recipe(exempt_bits=None))
    quantized = insert(model, recipe(exempt_bits=None))
    wrapped = {n for n, m in quantized.named_modules() if isinstance(m, QuantizedLayer)}
    assert wrapped == {layer.name for layer in plan.layers if layer.weight_bits is not None}
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_weights_of_eight_bits_have_their_zero_point_in_the_middle_and_no_others_have() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))
    layer[0].weight.data.add_(0.2)
    layer[1].weight.data.add_(0.2)
    config = recipe(6, overrides=(Override("1", 8, 8),))
    for module in insert(layer, config, make_plan(layer, config)):
        assert isinstance(module, QuantizedLayer)
        quantizer = module.weight_quantizer
        quantizer.observe(module.weight, "mse")
        middle = quantizer.zero_point == 1 << (quantizer.bits - 1)
        assert bool(middle.all()) == (quantizer.bits == 8)
        rounded = quantizer.freeze(module.weight)
        assert float((rounded - module.weight).abs().max()) <= 2 * float(quantizer.scale.max())


def test_attentions_stay_instances_of_their_original_class() -> None:
    quantized = insert(small_model(), recipe())
    cross = quantized.memory_attention.layers[0].cross_attn_image
    assert isinstance(cross, RoPEAttention)
    assert cross.accepts_key_bias
    assert quantized_class(nn.Linear(2, 2)) is None


@torch.no_grad()
def test_a_key_bias_weighs_keys_like_repeating_them() -> None:
    """log 2 on a key = that key twice, the identity Mutual-KV rests on."""
    quantized = insert(small_model(), recipe())
    cross = quantized.memory_attention.layers[0].cross_attn_image
    q, k, v = torch.randn(1, 16, 32), torch.randn(1, 18, 32), torch.randn(1, 18, 32)
    bias = torch.zeros(18)
    bias[-1] = float(torch.log(torch.tensor(2.0)))
    repeated = cross(
        q=q, k=torch.cat([k, k[:, -1:]], 1), v=torch.cat([v, v[:, -1:]], 1), num_k_exclude_rope=3
    )
    assert torch.allclose(cross(q=q, k=k, v=v, num_k_exclude_rope=2, key_bias=bias), repeated, atol=1e-5)


@torch.no_grad()
def test_explicit_products_equal_the_fused_kernel_when_bits_are_plenty() -> None:
    quantized = insert(small_model(), recipe(8))
    attention = quantized.sam_mask_decoder.transformer.final_attn_token_to_image
    q, k = torch.randn(1, 5, 32), torch.randn(1, 40, 32)
    exact = attention(q, k, k)
    set_state(attention, activations=QuantizerState.OBSERVE)
    attention(q, k, k)
    for _, quantizer in quantizers(attention):
        if isinstance(quantizer, TensorQuantizer):
            quantizer.finish_observing()
    set_state(attention, activations=QuantizerState.ON)
    assert float((attention(q, k, k) - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_masks_are_fresh_stretches_in_the_layout_of_what_they_choose_from(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chances, "_POOL", 1000)
    chances = Chances(0.3, torch.Generator().manual_seed(0))
    for shape in ((2, 3, 4, 5), (4, 30, 20, 10)):  # smaller and larger than the pool
        like = torch.zeros(shape, dtype=torch.float16).contiguous(memory_format=layout)
        first, second = chances.draw(like), chances.draw(like)
        assert first.shape == like.shape and first.is_contiguous(memory_format=layout)
        assert set(first.unique().tolist()) == {0.0, 1.0} and not torch.equal(first, second)
        assert abs(float(first.mean()) - 0.3) < 0.1
        a, b = torch.randn(shape), torch.randn(shape)
        assert torch.equal(torch.lerp(a, b, first), torch.where(first.bool(), b, a))


def test_dropping_leaves_elements_alone_and_always_ends() -> None:
    quantizer = ActivationQuantizer(2, "minmax")
    quantizer.state = QuantizerState.OBSERVE
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    quantizer(x)
    quantizer.finish_observing()
    quantizer.state = QuantizerState.ON
    with pytest.raises(RuntimeError), dropping(quantizer, Chances(0.5, torch.Generator().manual_seed(1))):
        kept = float((quantizer(x) == x).float().mean())
        raise RuntimeError
    assert 0.45 < kept < 0.55
    assert quantizer.p_fp == 0.0
    assert float((quantizer(x) == x).float().mean()) < 0.01


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("tau", [1, 2, 4])
@pytest.mark.parametrize("row_scale", [True, False])
def test_log2_probabilities_have_at_most_two_to_the_k_levels(bits: int, tau: int, row_scale: bool) -> None:
    quantizer = LogSoftmaxQuantizer(bits, (tau,), row_scale)
    quantizer.state = QuantizerState.ON
    one_row = torch.cat([torch.logspace(-12, 0, 5000), torch.zeros(3)])[None]
    rounded = quantizer(one_row)
    assert len(torch.unique(rounded)) <= 2**bits
    assert float(rounded[0, -1]) == 0.0
    assert float(rounded.max()) == 1.0


def test_log2_calibration_picks_the_granularity_that_weighs_values_best() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.softmax(torch.randn(1, 2, 64, 12, generator=generator) * 2, -1)
    values = torch.randn(1, 2, 12, 16, generator=generator)
    errors = {}
    for taus in ((1,), (2,), (4,), (1, 2, 4)):
        quantizer = LogSoftmaxQuantizer(4, taus)
        quantizer.state = QuantizerState.OBSERVE
        quantizer(probabilities, values)
        quantizer.finish_observing()
        quantizer.state = QuantizerState.ON
        errors[taus] = float(((quantizer(probabilities) - probabilities) @ values).abs().pow(2.4).mean())
    assert errors[1, 2, 4] <= min(errors[(1,)], errors[(2,)], errors[(4,)]) * 1.05
