"""Small made-up training material: nothing here comes from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from qcore.models.embedded import EmbeddedArch
from qcore.training.pack import PackWriter, TrainingPack

RED, BLUE = (220, 30, 30), (30, 30, 220)


def disc(size: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    """A disc as a mask, 0 or 255."""
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, centre, radius, 255, -1)
    return mask


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> TrainingPack:
    """One photograph with two discs, a moving disc as a clip, a square cut-out, a background."""
    rng = np.random.default_rng(0)
    writer = PackWriter(max_side=128, quality=95)
    noise = rng.integers(90, 160, (128, 128, 3)).astype(np.uint8)
    masks = [disc(128, (40, 40), 25), disc(128, (90, 90), 20)]
    photo = noise.copy()
    photo[masks[0] > 0], photo[masks[1] > 0] = RED, BLUE
    writer.add_image(photo, masks, "made-up")
    track = [disc(128, (30 + 5 * t, 64), 18) for t in range(10)]
    frames = []
    for mask in track:
        frame = noise.copy()
        frame[mask > 0] = RED
        frames.append(frame)
    writer.add_clip("moving", frames, [track], "made-up")
    cutout = np.zeros((64, 64, 4), np.uint8)
    cutout[8:56, 8:56] = (*RED, 255)
    writer.add_cutout(cutout, "made-up")
    writer.add_background(noise, "made-up")
    path = tmp_path_factory.mktemp("pack") / "tiny.qpack"
    writer.write(path)
    return TrainingPack(path)


@pytest.fixture(scope="session")
def tiny_arch() -> EmbeddedArch:
    """The smallest sensible compact model."""
    return EmbeddedArch(
        input_size=64, d_model=64, mem_dim=32, memory_layers=1, ffn_dim=64, num_maskmem=3, fuser_layers=1
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors only lose time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def davis_root(tmp_path: Path) -> Path:
    """Two sequences in DAVIS layout: a square on noise, and a disc on grey."""
    rng = np.random.default_rng(1)
    for name in ("disc", "square"):
        images, labels = tmp_path / "JPEGImages" / name, tmp_path / "Annotations" / name
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for t in range(20):
            mask = np.zeros((96, 128), np.uint8)
            if name == "disc":
                cv2.circle(mask, (60, 50), 14, 255, -1)
            else:
                mask[40:70, 50:80] = 255
            frame = rng.integers(100, 130, (96, 128, 3)).astype(np.uint8)
            frame[mask > 0] = RED
            cv2.imwrite(str(images / f"{t:05d}.jpg"), frame[:, :, ::-1])
            cv2.imwrite(str(labels / f"{t:05d}.png"), mask)
    return tmp_path
