"""The fast trunk against the sam2 package's own, with random weights of every official shape feature."""

from __future__ import annotations

import pytest
import torch
from sam2.modeling.backbones.hieradet import Hiera

from qcore.runtime import attention, hiera
from qcore.runtime.attention import AttentionWay
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.hiera import FastHiera


def small_trunk(**changes: object) -> Hiera:
    """Two heads at first, window sizes that do not divide the grid, one global block."""
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "embed_dim": 16,
        "num_heads": 2,
        "stages": (1, 2, 3, 1),
        "global_att_blocks": (4,),
        "window_pos_embed_bkg_spatial_size": (7, 7),
        "window_spec": (8, 4, 14, 7),
    }
    trunk = Hiera(**{**settings, **changes}).eval()
    with torch.no_grad():
        torch.nn.init.normal_(trunk.pos_embed)
        torch.nn.init.normal_(trunk.pos_embed_window)
    return trunk


@pytest.mark.parametrize(
    ("side", "global_by_blocks", "packed", "way"),
    [
        (256, False, True, AttentionWay.PACKED),
        (320, True, False, AttentionWay.PACKED),
        (320, False, True, AttentionWay.FUSED),
    ],
)
@torch.inference_mode()
def test_every_stage_equals_upstream(
    side: int, global_by_blocks: bool, packed: bool, way: AttentionWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    if global_by_blocks:
        monkeypatch.setattr(hiera, "SMALL_WINDOW", 100)
    if not packed:
        monkeypatch.setattr(attention, "has_packed_linear", lambda: False)
    trunk = small_trunk()
    image = torch.randn(1, 3, side, side)
    expected = trunk(image)
    exact = FastHiera(trunk, way=way)(image)
    assert [e.shape for e in exact] == [e.shape for e in expected]
    for got, want in zip(exact, expected, strict=True):
        assert (got - want).norm() / want.norm() < 1e-5
    for got, want in zip(FastHiera(trunk, torch.bfloat16, way=way)(image), expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() / want.norm() < 2e-2


@torch.inference_mode()
def test_position_table_follows_a_change_of_size() -> None:
    trunk = small_trunk()
    fast = FastHiera(trunk)
    for side in (256, 512, 256):
        image = torch.randn(1, 3, side, side)
        assert torch.allclose(fast(image)[0], trunk(image)[0], atol=1e-4)


def test_a_trunk_with_other_pooling_is_refused() -> None:
    with pytest.raises(UnsupportedModuleError):
        FastHiera(small_trunk(q_stride=(1, 2)))
