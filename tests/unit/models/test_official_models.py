"""The four official architectures, built from the `sam2` package's own configurations."""

from __future__ import annotations

import pytest
import torch
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor

from qcore.models import MODELS, ModelError, autocast_of, build_official, load_model
from qcore.models.official import official_specs, recognise_official


def prompted_mask(model: torch.nn.Module) -> torch.Tensor:
    """Mask logits of a box on a fixed picture, then of one tracked frame: float32 (2, S/4, S/4)."""
    size = model.image_size
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    box = {
        "point_coords": torch.tensor([[[size * 0.2, size * 0.3], [size * 0.7, size * 0.8]]]),
        "point_labels": torch.tensor([[2, 3]], dtype=torch.int32),
    }
    outputs: dict[str, dict[int, object]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    masks = []
    with torch.inference_mode():
        features = model._prepare_backbone_features(model.forward_image(image))
        for frame in (0, 1):
            out = model.track_step(
                frame, frame == 0, *features[1:], box if frame == 0 else None, None, outputs, 2
            )
            outputs["cond_frame_outputs"][frame] = out
            masks.append(out["pred_masks"][0, 0].float())
    return torch.stack(masks)


@pytest.mark.parametrize("spec", official_specs(), ids=lambda spec: spec.id)
def test_every_official_architecture_runs_with_random_weights(spec: object) -> None:
    model = build_official(spec, image_size=64)  # type: ignore[arg-type]
    masks = prompted_mask(model)
    assert masks.shape == (2, 16, 16)
    assert torch.isfinite(masks).all()
    assert recognise_official(model.state_dict()) is spec


def test_tiny_computes_what_upstream_s_own_builder_computes() -> None:
    spec = MODELS["sam2.1_hiera_tiny"]
    torch.manual_seed(0)
    ours = build_official(spec, image_size=128)
    theirs = build_sam2_video_predictor(
        spec.config, device="cpu", hydra_overrides_extra=["++model.image_size=128"]
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(prompted_mask(ours), prompted_mask(theirs))
    assert ours.binarize_mask_from_pts_for_mem_enc == theirs.binarize_mask_from_pts_for_mem_enc
    for name in ("stability", "stability_delta", "stability_thresh"):
        attribute = f"dynamic_multimask_{'via_' if name == 'stability' else ''}{name}"
        assert getattr(ours.sam_mask_decoder, attribute) == getattr(theirs.sam_mask_decoder, attribute)


def test_another_class_can_be_built() -> None:
    predictor = build_official(
        MODELS["sam2.1_hiera_tiny"], image_size=64, base=SAM2VideoPredictor, fill_hole_area=0
    )
    assert isinstance(predictor, SAM2VideoPredictor)


@pytest.mark.parametrize("size", [0, 100, 4096, -64])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ModelError, match="input size"):
        build_official(MODELS["sam2.1_hiera_tiny"], image_size=size)


def test_the_embedded_model_is_not_official() -> None:
    with pytest.raises(ModelError, match="not an official"):
        build_official(MODELS["embedded"])


def test_a_bfloat16_model_runs_and_agrees() -> None:
    dtype = torch.bfloat16
    full = load_model("embedded-fp16", image_size=128)
    half = load_model("embedded-fp16", image_size=128, dtype=dtype)
    assert half.memory_encoder.pix_feat_proj.weight.dtype is dtype
    expected = prompted_mask(full) > 0
    with autocast_of(half):
        masks = prompted_mask(half) > 0
    assert expected.any()
    assert ((masks & expected).sum() / (masks | expected).sum()).item() > 0.9


def test_other_types_are_refused() -> None:
    with pytest.raises(ModelError, match="float32, float16 or bfloat16"):
        load_model("embedded-fp16", dtype=torch.int8)
