"""The fast neck, memory encoder and mask decoder against the sam2 package's own."""

from __future__ import annotations

import copy

import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.models import EmbeddedArch, build_embedded, build_official, model_spec
from qcore.runtime.channels_last import DoublingConv, PointwiseConv, lower_neck
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.mask_decoder import FastMaskDecoder, KeptGridPositions
from qcore.runtime.memory_encoder import FastMemoryEncoder

SIDE = 128
TOKENS = (SIDE // 16) ** 2


@pytest.fixture(scope="module", params=["embedded", "official"])
def model(request: pytest.FixtureRequest) -> SAM2Base:
    torch.manual_seed(0)
    if request.param == "embedded":
        built: SAM2Base = build_embedded(EmbeddedArch(input_size=SIDE)).eval()
    else:
        built = build_official(model_spec("sam2.1_hiera_tiny"), image_size=SIDE).eval()
    for part in built.modules():  # norms and biases that do nothing would hide mistakes
        for name in ("weight", "bias", "gamma"):
            value = getattr(part, name, None)
            if isinstance(value, Tensor) and value.dim() == 1:
                nn.init.normal_(value, mean=float(name != "bias"), std=0.3)
    return built.requires_grad_(False)


def close(got: Tensor, want: Tensor, limit: float) -> bool:
    return got.shape == want.shape and float((got - want).norm()) <= limit * float(want.norm())


LIMITS = [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)]


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@torch.inference_mode()
def test_the_neck_equals_upstream(model: SAM2Base, dtype: torch.dtype, limit: float) -> None:
    fast = copy.deepcopy(model)
    assert lower_neck(fast, dtype)
    image = torch.randn(1, 3, SIDE, SIDE)
    expected = model.forward_image(image)
    got = fast.forward_image(image)
    for name in ("backbone_fpn", "vision_pos_enc"):
        for ours, theirs in zip(got[name], expected[name], strict=True):
            assert close(ours, theirs, limit)
    assert type(fast.sam_mask_decoder.conv_s0) is type(fast.sam_mask_decoder.conv_s1) is nn.Identity
    assert lower_neck(fast, dtype)
    assert torch.equal(fast.forward_image(image)["backbone_fpn"][0], got["backbone_fpn"][0])


@torch.inference_mode()
def test_levels_that_others_need_are_not_joined_with_the_decoders_convolutions(model: SAM2Base) -> None:
    fast, other = copy.deepcopy(model), copy.deepcopy(model)
    fast.image_encoder.neck.fpn_top_down_levels = other.image_encoder.neck.fpn_top_down_levels = [0, 1, 2, 3]
    lower_neck(fast, torch.float32)
    assert isinstance(fast.sam_mask_decoder.conv_s1, PointwiseConv)
    image = torch.randn(1, 3, SIDE, SIDE)
    for ours, theirs in zip(
        fast.forward_image(image)["backbone_fpn"], other.forward_image(image)["backbone_fpn"], strict=True
    ):
        assert close(ours, theirs, 1e-5)


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@torch.inference_mode()
def test_the_memory_encoder_equals_upstream(model: SAM2Base, dtype: torch.dtype, limit: float) -> None:
    fast = FastMemoryEncoder(model.memory_encoder, dtype, TOKENS)
    features = torch.randn(2, model.hidden_dim, SIDE // 16, SIDE // 16)
    mask = torch.randn(2, 1, SIDE, SIDE) * 5
    for skip in (False, True):
        expected = model.memory_encoder(features, mask, skip_mask_sigmoid=skip)
        got = fast(features, mask, skip_mask_sigmoid=skip)
        assert close(got["vision_features"], expected["vision_features"], limit)
        assert torch.equal(got["vision_pos_enc"][0], expected["vision_pos_enc"][0])


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
@pytest.mark.parametrize("clicks", [0, 1, 5])
@torch.inference_mode()
def test_the_mask_decoder_equals_upstream(
    model: SAM2Base, dtype: torch.dtype, limit: float, clicks: int
) -> None:
    fast = FastMaskDecoder(model.sam_mask_decoder, dtype, TOKENS)
    width, side = model.hidden_dim, SIDE // 16
    torch.manual_seed(clicks)
    arguments = {
        "image_embeddings": torch.randn(1, width, side, side),
        "image_pe": torch.randn(1, width, side, side),
        "sparse_prompt_embeddings": torch.randn(2, clicks, width),
        "dense_prompt_embeddings": torch.randn(2, width, side, side),
        "repeat_image": True,
        "high_res_features": [
            torch.randn(1, width // 8, 4 * side, 4 * side),
            torch.randn(1, width // 4, 2 * side, 2 * side),
        ],
    }
    for several in (False, True):
        expected = model.sam_mask_decoder(**arguments, multimask_output=several)
        got = fast(**arguments, multimask_output=several)
        for ours, theirs in zip(got, expected, strict=True):
            assert close(ours, theirs, limit)


@torch.inference_mode()
def test_grid_positions_equal_upstream_and_are_made_once(model: SAM2Base) -> None:
    source = model.sam_prompt_encoder.pe_layer
    kept = KeptGridPositions(source)
    assert torch.equal(kept((3, 5)), source((3, 5)))
    assert kept((3, 5)) is kept((3, 5))
    for side in range(1, 20):
        kept((side, side))
    assert torch.equal(kept((3, 5)), source((3, 5)))
    points = torch.rand(1, 4, 2) * SIDE
    expected = source.forward_with_coords(points, (SIDE, SIDE))
    assert torch.equal(kept.forward_with_coords(points, (SIDE, SIDE)), expected)


@torch.inference_mode()
def test_a_doubling_convolution_equals_pytorchs() -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(6, 5, 2, 2)
    image = torch.randn(2, 6, 3, 4)
    got = DoublingConv(conv, torch.float32, 12)(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.allclose(got, conv(image), atol=1e-5)


def test_parts_that_are_built_otherwise_are_refused(model: SAM2Base) -> None:
    with pytest.raises(UnsupportedModuleError):
        PointwiseConv.of(nn.Conv2d(4, 4, 3), torch.float32, 1)
    with pytest.raises(UnsupportedModuleError):
        DoublingConv(nn.ConvTranspose2d(4, 4, 4, 4), torch.float32, 1)
    other = copy.deepcopy(model.sam_mask_decoder)
    other.output_upscaling[2] = nn.ReLU()
    with pytest.raises(UnsupportedModuleError):
        FastMaskDecoder(other, torch.float32, TOKENS)
    encoder = copy.deepcopy(model.memory_encoder)
    encoder.fuser.layers[0].act = nn.ReLU()
    with pytest.raises(UnsupportedModuleError):
        FastMemoryEncoder(encoder, torch.float32, TOKENS)
