"""A project with overlapping objects, holes and gaps, over a real little video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.project import Project, edits
from app.project.model import MaskSource, Provenance, VideoInfo
from app.project.video_link import describe_video
from qcore import masks
from qcore.masks import Rle
from qcore.video import open_source

HEIGHT, WIDTH, FRAMES = 45, 63, 12


def disk(cx: float, cy: float, radius: float, hole: float = 0.0) -> Rle:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = (x - cx) ** 2 + (y - cy) ** 2
    return masks.encode((distance < radius**2) & (distance >= hole**2))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of noise, 63 x 45 pixels: odd on purpose."""
    folder = tmp_path_factory.mktemp("clip") / "clip"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index:05d}.png"), rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    return folder


@pytest.fixture
def video(clip: Path, tmp_path: Path) -> VideoInfo:
    with open_source(clip) as source:
        return describe_video(source, tmp_path / "p.qmsproj")


@pytest.fixture
def project(tmp_path: Path, video: VideoInfo) -> Iterator[Project]:
    """Dog (class animal) with a hole, out of view at the end; ball over the dog at times, without class."""
    with Project.create(tmp_path / "p.qmsproj", video) as opened:
        opened.apply(edits.add_object(opened, "dog", color="#123456"))
        opened.apply(edits.add_object(opened, "ball"))
        opened.apply(edits.add_class(opened, "animal"))
        opened.apply(edits.set_object_class(opened, 1, 1))
        for frame in range(FRAMES):
            rle = disk(20 + frame, 20, 12, hole=4) if frame < 9 else masks.empty((HEIGHT, WIDTH))
            opened.apply(edits.set_mask(opened, frame, 1, rle, MaskSource.PROPAGATED), durable=False)
            if 2 <= frame < 8:
                opened.apply(
                    edits.set_mask(opened, frame, 2, disk(30, 22, 7), MaskSource.PROPAGATED), durable=False
                )
        opened.apply(edits.set_mask(opened, 4, 1, disk(25, 20, 12)))
        opened.apply(edits.accept(opened, [0, 1, 2]))
        opened.record_provenance(Provenance("embedded", "w6a6", 0.94, "1.0"))
        yield opened


@pytest.fixture
def blank(tmp_path: Path, video: VideoInfo) -> Iterator[Project]:
    """An empty project of the same video, to import into."""
    with Project.create(tmp_path / "blank.qmsproj", video) as opened:
        yield opened
