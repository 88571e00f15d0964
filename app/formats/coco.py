"""COCO instances with the video extensions: one image a frame, one annotation a mask, linked by track ids."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from app.formats.base import ExportOptions, ExportReport, FormatError, Progress
from app.formats.output import atomic_file, atomic_folder, frames_of, write_jpeg, write_json
from app.formats.polygon_loss import PolygonLoss
from app.formats.polygons import rasterize
from app.formats.reading import (
    MAX_MASKS,
    MAX_OBJECTS,
    Reader,
    clean_color,
    clean_name,
    clean_share,
    is_number,
    load_json,
)
from app.formats.selection import NO_CLASS, Selection, objects_json, provenance, video_name
from app.project.imported import Imported, ImportedObject
from app.project.model import FrameMask, MaskSource, VideoInfo
from app.project.project import Project
from qcore import masks
from qcore.masks import Rle

ID = "coco"
_MAX_NUMBERS = 200_000
"""Coordinates in one polygon."""


def export(project: Project, path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """Write a project as COCO JSON; see `Format.export`."""
    chosen = Selection(project, options)
    video, name = project.video, video_name(project)
    folder = path.with_name(f"{path.stem}_frames") if options.with_frames else None
    categories, category_of = chosen.categories()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    lost = PolygonLoss(project.size, options.polygon_tolerance_px)
    with ExitStack() as stack:
        source = stack.enter_context(frames_of(project, options)) if folder else None
        staged = stack.enter_context(atomic_folder(folder)) if folder else None
        target = stack.enter_context(atomic_file(path))
        for frame, found in chosen.with_progress(progress):
            file_name = f"{folder.name if folder else name}/{frame:05d}.jpg"
            image_id = len(images) + 1
            images.append(
                {
                    "id": image_id,
                    "file_name": file_name,
                    "width": video.width,
                    "height": video.height,
                    "video_id": 1,
                    "frame_index": frame,
                    "frame_id": frame,
                }
            )
            if source is not None and staged is not None:
                write_jpeg(staged / f"{frame:05d}.jpg", source[frame])
            for mask in sorted(found, key=lambda m: m.object_id):
                if mask.rle.is_empty:
                    continue
                segmentation: Any = masks.to_coco(mask.rle)
                if options.polygons:
                    segmentation = [p.reshape(-1).tolist() for p in lost.polygons_of(mask.rle)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category_of[mask.object_id],
                        "segmentation": segmentation,
                        "area": mask.rle.area,
                        "bbox": list(mask.rle.box_xywh),
                        "iscrowd": 0,
                        "video_id": 1,
                        "track_id": mask.object_id,
                        "attributes": _attributes(project, mask),
                    }
                )
        value = {
            "info": {"description": f"{name}: masks of {len(chosen.objects)} objects", **provenance(project)},
            "licenses": [],
            "videos": [
                {"id": 1, "name": name, "width": video.width, "height": video.height, "fps": video.fps}
                | {"length": video.frame_count}
            ],
            "images": images,
            "annotations": annotations,
            "categories": categories,
            "tracks": [
                {"id": entry["object_id"], "category_id": category_of[entry["object_id"]], "video_id": 1}
                | {"name": entry["name"], "color": entry["color"]}
                for entry in objects_json(project, chosen.objects)
            ],
            "x_project": {**provenance(project), "fps": video.fps, "frame_stride": chosen.stride},
        }
        write_json(target, value)
        if staged is not None:
            write_json(staged / "qminisam2-export.json", provenance(project))
    losses = (*chosen.losses, *(lost.losses() if options.polygons else ()))
    files = 1 + (len(images) if folder else 0)
    details = lost.details() if options.polygons else {}
    return ExportReport(ID, path, files, len(images), len(annotations), losses, details)


def _attributes(project: Project, mask: FrameMask) -> dict[str, Any]:
    return {
        "track_id": mask.object_id,
        "name": project.objects[mask.object_id].name,
        "score": mask.score,
        "source": str(mask.source),
        "reviewed": mask.reviewed,
    }


def read(path: Path, video: VideoInfo) -> Imported:
    """Read COCO JSON made for ``video``; see `Format.read`."""
    value, reader = load_json(path), Reader(path, "COCO file")
    notes: list[str] = []
    frame_of = _frames(reader, value, video)
    names = {}
    for entry in reader.items(value, "categories", 100_000) if "categories" in value else []:
        entry = reader.mapping(entry, "a category")
        if _is_id(entry.get("id")):
            names[entry["id"]] = clean_name(entry.get("name"), "")
    tracks = {}
    for entry in reader.items(value, "tracks", 100_000) if "tracks" in value else []:
        entry = reader.mapping(entry, "a track")
        if _is_id(entry.get("id")):
            tracks[entry["id"]] = entry
    annotations = []
    for entry in reader.items(value, "annotations", MAX_MASKS):
        entry = reader.mapping(entry, "an annotation")
        if not _is_id(entry.get("image_id")):
            reader.fail("an annotation does not say its image")
        if entry["image_id"] in frame_of:
            annotations.append(entry)
    grouped = _grouped(reader, annotations, notes)
    if len(grouped) > MAX_OBJECTS:
        reader.fail(f"it has more than {MAX_OBJECTS} objects")
    objects = []
    for number, (track_id, entries) in enumerate(grouped.items(), start=1):
        by_frame: dict[int, FrameMask] = {}
        for entry in entries:
            mask = _mask(reader, entry, frame_of[entry["image_id"]], number, video)
            before = by_frame.get(mask.frame_index)
            if before is not None:
                notes.append(
                    f"Object {track_id} had two masks on frame {mask.frame_index}, which were united."
                )
                rle = masks.merge([before.rle, mask.rle])
                mask = FrameMask(mask.frame_index, number, rle, mask.score, 1.0, MaskSource.IMPORTED)
            by_frame[mask.frame_index] = mask
        track = tracks.get(track_id, {})
        attributes = entries[0].get("attributes")
        stated = attributes.get("name") if isinstance(attributes, dict) else None
        category = entries[0].get("category_id")
        class_name = (names.get(category) if _is_id(category) else None) or None
        if class_name == NO_CLASS and "x_project" in value:
            class_name = None  # our own stand-in for objects without a class
        objects.append(
            ImportedObject(
                clean_name(track.get("name") or stated, f"{class_name or 'Object'} {number}"),
                tuple(by_frame[frame] for frame in sorted(by_frame)),
                class_name,
                clean_color(track.get("color")),
            )
        )
    return Imported(ID, tuple(objects), tuple(notes[:20]))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _frames(reader: Reader, value: Mapping[str, Any], video: VideoInfo) -> dict[Any, int]:
    """The video's frame for every image id of this video."""
    images = [reader.mapping(image, "an image") for image in reader.items(value, "images", MAX_MASKS)]
    video_ids = {image.get("video_id") for image in images if _is_id(image.get("video_id"))}
    wanted: Any = None
    if len(video_ids) > 1:
        listed = value.get("videos")
        entries = [v for v in listed if isinstance(v, dict)] if isinstance(listed, list) else []
        stem = Path(video.path).stem
        matching = [v.get("id") for v in entries if Path(str(v.get("name"))).stem == stem]
        if len(matching) != 1:
            raise FormatError(f"“{reader.name}” holds {len(video_ids)} videos and none is named “{stem}”.")
        wanted = matching[0]
    frame_of: dict[Any, int] = {}
    for image in images:
        if wanted is not None and image.get("video_id") != wanted:
            continue
        if not _is_id(image.get("id")) or image["id"] in frame_of:
            reader.fail("an image has no id of its own")
        size = image.get("width"), image.get("height")
        if size != (video.width, video.height):
            raise FormatError(
                f"“{reader.name}” does not fit: its images are {_size(size)} pixels, "
                f"but the video is {video.width} x {video.height}."
            )
        stated = image.get("frame_index", image.get("frame_id"))
        if stated is None:
            digits = re.findall(r"\d{1,9}", Path(str(image.get("file_name"))).stem[-100:])
            if not digits:
                raise FormatError(f"“{reader.name}” does not say which frame of the video an image is.")
            stated = int(digits[-1])
        frame_of[image["id"]] = reader.frame(stated, video)
    if len(set(frame_of.values())) != len(frame_of):
        reader.fail("two of its images are the same frame")
    return frame_of


def _size(size: tuple[Any, Any]) -> str:
    return " x ".join(str(side)[:10] for side in size)


def _grouped(reader: Reader, annotations: list[Mapping[str, Any]], notes: list[str]) -> dict[Any, list[Any]]:
    """Annotations by object. Without track ids, a class never seen twice in an image is one object."""
    grouped: dict[Any, list[Any]] = defaultdict(list)
    loose = []
    for entry in annotations:
        attributes = entry.get("attributes")
        inner = attributes.get("track_id") if isinstance(attributes, dict) else None
        track_id = next(
            (i for i in (entry.get("track_id"), inner, entry.get("instance_id")) if _is_id(i)), None
        )
        if track_id is None:
            loose.append(entry)
        else:
            grouped[track_id].append(entry)
    if loose:
        often = Counter((str(e.get("category_id")), e["image_id"]) for e in loose)
        crowded = {category for (category, _), count in often.items() if count > 1}
        for number, entry in enumerate(loose):
            category = str(entry.get("category_id"))
            grouped[("loose", number if category in crowded else category)].append(entry)
        notes.append(
            f"{len(loose)} masks had no track id: a class seen once an image became one object, "
            "every other mask an object of its own."
        )
    return grouped


def _mask(reader: Reader, entry: Mapping[str, Any], frame: int, number: int, video: VideoInfo) -> FrameMask:
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, list):
        rle = _from_polygons(reader, segmentation, video)
    else:
        rle = reader.mask(segmentation, video, "a segmentation")
    attributes = entry.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    score = clean_share(attributes.get("score", entry.get("score")), 1.0)
    reviewed = attributes.get("reviewed") is True
    return FrameMask(frame, number, rle, score, 0.0 if rle.is_empty else 1.0, MaskSource.IMPORTED, reviewed)


def _from_polygons(reader: Reader, polygons: list[Any], video: VideoInfo) -> Rle:
    checked = []
    for polygon in polygons:
        if not isinstance(polygon, list) or not 6 <= len(polygon) <= _MAX_NUMBERS or len(polygon) % 2:
            reader.fail("a polygon does not have three or more points")
        for number in polygon:
            if not is_number(number):
                reader.fail("a polygon has a coordinate that is no number")
        points = np.array(polygon, np.float64).reshape(-1, 2)
        # Rasterizing takes time and memory by a polygon's length, inside the frame or not.
        checked.append(np.clip(points, 0, (video.width, video.height)))
    return rasterize(checked, (video.height, video.width))
