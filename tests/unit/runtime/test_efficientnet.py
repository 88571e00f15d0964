"""The fused trunk of the embedded model against its plain form."""

from __future__ import annotations

import pytest
import torch

from qcore.models.embedded import EfficientNetLiteTrunk, EmbeddedArch
from qcore.runtime import attention, convolution
from qcore.runtime.efficientnet import FastEfficientNetTrunk
from qcore.runtime.errors import UnsupportedModuleError


@pytest.fixture(params=["lite0", "lite2"])
def trunk(request: pytest.FixtureRequest) -> EfficientNetLiteTrunk:
    torch.manual_seed(0)
    return EfficientNetLiteTrunk(EmbeddedArch(trunk=request.param, feature_rms=(1.0, 1.0, 1.0, 1.0))).eval()


@pytest.mark.parametrize("packed", [True, False])
@torch.inference_mode()
def test_every_level_equals_the_plain_trunk(
    trunk: EfficientNetLiteTrunk, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(convolution, "has_packed_convolution", lambda: False)
    fast = FastEfficientNetTrunk(trunk)
    for side in (64, 96):
        image = torch.randn(2, 3, side, side)
        kept = image.clone()
        for got, want in zip(fast(image), trunk(image), strict=True):
            assert got.shape == want.shape
            assert torch.allclose(got, want, atol=1e-5)
        assert torch.equal(image, kept)


@pytest.mark.skipif(not attention.has_packed_linear(), reason="this build of torch has no oneDNN kernels")
def test_convolutions_are_packed_wherever_linears_are() -> None:
    assert convolution.has_packed_convolution()


@torch.inference_mode()
def test_bf16_stays_near_and_leaves_float32(trunk: EfficientNetLiteTrunk) -> None:
    image = torch.randn(1, 3, 96, 96)
    for got, want in zip(FastEfficientNetTrunk(trunk, torch.bfloat16)(image), trunk(image), strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() / want.norm() < 0.05


def test_replaced_layers_are_refused(trunk: EfficientNetLiteTrunk) -> None:
    trunk.stem = torch.nn.Sequential(trunk.stem)  # type: ignore[assignment]
    with pytest.raises(UnsupportedModuleError):
        FastEfficientNetTrunk(trunk)
