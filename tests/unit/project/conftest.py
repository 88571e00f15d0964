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


@pytest.fixture
def unwritable_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which no file can be made, also for an administrator; skipped where there is none."""
    folder = tmp_path / "readonly"
    folder.mkdir()
    folder.chmod(0o555)
    for candidate in (folder, Path("/sys/kernel")):
        try:
            (candidate / "probe").touch()
        except OSError:
            if candidate.is_dir():
                yield candidate
                break
        else:
            (candidate / "probe").unlink()
    else:
        pytest.skip("every folder here can be written")
    folder.chmod(0o755)
