"""Kept position codes are SAM 2's."""

from __future__ import annotations

import torch
from sam2.modeling.position_encoding import PositionEmbeddingSine

from qcore.models import EmbeddedArch, build_embedded
from qcore.runtime import Precision, lower
from qcore.runtime.positions import KeptPositions


def test_codes_equal_sam2_s_for_every_size_and_batch() -> None:
    source = PositionEmbeddingSine(num_pos_feats=16)
    kept = KeptPositions(PositionEmbeddingSine(num_pos_feats=16))
    for _ in range(2):
        for side in range(2, 14):
            for batch in (1, 3):
                features = torch.zeros(batch, 4, side, side + 1)
                assert torch.equal(kept(features), source(features))
    features = torch.zeros(1, 4, 5, 5)
    assert kept(features).data_ptr() == kept(features).data_ptr()
    assert len(kept._known) <= 8


def test_a_lowered_model_keeps_them_and_its_features() -> None:
    torch.manual_seed(0)
    model = build_embedded(EmbeddedArch(input_size=64, d_model=32, mem_dim=32, memory_layers=1, ffn_dim=64))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        want = model.eval().forward_image(image)["vision_pos_enc"]
        lower(model, Precision.FP32)
        lower(model, Precision.FP32)
        got = model.forward_image(image)["vision_pos_enc"]
    positions = model.image_encoder.neck.position_encoding
    assert isinstance(positions, KeptPositions) and isinstance(positions.source, PositionEmbeddingSine)
    assert isinstance(model.memory_encoder.position_encoding, KeptPositions)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
