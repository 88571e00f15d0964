"""Between a project file and its video: describing it, finding it again, telling a changed one.

Also says where the project of a video that has none yet goes.
"""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Protocol

import platformdirs

from app.project.errors import ProjectError
from app.project.model import VideoInfo
from app.project.project import Project

SUFFIX = ".qmsproj"


class Source(Protocol):
    """The part of `qcore.video.FrameSource` that identifies a video."""

    @property
    def path(self) -> Path | str: ...  # noqa: D102

    @property
    def size(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def fps(self) -> float: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def __len__(self) -> int: ...


class VideoMatch(StrEnum):
    """How an opened video compares with the one a project was made for."""

    SAME = "same"
    CHANGED = "changed"
    """Other content, but the masks fit: same frame size and enough frames."""
    UNFIT = "unfit"
    """Other frame size, or it ends before the last mask."""


def describe_video(source: Source, project_path: Path | str) -> VideoInfo:
    """What a project at ``project_path`` keeps of an opened video."""
    path = Path(source.path).absolute()
    height, width = source.size
    return VideoInfo(
        path=str(path),
        relative_path=_relative(path, Path(project_path).absolute().parent),
        width=int(width),
        height=int(height),
        fps=float(source.fps),
        frame_count=len(source),
        size_bytes=_size_bytes(path),
        fingerprint=str(source.fingerprint),
    )


def find_video(project: Project) -> Path | None:
    """Where the project's video is now; None = it has to be located by hand.

    Looks where it lay relative to the project, at its old place and beside the project; a file
    of the remembered size is preferred.
    """
    info, folder = project.video, project.path.parent
    name = Path(info.path).name
    candidates = [Path(info.path), folder / name]
    if info.relative_path is not None:
        candidates.insert(0, folder / PurePosixPath(info.relative_path))
    found = [path for path in candidates if path.exists()]
    same_size = [path for path in found if _size_bytes(path) == info.size_bytes]
    return next(iter(same_size or found), None)


def compare_video(project: Project, source: Source) -> VideoMatch:
    """Tell whether an opened video is the project's."""
    info = project.video
    if tuple(source.size) == project.size and source.fingerprint == info.fingerprint:
        return VideoMatch.SAME
    last_used = max((int(f) for o in project.objects for f in project.frames_with_mask(o)[-1:]), default=-1)
    if tuple(source.size) != project.size or last_used >= len(source):
        return VideoMatch.UNFIT
    return VideoMatch.CHANGED


def default_project_path(video: Path | str) -> Path:
    """A free place for the project of a video: ``NAME.qmsproj`` beside it, numbered where that is taken.

    In the user's data folder where the video's own cannot be written.

    Raises:
        ProjectError: neither can be written.
    """
    video = Path(video).absolute()
    stem = video.name if video.is_dir() else video.stem
    fallback = platformdirs.user_data_path("qminisam2", appauthor=False) / "projects"
    for folder in (video.parent, fallback):
        try:
            if folder is fallback:
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError:
            continue
        number = 1
        while (path := folder / f"{stem}{f'-{number}' if number > 1 else ''}{SUFFIX}").exists():
            number += 1
        return path
    raise ProjectError(f"Neither “{video.parent}” nor “{fallback}” can be written.")


def projects_of(video: Path | str) -> list[Path]:
    """Project files beside a video (or in the user's data folder) that are named after it, newest first."""
    video = Path(video).absolute()
    stem = video.name if video.is_dir() else video.stem
    fallback = platformdirs.user_data_path("qminisam2", appauthor=False) / "projects"
    found = []
    for folder in (video.parent, fallback):
        if folder.is_dir():
            found += [p for p in folder.iterdir() if p.suffix == SUFFIX and _is_named_after(p.stem, stem)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _is_named_after(project_stem: str, video_stem: str) -> bool:
    rest = project_stem.removeprefix(video_stem)
    return project_stem.startswith(video_stem) and (rest == "" or (rest[0] == "-" and rest[1:].isdecimal()))


def _relative(path: Path, folder: Path) -> str | None:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return None


def _size_bytes(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(child.stat().st_size for child in path.iterdir() if child.is_file())
        return path.stat().st_size
    except OSError:
        return 0
