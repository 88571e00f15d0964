"""Exports and imports, one module a format; `FORMATS` lists them for dialogs and the command line. No Qt."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from app.formats import coco, davis, overlay_video, sav, sav_png, yolo, youtube_vis
from app.formats.base import (
    OPTION_SPECS,
    ExportCancelled,
    ExportOptions,
    ExportReport,
    Format,
    FormatError,
    Loss,
    OptionSpec,
    Progress,
    no_progress,
)
from app.formats.reading import load_json
from app.project.imported import Imported
from app.project.project import Project
from app.project.track_edits import MergedImport, merge_imported

_RANGE = ("stride", "start", "stop")
_CHOICE = (*_RANGE, "only_reviewed")
_POLYGONS = ("polygons", "polygon_tolerance_px")

FORMATS: Mapping[str, Format] = {
    entry.id: entry
    for entry in (
        Format(
            sav.ID,
            "SA-V JSON",
            "{stem}_manual.json",
            _RANGE,
            sav.export,
            sav.read,
            default_stride=sav.default_stride,
        ),
        Format(
            coco.ID,
            "COCO JSON",
            "{stem}_coco.json",
            (*_CHOICE, *_POLYGONS, "with_frames"),
            coco.export,
            coco.read,
        ),
        Format(
            davis.ID,
            "DAVIS palette PNG",
            "{stem}_davis",
            (*_CHOICE, "with_frames"),
            davis.export,
            davis.read,
            reads_folder=True,
        ),
        Format(
            sav_png.ID,
            "SA-V val/test PNG",
            "{stem}_sav_png",
            (*_CHOICE, "with_frames"),
            sav_png.export,
            default_stride=sav.default_stride,
        ),
        Format(
            youtube_vis.ID,
            "YouTube-VIS JSON",
            "{stem}_youtube_vis.json",
            (*_CHOICE, "with_frames"),
            youtube_vis.export,
        ),
        Format(
            yolo.ID,
            "YOLO segmentation",
            "{stem}_yolo",
            (*_CHOICE, "polygon_tolerance_px", "with_frames"),
            yolo.export,
        ),
        Format(
            overlay_video.ID,
            "Overlay video (MP4)",
            "{stem}_overlay.mp4",
            (*_CHOICE, "fill_opacity", "outline_px", "names"),
            overlay_video.export,
        ),
    )
}


def dry_run(
    format_id: str,
    project: Project,
    options: ExportOptions | None = None,
    progress: Progress = no_progress,
) -> ExportReport:
    """What an export would hold and lose; nothing of it stays on the disk.

    Raises:
        FormatError: it cannot be written in this format.
    """
    entry = FORMATS[format_id]
    with tempfile.TemporaryDirectory(prefix="qminisam2-") as folder:
        return entry.export(project, Path(folder) / entry.default_name(project.video), options, progress)


def guess_format(path: Path | str) -> str:
    """The id of the format a file or folder to import is in.

    Raises:
        FormatError: it is none that can be imported.
    """
    path = Path(path)
    if path.is_dir():
        return davis.ID
    value = load_json(path)
    if "masklet" in value:
        return sav.ID
    if "annotations" in value and "images" in value:
        return coco.ID
    raise FormatError(f"“{path.name}” is neither SA-V nor COCO.")


def import_into(
    project: Project, path: Path | str, format_id: str | None = None, match_names: bool = False
) -> tuple[Imported, MergedImport]:
    """Read a file and add its objects to a project, as one change that can be undone.

    Args:
        project: the document.
        path: the file or folder.
        format_id: its format; guessed where None.
        match_names: see `merge_imported`.

    Raises:
        FormatError: it cannot be read or was made for another video. Nothing was changed.
        ProjectError: it does not fit into the project, or cannot be saved.
    """
    imported = FORMATS[format_id or guess_format(path)].read(path, project.video)
    merged = merge_imported(project, imported, match_names)
    project.apply(merged.change)
    for key, value in merged.meta.items():
        project.set_meta(key, value)
    return imported, merged


__all__ = [
    "FORMATS",
    "OPTION_SPECS",
    "ExportCancelled",
    "ExportOptions",
    "ExportReport",
    "Format",
    "FormatError",
    "Loss",
    "OptionSpec",
    "dry_run",
    "guess_format",
    "import_into",
]
