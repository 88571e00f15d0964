"""A project finds its video after either was moved, and tells a changed one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from app.project import Project, ProjectError, edits, video_link
from app.project.model import VideoInfo
from app.project.video_link import (
    VideoMatch,
    compare_video,
    default_project_path,
    describe_video,
    find_video,
    projects_of,
)
from qcore import masks


@dataclass
class FakeSource:
    """As much of a frame source as this module looks at."""

    path: Path
    size: tuple[int, int] = (12, 16)
    fps: float = 25.0
    fingerprint: str = "fingerprint-of-clip"
    frames: int = 40

    def __len__(self) -> int:
        return self.frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with clips/a.mp4 and a closed project beside `clips`."""
    root = tmp_path / "work"
    (root / "clips").mkdir(parents=True)
    (root / "clips" / "a.mp4").write_bytes(b"video a")
    path = root / "a.qmsproj"
    Project.create(path, describe_video(FakeSource(root / "clips" / "a.mp4"), path)).close()
    return root


def test_a_project_keeps_both_ways_to_its_video(folder: Path) -> None:
    with Project.open(folder / "a.qmsproj") as project:
        video = project.video
    assert video.relative_path == "clips/a.mp4"
    assert video.path == str(folder / "clips" / "a.mp4")
    assert (video.width, video.height, video.frame_count, video.size_bytes) == (16, 12, 40, 7)


def test_a_folder_moved_as_a_whole_keeps_its_video(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    with Project.open(moved / "a.qmsproj") as project:
        assert find_video(project) == moved / "clips" / "a.mp4"


def test_a_project_moved_alone_finds_its_video_at_the_old_place(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "a.qmsproj", tmp_path / "a.qmsproj")
    with Project.open(tmp_path / "a.qmsproj") as project:
        assert find_video(project) == folder / "clips" / "a.mp4"


def test_a_video_moved_beside_the_project_is_found(folder: Path) -> None:
    shutil.move(folder / "clips" / "a.mp4", folder / "a.mp4")
    with Project.open(folder / "a.qmsproj") as project:
        assert find_video(project) == folder / "a.mp4"


def test_of_two_candidates_the_one_of_the_remembered_size_is_taken(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"video a")
    (folder / "clips" / "a.mp4").write_bytes(b"another video of that name")
    with Project.open(folder / "a.qmsproj") as project:
        assert find_video(project) == folder / "a.mp4"


def test_a_deleted_video_is_not_found(folder: Path) -> None:
    (folder / "clips" / "a.mp4").unlink()
    with Project.open(folder / "a.qmsproj") as project:
        assert find_video(project) is None


def test_a_frame_folder_is_a_video_too(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        (frames / f"{i}.png").write_bytes(b"12345")
    video = describe_video(FakeSource(frames), tmp_path / "x.qmsproj")
    assert (video.size_bytes, video.relative_path) == (15, "frames")


def test_a_changed_video_is_told_from_the_same_and_from_one_that_does_not_fit(project: Project) -> None:
    clip = Path(project.video.path)
    assert compare_video(project, FakeSource(clip)) is VideoMatch.SAME
    assert compare_video(project, FakeSource(clip, fingerprint="other")) is VideoMatch.CHANGED
    assert compare_video(project, FakeSource(clip, fingerprint="other", frames=9)) is VideoMatch.CHANGED
    project.apply(edits.add_object(project))
    project.apply(edits.set_mask(project, 20, 1, masks.encode(np.ones((12, 16)))))
    assert compare_video(project, FakeSource(clip, fingerprint="other", frames=9)) is VideoMatch.UNFIT
    assert compare_video(project, FakeSource(clip, size=(16, 12), fingerprint="other")) is VideoMatch.UNFIT


def test_relinking_keeps_masks_and_survives_reopening(project: Project, video: VideoInfo) -> None:
    project.apply(edits.add_object(project))
    project.apply(edits.set_mask(project, 20, 1, masks.encode(np.ones((12, 16)))))
    longer = replace(video, path="/new/place.mp4", frame_count=60, fingerprint="new")
    project.relink(longer, np.arange(60) / 30.0)
    project.apply(edits.set_mask(project, 55, 1, masks.encode(np.ones((12, 16)))))
    project.close()
    with Project.open(project.path) as again:
        assert again.video == longer
        assert again.frames_with_mask(1).tolist() == [20, 55]
        assert again.timestamps_s[59] == pytest.approx(59 / 30)


def test_relinking_to_a_video_the_masks_do_not_fit_is_refused(project: Project, video: VideoInfo) -> None:
    project.apply(edits.add_object(project))
    project.apply(edits.set_mask(project, 20, 1, masks.encode(np.ones((12, 16)))))
    with pytest.raises(ProjectError, match="The masks are 16 x 12 pixels"):
        project.relink(replace(video, width=32))
    with pytest.raises(ProjectError, match=r"Frame 20 is annotated, but .* has only 20 frames"):
        project.relink(replace(video, frame_count=20))
    assert project.video == video


def test_a_new_project_goes_beside_its_video_under_a_free_name(folder: Path) -> None:
    video = folder / "clips" / "a.mp4"
    names = []
    for _ in range(3):
        path = default_project_path(video)
        path.touch()
        names.append(path)
    assert names == [folder / "clips" / n for n in ("a.qmsproj", "a-2.qmsproj", "a-3.qmsproj")]
    (folder / "clips" / "a-b.qmsproj").touch()
    assert set(projects_of(video)) == set(names)


def test_where_the_video_cannot_be_written_beside_the_user_folder_is_used(
    unwritable_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    monkeypatch.setattr(video_link.platformdirs, "user_data_path", lambda *_, **__: data)
    path = default_project_path(unwritable_folder / "a.mp4")
    assert path == data / "projects" / "a.qmsproj"
    path.touch()
    assert projects_of(unwritable_folder / "a.mp4") == [path]

    monkeypatch.setattr(video_link.platformdirs, "user_data_path", lambda *_, **__: unwritable_folder)
    with pytest.raises(ProjectError, match="can be written"):
        default_project_path(unwritable_folder / "a.mp4")
