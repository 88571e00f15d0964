"""`qminisam2 export`: write a project's masks in another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from app.cli.console import Console
from app.cli.errors import CommandError
from app.formats import FORMATS, ExportOptions, ExportReport, Format
from app.project import Project
from qcore.video import FrameSource


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("project", type=Path, help="a .qmsproj file")
    parser.add_argument(
        "--format", type=_format, required=True, metavar="F", help=f"one of: {', '.join(FORMATS)}"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="file or folder to write")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (default: 0)")
    parser.add_argument("--stop", type=int, metavar="N", help="last frame, included (default: the last)")
    parser.add_argument("--stride", type=int, metavar="N", help="every N-th frame (default: the format's)")
    parser.add_argument("--objects", type=_ids, metavar="1,2", help="only these objects (default: all)")
    parser.add_argument("--only-reviewed", action="store_true", help="only frames whose masks are accepted")
    parser.add_argument("--polygons", action="store_true", help="polygons instead of RLE")
    parser.add_argument("--with-frames", action="store_true", help="write the frames as JPEG, too")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    with Project.open(_existing(args.project), read_only=True) as project:
        unknown = sorted(set(args.objects or ()) - set(project.objects))
        if unknown:
            raise CommandError(f"The project has no object {unknown[0]}.")
        _check_choices(args)
        options = ExportOptions(
            stride=args.stride,
            start=args.start,
            stop=args.stop,
            object_ids=args.objects,
            only_reviewed=args.only_reviewed,
            polygons=args.polygons,
            with_frames=args.with_frames,
        )
        report = _export(project, args.format, _place(args.format, args.out, project), options, console)
    console.result(report.to_json())
    return 0


def _check_choices(args: argparse.Namespace) -> None:
    """Refuse options that the format would silently ignore."""
    for name in ("stride", "start", "stop", "only_reviewed", "polygons", "with_frames"):
        if getattr(args, name) not in (None, False, 0) and name not in args.format.options:
            option = name.replace("_", "-")
            raise CommandError(f"{args.format.title} has no choice of --{option}.")


def parse_formats(text: str) -> list[Format]:
    """The formats named in a comma-separated list, for `argparse`.

    Raises:
        argparse.ArgumentTypeError: a name is unknown, or there is none.
    """
    formats = [_format(name.strip()) for name in dict.fromkeys(text.split(",")) if name.strip()]
    if not formats:
        raise argparse.ArgumentTypeError("no format is named")
    return formats


def export_into(
    project: Project, formats: list[Format], folder: Path, source: FrameSource, console: Console
) -> list[dict[str, Any]]:
    """Write several formats into a folder under their default names; their reports, JSON-ready."""
    reports = []
    for chosen in formats:
        path = folder / chosen.default_name(project.video)
        reports.append(_export(project, chosen, path, ExportOptions(source=source), console).to_json())
    return reports


def _export(
    project: Project, chosen: Format, path: Path, options: ExportOptions, console: Console
) -> ExportReport:
    with console.progress(f"Writing {chosen.title}", None, "frames") as progress:
        report = chosen.export(project, path, options, progress.set)
    files = "" if report.file_count == 1 else f" ({report.file_count} files)"
    console.line(f"{chosen.title}: {report.mask_count} masks on {report.frame_count} frames in {path}{files}")
    for loss in report.losses:
        console.line(f"  {loss}")
    return report


def _place(chosen: Format, out: Path, project: Project) -> Path:
    """``--out`` itself, or a file in it when the format is a file and a folder was named."""
    is_folder = out.is_dir() and not chosen.is_folder
    return out / chosen.default_name(project.video) if is_folder else out


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CommandError(f"There is no project {path}.")
    return path


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise argparse.ArgumentTypeError(f"there is no format {name!r}; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of object ids") from error
