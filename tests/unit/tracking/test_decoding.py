"""Mask logits become masks at video size as upstream's bilinear resize makes them."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import ListSource

from qcore import masks
from qcore.runtime import Precision, lower
from qcore.tracking.decoding import Decoded, mask_result
from qcore.tracking.encoder import FrameEncoder
from qcore.tracking.feature_cache import FeatureCache
from qcore.tracking.preprocess import (
    IMAGENET_STD,
    image_tensor,
    mask_input,
    mask_logits,
    square_picture,
)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 24, 64]))
def test_masks_equal_upstream_s_resize(seed: int, height: int, width: int, side: int) -> None:
    logits = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    decoded = Decoded(logits, logits, torch.zeros(1, 8), torch.full((1, 1), 2.0), 0.75)
    result = mask_result(decoded, 4, 9, (height, width))
    expected = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
    certain = expected.abs() > 1e-5
    found = torch.from_numpy(masks.decode(result.rle)).bool()
    assert torch.equal(found[certain], (expected > 0)[certain])
    assert (result.frame_index, result.object_id, result.score) == (4, 9, 0.75)
    assert abs(result.presence - 1 / (1 + np.exp(-2.0))) < 1e-6


def test_frames_are_prepared_as_upstream_prepares_them() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    resized = np.array(Image.fromarray(frame).resize((64, 64))) / 255.0
    expected = torch.zeros(3, 64, 64)
    expected[:] = torch.from_numpy(resized).permute(2, 0, 1)
    expected -= torch.tensor((0.485, 0.456, 0.406))[:, None, None]
    expected /= torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    found = image_tensor(frame, 64, torch.device("cpu"))
    assert found.shape == (1, 3, 64, 64)
    assert torch.allclose(found[0], expected, rtol=0, atol=1e-6)


def test_a_model_that_rounds_gets_pictures_resized_fast(embedded_model: SAM2Base) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (270, 480, 3), dtype=np.uint8)
    frame.flags.writeable = False  # as the video reader's are
    cpu = torch.device("cpu")
    step_c = 1 / (255 * torch.tensor(IMAGENET_STD)[:, None, None])
    difference = ((image_tensor(frame, 96, cpu, exact=False) - image_tensor(frame, 96, cpu)) / step_c).abs()
    assert difference.max() < 1.01
    assert 0 < (difference > 0.5).float().mean() < 0.02

    def encodes_fast(model: SAM2Base) -> bool:
        encoder = FrameEncoder(model, ListSource([frame]), FeatureCache())
        return not torch.equal(encoder._square(frame), square_picture(frame, model.image_size))

    half, exact = copy.deepcopy(embedded_model).bfloat16(), copy.deepcopy(embedded_model)
    lower(exact, Precision.FP32)
    lowered = copy.deepcopy(embedded_model)
    lower(lowered, Precision.BF16)
    assert [encodes_fast(model) for model in (embedded_model, exact, lowered, half)] == [0, 0, 1, 1]


def test_a_given_mask_becomes_confident_logits() -> None:
    mask = np.zeros((48, 80), np.uint8)
    mask[12:36, 20:60] = 1
    given = mask_input(masks.encode(mask), 64, torch.device("cpu"))
    assert given.shape == (1, 1, 64, 64)
    assert set(given.unique().tolist()) == {0.0, 1.0}
    logits = mask_logits(masks.encode(mask), 64, torch.device("cpu"))
    assert logits.shape == (1, 1, 16, 16)
    assert logits[0, 0, 8, 8] > 9.9
    assert logits[0, 0, 0, 0] < -9.9
