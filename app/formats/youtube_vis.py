"""YouTube-VIS: one annotation a track, with a mask or null for every frame of the video."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.formats.base import ExportOptions, ExportReport, Progress
from app.formats.output import atomic_file, atomic_folder, frames_of, write_jpeg, write_json
from app.formats.selection import Selection, provenance, video_name
from app.project.project import Project
from qcore import masks

ID = "youtube_vis"


def export(project: Project, path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """Write a project as YouTube-VIS JSON; see `Format.export`."""
    chosen = Selection(project, options)
    name, (height, width) = video_name(project), project.size
    folder = path.with_name(f"{path.stem}_frames") if options.with_frames else None
    categories, category_of = chosen.categories()
    annotations: dict[int, dict[str, Any]] = {
        track.object_id: {
            "id": number,
            "video_id": 1,
            "category_id": category_of[track.object_id],
            "iscrowd": 0,
            "width": width,
            "height": height,
            "segmentations": [],
            "bboxes": [],
            "areas": [],
        }
        for number, track in enumerate(chosen.objects, start=1)
    }
    written = 0
    with ExitStack() as stack:
        source = stack.enter_context(frames_of(project, options)) if folder else None
        staged = stack.enter_context(atomic_folder(folder)) if folder else None
        target = stack.enter_context(atomic_file(path))
        for frame, found in chosen.with_progress(progress):
            by_object = {mask.object_id: mask.rle for mask in found if not mask.rle.is_empty}
            for object_id, entry in annotations.items():
                rle = by_object.get(object_id)
                entry["segmentations"].append(None if rle is None else masks.to_coco(rle))
                entry["bboxes"].append(None if rle is None else list(rle.box_xywh))
                entry["areas"].append(None if rle is None else rle.area)
                written += rle is not None
            if source is not None and staged is not None:
                write_jpeg(staged / f"{frame:05d}.jpg", source[frame])
        value = {
            "info": {"description": name, **provenance(project)},
            "licenses": [],
            "videos": [
                {
                    "id": 1,
                    "width": width,
                    "height": height,
                    "length": len(chosen.frames),
                    "file_names": [f"{folder.name if folder else name}/{f:05d}.jpg" for f in chosen.frames],
                }
            ],
            "categories": categories,
            "annotations": list(annotations.values()),
            "x_project": {
                **provenance(project),
                "fps": project.video.fps,
                "frame_indices": chosen.frames,
                "track_names": [track.name for track in chosen.objects],
                "track_object_ids": [track.object_id for track in chosen.objects],
            },
        }
        write_json(target, value)
        if staged is not None:
            write_json(staged / "qminisam2-export.json", provenance(project))
    files = 1 + (len(chosen.frames) if folder else 0)
    return ExportReport(ID, path, files, len(chosen.frames), written, tuple(chosen.losses))
