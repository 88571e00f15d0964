"""`qminisam2 propagate`: track prompted objects through a video, without a window.

Frames stream in, masks stream into a project file (a temporary one unless ``--project`` is given), and the
formats are written from it, so memory does not grow with the video.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from app.cli.console import Console
from app.cli.errors import CommandError, StoppedError
from app.cli.export import export_into, parse_formats
from app.cli.prompts_file import PromptedObject, read_prompts
from app.cli.tracking import (
    add_feature_cache_option,
    add_model_options,
    feature_store,
    load_for_tracking,
    mutual_kv_settings,
)
from app.project import Edit, Project, edits
from app.project.changes import key_of, make_change
from app.project.model import ObjectTrack, Provenance
from app.project.palette import next_color
from app.project.video_link import VideoMatch, compare_video, describe_video
from qcore import __version__
from qcore.evaluation.memory import peak_rss_bytes
from qcore.tracking.types import Direction, MaskResult
from qcore.video import FrameSource, open_source

_EPILOG = """the prompts file, in pixels of the original frame:
  {"objects": [{"id": 1, "name": "dog", "prompts": [
    {"frame": 0, "box": [x0, y0, x1, y1]},
    {"frame": 0, "points": [[x, y], ...], "labels": [1, 0, ...]},
    {"frame": 40, "mask": COCO RLE, or the path of a PNG beside the file}]}]}
labels: 1 = part of the object, 0 = not. An object may have a "class".

Ctrl-C stops; with --project what is done is kept."""

_BATCH = 16
"""Masks that are handed to the project together."""
_FEATURE_CACHE_BYTES = 64 << 20
"""A single pass comes back to no frame but the prompted ones."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("video", type=Path, help="a video, or a folder of frames")
    parser.add_argument("--prompts", type=Path, required=True, metavar="P.json", help="what to track")
    add_model_options(parser)
    add_feature_cache_option(parser)
    parser.add_argument("--start", type=int, metavar="N", help="first frame in the direction of travel")
    parser.add_argument("--stop", type=int, metavar="N", help="last frame in the direction of travel")
    parser.add_argument(
        "--direction",
        choices=[direction.value for direction in Direction],
        default=Direction.FORWARD.value,
        help="which way to go from the prompts (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the exports")
    parser.add_argument(
        "--format",
        type=parse_formats,
        default=None,
        metavar="A,B",
        help="formats to write into --out (default: sav)",
    )
    parser.add_argument(
        "--project",
        type=Path,
        metavar="F",
        help="keep the work in this project; continued if it exists",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    if args.out is None and args.project is None:
        raise CommandError("Nothing would be kept: give --out for exports, --project for a project, or both.")
    if args.out is None and args.format is not None:
        raise CommandError("--format needs --out, the folder to write into.")
    formats = (args.format or parse_formats("sav")) if args.out is not None else []
    with open_source(args.video) as source:
        _check_span(args.start, args.stop, len(source))
        objects = read_prompts(args.prompts, len(source), source.size)
        # the model before anything is made, so that a wrong one leaves nothing behind
        model, precision = load_for_tracking(args.model, args.device)
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
        with _project(args.project, source) as project:
            project.record_provenance(Provenance(str(args.model), precision, args.mutual_kv, __version__))
            summary = _track(args, console, source, project, objects, model)
            exports = export_into(project, formats, args.out, source, console) if formats else []
    console.result({**summary, "precision": precision, "project": _text(args.project), "exports": exports})
    if args.project is not None:
        console.line(f"The project is {args.project}")
    return 0


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _check_span(start: int | None, stop: int | None, frame_count: int) -> None:
    for name, value in (("--start", start), ("--stop", stop)):
        if value is not None and not 0 <= value < frame_count:
            raise CommandError(f"{name} must be a frame of the video, from 0 to {frame_count - 1}.")


@contextlib.contextmanager
def _project(path: Path | None, source: FrameSource) -> Iterator[Project]:
    """The project to work in: the given one, a new one, or a temporary one."""
    with contextlib.ExitStack() as stack:
        if path is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qminisam2-"))
            path = Path(folder) / f"{Path(source.path).stem}.qmsproj"
        if path.exists():
            project = stack.enter_context(Project.open(path))
            if compare_video(project, source) is not VideoMatch.SAME:
                raise CommandError(f"The project {path} is of another video, {project.video.path}.")
        else:
            project = stack.enter_context(
                Project.create(path, describe_video(source, path), source.timestamps)
            )
        yield project


def _track(
    args: argparse.Namespace,
    console: Console,
    source: FrameSource,
    project: Project,
    objects: list[PromptedObject],
    model: Any,
) -> dict[str, Any]:
    """Prompt and propagate, everything into the project; what is printed about it."""
    # imported here: reading a bad prompts file should not have to wait for torch
    from qcore.tracking.aids import Aids
    from qcore.tracking.session import VideoSession

    _add_objects(project, objects)
    session = VideoSession(
        model,
        source,
        feature_cache_bytes=_FEATURE_CACHE_BYTES,
        mutual_kv=mutual_kv_settings(args.mutual_kv),
        feature_store=feature_store(args.feature_cache, model, args.model, source),
        aids=Aids.for_model(model),
    )
    began = time.perf_counter()
    tally = _Tally(len(source))
    with console.progress(f"Tracking {_count(len(objects), 'object')}", None, "frames") as progress:
        try:
            for item in objects:
                _condition(session, project, item)
            ids = [item.object_id for item in objects]
            results = session.propagate(args.start, args.stop, Direction(args.direction), ids)
            progress.set(0, _frames_ahead(session, args, ids, len(source)))
            with _Store(project, tally) as store:
                for result in results:
                    store.add(result)
                    progress.set(tally.frames)
        except KeyboardInterrupt:
            raise StoppedError(_stopped(args.project, tally)) from None
    seconds = time.perf_counter() - began
    fps = tally.frames / seconds if seconds > 0 else 0.0
    console.line(
        f"Tracked {_count(len(objects), 'object')} over {_count(tally.frames, 'frame')} "
        f"in {seconds:.1f} s ({fps:.1f} frames/s) with {args.model}."
    )
    return {
        "video": str(args.video),
        "video_frames": len(source),
        "model": str(args.model),
        "device": str(next(model.parameters()).device),
        "mutual_kv": "off" if args.mutual_kv is None else args.mutual_kv,
        "objects": [
            {"id": i.object_id, "name": project.objects[i.object_id].name, "masks": tally.masks[i.object_id]}
            for i in objects
        ],
        "frames": tally.frames,
        "seconds": round(seconds, 3),
        "fps": round(fps, 3),
        "peak_rss_mb": round(peak_rss_bytes() / 2**20, 1),
    }


class _Tally:
    """What has been tracked so far."""

    def __init__(self, frame_count: int) -> None:
        self._visited = np.zeros(frame_count, np.bool_)
        self.frames = 0
        self.masks: Counter[int] = Counter()

    def add(self, result: MaskResult) -> None:
        self.frames += 0 if self._visited[result.frame_index] else 1
        self._visited[result.frame_index] = True
        self.masks[result.object_id] += 1


class _Store:
    """Puts results into the project a few at a time; what has come is kept, however the work ends."""

    def __init__(self, project: Project, tally: _Tally) -> None:
        self._project, self._tally = project, tally
        self._waiting: list[MaskResult] = []

    def add(self, result: MaskResult) -> None:
        self._waiting.append(result)
        self._tally.add(result)
        if len(self._waiting) >= _BATCH:
            self._write()

    def _write(self) -> None:
        self._project.apply(edits.store_results(self._project, self._waiting), durable=False)
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        self._project.flush()


def _stopped(project: Path | None, tally: _Tally) -> str:
    if project is None:
        return "Stopped; nothing was kept, because no --project was given."
    return f"Stopped; the masks of {_count(tally.frames, 'frame')} are kept in {project}."


def _add_objects(project: Project, objects: list[PromptedObject]) -> None:
    """Objects of the prompts file that the project lacks, under the ids of the file."""
    for item in objects:
        if item.object_id not in project.objects:
            color = next_color([track.color for track in project.objects.values()])
            track = ObjectTrack(item.object_id, item.name, _class_id(project, item.class_name), color)
            project.apply(make_change(f"Add {item.name}", [Edit(key_of(track), None, track)]))


def _class_id(project: Project, name: str | None) -> int | None:
    """The project's class of that name, made if there is none; None for no name."""
    if name is None:
        return None
    for label in project.classes.values():
        if label.name == name:
            return label.class_id
    change = edits.add_class(project, name)
    project.apply(change)
    return edits.added_id(change)


def _condition(session: Any, project: Project, item: PromptedObject) -> None:
    """Prompt an object in the session and in the project, with what the project knew of it before."""
    object_id = item.object_id
    new = {prompt.frame_index: prompt for prompt in item.prompts}
    for prompt in item.prompts:
        project.apply(edits.set_prompt(project, prompt, session.set_prompt(prompt)))
    for prompt in project.prompts(object_id):
        if prompt.frame_index not in new:
            session.set_prompt(prompt)
    for frame in project.frames_with_mask(object_id).tolist():
        mask = project.mask(frame, object_id) if frame not in new else None
        if mask is not None and mask.is_protected:
            session.protect(frame, object_id, mask.rle)


def _frames_ahead(session: Any, args: argparse.Namespace, ids: list[int], frame_count: int) -> int:
    """How many frames the propagation visits, for the progress display."""
    keys = [frame for object_id in ids for frame in session.keyframes(object_id)]
    first, last = {
        Direction.FORWARD: (min(keys), frame_count - 1),
        Direction.BACKWARD: (max(keys), 0),
        Direction.BOTH: (0, frame_count - 1),
    }[Direction(args.direction)]
    start = first if args.start is None else args.start
    stop = last if args.stop is None else args.stop
    return abs(int(stop) - int(start)) + 1


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
