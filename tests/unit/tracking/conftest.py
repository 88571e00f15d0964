"""Models and clips of the tracking tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import FRAME_COUNT, Clip, Upstream, draw_frame

from qcore.models import EmbeddedArch, build_embedded, build_official, load_model, model_spec


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """These models are so small that a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = tmp_path_factory.mktemp("drawn_clip")
    for index in range(FRAME_COUNT):
        Image.fromarray(draw_frame(index)).save(folder / f"{index:05d}.jpg", quality=92)
    frames = [np.array(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]
    return Clip(folder, frames)


@pytest.fixture(scope="session")
def embedded_model() -> SAM2Base:
    return load_model("embedded-fp16", image_size=256)


@pytest.fixture(scope="session")
def tiny_model() -> SAM2Base:
    """The official tiny architecture with random weights at 128 pixels.

    The presence head's last bias is raised: with raw random weights the object would be absent
    everywhere, and empty masks would agree with anything.
    """
    torch.manual_seed(3)
    model = build_official(model_spec("sam2.1_hiera_tiny"), image_size=128).requires_grad_(False)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)
    return model


@pytest.fixture(scope="session")
def micro_model() -> SAM2Base:
    """A compact model small enough for a thousand frames: random weights, 64 pixels."""
    torch.manual_seed(1)
    arch = EmbeddedArch(
        input_size=64,
        d_model=64,
        mem_dim=32,
        memory_layers=1,
        ffn_dim=64,
        fuser_layers=1,
        num_maskmem=7,
        max_object_pointers=16,
    )
    model = build_embedded(arch).eval().requires_grad_(False)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)
    return model


@pytest.fixture(params=["embedded", "tiny"])
def any_model(request: pytest.FixtureRequest) -> SAM2Base:
    return request.getfixturevalue(f"{request.param}_model")


@pytest.fixture
def upstream(clip: Clip) -> Callable[..., Upstream]:
    """Makes `Upstream` predictors for the drawn clip."""

    def make(model: SAM2Base, corrections_condition: bool = True) -> Upstream:
        return Upstream(model, clip.folder, corrections_condition)

    return make
