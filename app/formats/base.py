"""What all formats share: options, report, errors, and the record by which the program lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.project.imported import Imported
from app.project.model import VideoInfo
from app.project.project import Project
from qcore.video import FrameSource


class FormatError(Exception):
    """A file cannot be exported or imported; the message is one sentence for the user."""


class ExportCancelled(FormatError):  # noqa: N818 - not an error of the file
    """Raise it from a progress callback to stop; what was written so far is removed."""

    def __init__(self) -> None:
        super().__init__("The export was cancelled.")


Progress = Callable[[int, int], object]
"""``progress(done, total)``; may raise `ExportCancelled`."""


def no_progress(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Everything that can be chosen; a format heeds those its `Format.options` names."""

    stride: int | None = None
    """Every n-th frame; None = the format's own habit (1, but 6 a second for SA-V)."""
    start: int = 0
    stop: int | None = None
    """Last frame, included; None = the last of the video."""
    object_ids: tuple[int, ...] | None = None
    """None = all objects."""
    only_reviewed: bool = False
    """Only frames of which every mask is accepted."""
    polygons: bool = False
    """Polygons instead of RLE."""
    polygon_tolerance_px: float = 0.8
    """How far a polygon may stray from the mask's outline; 0 = follow every pixel."""
    with_frames: bool = False
    """Write the frames as JPEG files too."""
    fill_opacity: float = 0.45
    outline_px: int = 2
    names: bool = True
    source: FrameSource | None = None
    """Where frames come from when they are needed; None = the project's video is found and opened."""


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One choice as a dialog or the command line shows it."""

    name: str
    """The field of `ExportOptions`."""
    title: str
    kind: str
    """"bool", "int", "float" or "frames" (two ints: first and last frame)."""
    help: str = ""


OPTION_SPECS: Mapping[str, OptionSpec] = {
    spec.name: spec
    for spec in (
        OptionSpec("stride", "Every n-th frame", "int", "1 writes all frames"),
        OptionSpec("start", "First frame", "int"),
        OptionSpec("stop", "Last frame", "int"),
        OptionSpec("only_reviewed", "Only accepted frames", "bool", "frames of which every mask is accepted"),
        OptionSpec(
            "polygons", "Polygons instead of RLE", "bool", "loses holes and some pixels of the outline"
        ),
        OptionSpec("polygon_tolerance_px", "Polygon tolerance in pixels", "float", "0 follows every pixel"),
        OptionSpec("with_frames", "Write the frames as JPEG", "bool"),
        OptionSpec("fill_opacity", "Opacity of the masks", "float", "0 to 1"),
        OptionSpec("outline_px", "Width of the outline in pixels", "int", "0 for none"),
        OptionSpec("names", "Show names", "bool"),
    )
}


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that the format cannot hold or that was left out."""

    kind: str
    """A stable word for programs, e.g. "overlap"."""
    count: int
    text: str
    """One sentence for the user."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written and what could not be."""

    format_id: str
    path: Path
    """The file or folder asked for."""
    file_count: int
    frame_count: int
    mask_count: int
    """Masks written that are not empty."""
    losses: tuple[Loss, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """Numbers for programs, e.g. ``{"polygon_iou_mean": 0.993}``."""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "format": self.format_id,
            "path": str(self.path),
            "files": self.file_count,
            "frames": self.frame_count,
            "masks": self.mask_count,
            "losses": [{"kind": x.kind, "count": x.count, "text": x.text} for x in self.losses],
            "details": dict(self.details),
        }


Exporter = Callable[[Project, Path, ExportOptions, Progress], ExportReport]
Reader = Callable[[Path, VideoInfo], Imported]


@dataclass(frozen=True, slots=True)
class Format:
    """One format, as the program lists it."""

    id: str
    title: str
    name_pattern: str
    """What to call an export; ``{stem}`` is the video's name. A name without suffix is a folder."""
    options: tuple[str, ...]
    """Fields of `ExportOptions` that it heeds, besides ``object_ids`` and ``source``."""
    exporter: Exporter
    reader: Reader | None = None
    reads_folder: bool = False
    default_stride: Callable[[float], int] = field(default=lambda _fps: 1)
    """Frames from one annotation to the next where the options leave it open, by frames a second."""

    @property
    def suffix(self) -> str:
        """The file's ending with dot; empty for a folder."""
        return Path(self.name_pattern).suffix

    @property
    def is_folder(self) -> bool:
        """True when the export is a folder."""
        return not self.suffix

    @property
    def can_import(self) -> bool:
        """True when files of it can be read."""
        return self.reader is not None

    def default_name(self, video: VideoInfo) -> str:
        """What to call an export of a project of ``video``."""
        return self.name_pattern.format(stem=Path(video.path).stem)

    def export(
        self,
        project: Project,
        path: Path | str,
        options: ExportOptions | None = None,
        progress: Progress = no_progress,
    ) -> ExportReport:
        """Write a project to ``path``; it appears complete or not at all.

        Raises:
            FormatError: it cannot be written in this format or place.
            ExportCancelled: raised by ``progress``.
        """
        return self.exporter(project, Path(path), options or ExportOptions(), progress)

    def read(self, path: Path | str, video: VideoInfo) -> Imported:
        """Read and check a file (or folder) of annotations of ``video``.

        Raises:
            FormatError: it is not of this format, damaged, or made for another video.
        """
        if self.reader is None:
            raise FormatError(f"{self.title} cannot be imported.")
        return self.reader(Path(path), video)
