"""Small projects for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.project import Project
from app.project.model import VideoInfo


@pytest.fixture
def video(tmp_path: Path) -> VideoInfo:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"not really a video")
    return VideoInfo(str(clip), "clip.mp4", 16, 12, 25.0, 40, clip.stat().st_size, "fingerprint-of-clip")


@pytest.fixture
def project(tmp_path: Path, video: VideoInfo) -> Iterator[Project]:
    with Project.create(tmp_path / "clip.qmsproj", video) as opened:
        yield opened
