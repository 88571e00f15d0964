"""SA-V: one JSON file a video, masks of all objects on every fourth frame (6 a second of 24).

Masks may overlap; an object that is out of view has an empty mask, never null. What the format has no place
for (names, classes, frame numbers, times) goes under the key ``x_project``, which Meta's own loader ignores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from app.formats.base import ExportOptions, ExportReport, FormatError, Progress
from app.formats.output import atomic_file, write_json
from app.formats.reading import (
    MAX_MASKS,
    MAX_OBJECTS,
    Reader,
    clean_color,
    clean_name,
    clean_share,
    load_json,
)
from app.formats.selection import NO_CLASS, Selection, provenance, video_name
from app.project.imported import Imported, ImportedObject
from app.project.lanes import LaneCell
from app.project.model import FrameMask, MaskSource, ObjectTrack, VideoInfo
from app.project.project import Project
from qcore import masks

ID = "sav"
_SMALL, _MEDIUM = 32**2, 96**2
_ANNOTATIONS_PER_SECOND = 6.0


def default_stride(fps: float) -> int:
    """Frames from one annotation to the next: 6 a second, as in SA-V (4 at 24 frames a second)."""
    return max(1, round(fps / _ANNOTATIONS_PER_SECOND))


def export(project: Project, path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """Write a project as SA-V JSON; see `Format.export`."""
    if options.only_reviewed:
        raise FormatError(
            "SA-V JSON holds a fixed grid of frames, so it cannot leave out frames not accepted."
        )
    chosen = Selection(project, options, default_stride(project.video.fps), every_frame=True)
    if options.stride is None and chosen.stride != 4:
        rates = f"SA-V videos have 24 frames a second, this one {project.video.fps:.4g}"
        chosen.add_loss("stride", chosen.stride, f"{rates}: one of every {{n}} is written", "frame")
    nothing = masks.to_coco(masks.empty(project.size))
    rows: list[list[dict[str, Any]]] = []
    areas: list[list[int]] = []
    scores: list[list[float]] = []
    unlabelled: dict[int, list[int]] = {track.object_id: [] for track in chosen.objects}
    for _, found in chosen.with_progress(progress):
        by_object = {mask.object_id: mask for mask in found}
        row, row_areas, row_scores = [], [], []
        for track in chosen.objects:
            mask = by_object.get(track.object_id)
            if mask is None:
                unlabelled[track.object_id].append(len(rows))
            row.append(nothing if mask is None else masks.to_coco(mask.rle))
            row_areas.append(0 if mask is None else mask.rle.area)
            row_scores.append(0.0 if mask is None else mask.score)
        rows.append(row)
        areas.append(row_areas)
        scores.append(row_scores)
    gaps = sum(len(frames) for frames in unlabelled.values())
    chosen.add_loss("unlabelled", gaps, "{n} missing (not tracked there) and written as out of view", "mask")
    value = _document(project, chosen, rows, np.array(areas), np.array(scores), unlabelled)
    with atomic_file(path) as target:
        write_json(target, value)
    written = int((np.array(areas) > 0).sum())
    return ExportReport(ID, path, 1, len(rows), written, tuple(chosen.losses))


def _document(
    project: Project,
    chosen: Selection,
    rows: list[list[dict[str, Any]]],
    areas_fn: np.ndarray,
    scores_fn: np.ndarray,
    unlabelled: Mapping[int, list[int]],
) -> dict[str, Any]:
    video, tracks = project.video, chosen.objects
    kept = [_kept(project, track) for track in tracks]
    edited = [
        _edited(project, track, chosen.frames) + old.get("edited", 0) for track, old in zip(tracks, kept)
    ]
    kinds = [old.get("type") or _kind(project, track, n) for track, old, n in zip(tracks, kept, edited)]
    visible = areas_fn > 0
    first = [int(np.flatnonzero(column)[0]) for column in visible.T]
    changes = [int(np.count_nonzero(np.diff(column[at:]))) for column, at in zip(visible.T, first)]
    size = [float(areas_fn[visible[:, i], i].mean()) for i in range(len(tracks))]
    old_ids = [old.get("masklet_id") for old in kept]
    ids = old_ids if None not in old_ids and len(set(old_ids)) == len(old_ids) else list(range(len(tracks)))
    whole = _stored(project, ID)
    return {
        "video_id": video_name(project),
        "video_duration": video.frame_count / video.fps if video.fps > 0 else 0.0,
        "video_frame_count": float(video.frame_count),
        "video_height": float(video.height),
        "video_width": float(video.width),
        "video_resolution": float(video.height * video.width),
        "video_environment": whole.get("environment", "Unknown"),
        "video_split": whole.get("split", "Unknown"),
        "masklet": rows,
        "masklet_id": ids,
        "masklet_size_rel": [area / (video.height * video.width) for area in size],
        "masklet_size_abs": size,
        "masklet_size_bucket": [_bucket(area) for area in size],
        "masklet_visibility_changes": changes,
        "masklet_first_appeared_frame": [float(at) for at in first],
        "masklet_frame_count": [len(rows)] * len(tracks),
        "masklet_edited_frame_count": edited,
        "masklet_type": kinds,
        "masklet_stability_score": _stability(scores_fn, kinds),
        "masklet_num": len(tracks),
        "x_project": _extra(project, chosen, unlabelled),
    }


def _bucket(area: float) -> str:
    return "small" if area < _SMALL else "medium" if area < _MEDIUM else "large"


def _edited(project: Project, track: ObjectTrack, frames: list[int]) -> int:
    index = project.index(track.object_id)
    cells = project.lane(track.object_id).cells
    return sum(bool(index.prompted[f]) or cells[f] in (LaneCell.EDITED, LaneCell.PROMPTED) for f in frames)


def _kind(project: Project, track: ObjectTrack, edited: int) -> str:
    return "manual" if edited or project.index(track.object_id).reviewed.any() else "auto"


def _stability(scores_fn: np.ndarray, kinds: list[str]) -> list[Any]:
    """One null a masklet where all are manual, else one score a frame and masklet (null for manual ones)."""
    if all(kind == "manual" for kind in kinds):
        return [None] * len(kinds)
    return [
        [float(score) if kind == "auto" else None for score, kind in zip(row, kinds)] for row in scores_fn
    ]


def _kept(project: Project, track: ObjectTrack) -> dict[str, Any]:
    """What an imported SA-V file said of this object."""
    return _stored(project, f"{ID}:{track.object_id}")


def _stored(project: Project, key: str) -> dict[str, Any]:
    try:
        value = json.loads(project.meta(key, "{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _extra(project: Project, chosen: Selection, unlabelled: Mapping[int, list[int]]) -> dict[str, Any]:
    times = project.timestamps_s
    categories, category_of = chosen.categories()
    return {
        **provenance(project),
        "fps": project.video.fps,
        "frame_stride": chosen.stride,
        "frame_indices": chosen.frames,
        "pts": [float(times[frame]) for frame in chosen.frames],
        "categories": categories,
        "masklet_category_id": [category_of[track.object_id] for track in chosen.objects],
        "masklet_object_id": [track.object_id for track in chosen.objects],
        "masklet_name": [track.name for track in chosen.objects],
        "masklet_color": [track.color for track in chosen.objects],
        "masklet_unlabelled": [unlabelled[track.object_id] for track in chosen.objects],
    }


def read(path: Path, video: VideoInfo) -> Imported:
    """Read SA-V JSON made for ``video``; see `Format.read`."""
    value, reader = load_json(path), Reader(path, "SA-V file")
    rows = reader.items(value, "masklet", video.frame_count)
    count = reader.whole(value.get("masklet_num"), "“masklet_num”", 0, MAX_OBJECTS)
    if count * len(rows) > MAX_MASKS:
        reader.fail("it holds too many masks")
    extra = value.get("x_project")
    extra = extra if isinstance(extra, dict) else {}
    frames = _frames(reader, value, extra, len(rows), video)
    scores = value.get("masklet_stability_score")
    found: list[list[FrameMask]] = [[] for _ in range(count)]
    unlabelled = _unlabelled(extra, count)
    for position, (frame, row) in enumerate(zip(frames, rows, strict=True)):
        if not isinstance(row, list) or len(row) != count:
            reader.fail(f"frame {position} does not have {count} masks")
        for number, entry in enumerate(row):
            if position in unlabelled[number]:
                continue
            rle = reader.mask(entry, video, f"mask {number} of frame {position}")
            score = clean_share(_score(scores, position, number), 1.0)
            presence = 0.0 if rle.is_empty else 1.0
            found[number].append(FrameMask(frame, number + 1, rle, score, presence, MaskSource.IMPORTED))
    objects = tuple(_object(reader, value, extra, number, found[number]) for number in range(count))
    whole = {
        "environment": clean_name(value.get("video_environment"), "Unknown"),
        "split": clean_name(value.get("video_split"), "Unknown"),
    }
    return Imported(ID, objects, meta={ID: json.dumps(whole)})


def _frames(
    reader: Reader, value: Mapping[str, Any], extra: Mapping[str, Any], rows: int, video: VideoInfo
) -> list[int]:
    """The video's frame for every row of masks."""
    stated = extra.get("frame_indices")
    if isinstance(stated, list) and len(stated) == rows:
        frames = [reader.frame(frame, video) for frame in stated]
        if any(b <= a for a, b in pairwise(frames)):
            reader.fail("its frame numbers are not ascending")
        return frames
    total = reader.whole(value.get("video_frame_count"), "“video_frame_count”", 1)
    if total != video.frame_count:
        raise FormatError(
            f"“{reader.name}” was made for a video of {total} frames, but this one has {video.frame_count}."
        )
    strides = (4, *range(1, total + 1))
    stride = next((n for n in strides if -(-total // n) == rows), None)
    if stride is None:
        reader.fail(f"{rows} annotated of {total} frames are not every n-th one")
    return list(range(0, total, stride))


def _unlabelled(extra: Mapping[str, Any], count: int) -> list[set[int]]:
    stated = extra.get("masklet_unlabelled")
    if not isinstance(stated, list) or len(stated) != count:
        return [set() for _ in range(count)]
    return [
        {p for p in found if isinstance(p, int)} if isinstance(found, list) else set() for found in stated
    ]


def _score(scores: Any, position: int, number: int) -> Any:
    row = _at(scores, position)
    return _at(row, number)


def _at(values: Any, position: int) -> Any:
    return values[position] if isinstance(values, list) and position < len(values) else None


def _object(
    reader: Reader, value: Mapping[str, Any], extra: Mapping[str, Any], number: int, found: list[FrameMask]
) -> ImportedObject:
    masklet_id = _at(value.get("masklet_id"), number)
    masklet_id = reader.whole(number if masklet_id is None else masklet_id, "a masklet id")
    kind = _at(value.get("masklet_type"), number)
    edited = _at(value.get("masklet_edited_frame_count"), number)
    kept: dict[str, Any] = {"masklet_id": masklet_id}
    if kind in ("manual", "auto"):
        kept["type"] = kind
    if edited is not None:
        kept["edited"] = reader.whole(edited, "an edited frame count")
    category = _at(extra.get("masklet_category_id"), number)
    names = extra.get("categories")
    entries = [entry for entry in names if isinstance(entry, dict)] if isinstance(names, list) else []
    class_name = next((entry.get("name") for entry in entries if entry.get("id") == category), None)
    return ImportedObject(
        clean_name(_at(extra.get("masklet_name"), number), f"Masklet {masklet_id}"),
        tuple(found),
        None if class_name == NO_CLASS else clean_name(class_name, "") or None,
        clean_color(_at(extra.get("masklet_color"), number)),
        {ID: json.dumps(kept)},
    )
