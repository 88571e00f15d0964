"""`qminisam2 import`: read masks of another format into a project."""

from __future__ import annotations

import argparse
from pathlib import Path

from app.cli.console import Console
from app.cli.errors import CommandError
from app.formats import FORMATS, guess_format
from app.project import Project
from app.project.imported import Imported
from app.project.model import VideoInfo
from app.project.track_edits import merge_imported
from app.project.video_link import describe_video
from qcore.video import open_source


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    names = [name for name, chosen in FORMATS.items() if chosen.can_import]
    parser.add_argument("file", type=Path, help="a file or folder of annotations")
    parser.add_argument("--into", type=Path, required=True, metavar="PROJECT", help="the project to add to")
    parser.add_argument("--format", choices=names, help="its format (default: found out)")
    parser.add_argument("--video", type=Path, help="make the project of this video if there is none yet")
    parser.add_argument(
        "--match-names",
        action="store_true",
        help="add to objects of the same name (default: every imported object is a new one)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    if not args.file.exists():
        raise CommandError(f"There is no file or folder {args.file}.")
    is_new = not args.into.exists()
    if is_new and args.video is None:
        raise CommandError(f"There is no project {args.into}: give --video to make one.")
    if is_new:
        with open_source(args.video) as source:
            video = describe_video(source, args.into)
            imported = _read(args.file, args.format, video)
            project = Project.create(args.into, video, source.timestamps)
    else:
        project = Project.open(args.into)
    with project:
        if not is_new:
            imported = _read(args.file, args.format, project.video)
        merged = merge_imported(project, imported, args.match_names)
        project.apply(merged.change)
        for key, value in merged.meta.items():
            project.set_meta(key, value)
        objects = [
            {"id": object_id, "name": project.objects[object_id].name} for object_id in merged.object_ids
        ]
    notes = list(imported.notes)
    if merged.kept_masks:
        notes.append(f"{merged.kept_masks} imported masks gave way to protected ones of the project.")
    console.line(
        f"{FORMATS[imported.format_id].title}: {imported.mask_count} masks of {len(objects)} objects "
        f"were added to {args.into}"
    )
    for note in notes:
        console.line(f"  {note}")
    console.result(
        {
            "format": imported.format_id,
            "project": str(args.into),
            "objects": objects,
            "masks": imported.mask_count,
            "notes": notes,
        }
    )
    return 0


def _read(path: Path, name: str | None, video: VideoInfo) -> Imported:
    return FORMATS[name or guess_format(path)].read(path, video)
