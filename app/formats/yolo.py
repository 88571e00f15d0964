"""YOLO segmentation: one text file a frame, one line a part of a mask; no holes and no track ids."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from app.formats.base import ExportOptions, ExportReport, Progress
from app.formats.output import MARKER, atomic_folder, frames_of, write_jpeg, write_json
from app.formats.polygon_loss import PolygonLoss
from app.formats.polygons import Polygon
from app.formats.selection import Selection, objects_json, provenance, video_name
from app.project.project import Project

ID = "yolo"


def export(project: Project, path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """Write ``labels/train/VIDEO_00000.txt`` and so on, and ``data.yaml``; see `Format.export`."""
    chosen = Selection(project, options)
    categories, category_of = chosen.categories()
    name, lost = video_name(project), PolygonLoss(project.size, options.polygon_tolerance_px)
    written = parts = 0
    with ExitStack() as stack:
        target = stack.enter_context(atomic_folder(path))
        source = stack.enter_context(frames_of(project, options)) if options.with_frames else None
        labels = target / "labels" / "train"
        labels.mkdir(parents=True)
        (target / "images" / "train").mkdir(parents=True)
        for frame, found in chosen.with_progress(progress):
            lines = []
            for mask in sorted(found, key=lambda m: m.object_id):
                if mask.rle.is_empty:
                    continue
                polygons = lost.polygons_of(mask.rle)
                lines += [_line(category_of[mask.object_id] - 1, p, project.size) for p in polygons]
                written += 1
                parts += len(polygons) - 1
            (labels / f"{name}_{frame:05d}.txt").write_text("".join(lines), encoding="ascii")
            if source is not None:
                write_jpeg(target / "images" / "train" / f"{name}_{frame:05d}.jpg", source[frame])
        names = "".join(f"  {c['id'] - 1}: {json.dumps(c['name'])}\n" for c in categories)
        text = f"path: .\ntrain: images/train\nval: images/train\nnames:\n{names}"
        (target / "data.yaml").write_text(text, encoding="utf-8")
        write_json(target / MARKER, {**provenance(project), "objects": objects_json(project, chosen.objects)})
    chosen.add_loss(
        "track_ids", len(chosen.objects), "{n} no longer told apart from others of their class", "track"
    )
    chosen.add_loss("parts", parts, "{n} of masks in several pieces became instances of their own", "part")
    files = 2 + len(chosen.frames) * (2 if options.with_frames else 1)
    losses = (*chosen.losses, *lost.losses())
    return ExportReport(ID, path, files, len(chosen.frames), written, losses, lost.details())


def _line(category: int, polygon: Polygon, size_hw: tuple[int, int]) -> str:
    height, width = size_hw
    shares = np.clip(polygon / (width, height), 0.0, 1.0).reshape(-1)
    return f"{category} {' '.join(f'{share:.6f}' for share in shares)}\n"
