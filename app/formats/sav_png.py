"""The layout of SA-V's val and test sets: one PNG for every object and frame, so overlaps survive."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from app.formats.base import ExportOptions, ExportReport, Progress
from app.formats.output import MARKER, atomic_folder, frames_of, write_jpeg, write_json, write_png
from app.formats.sav import default_stride
from app.formats.selection import Selection, objects_json, provenance, video_name
from app.project.project import Project
from qcore import masks

ID = "sav_png"


def export(project: Project, path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """Write ``Annotations_6fps/VIDEO/000/00000.png`` and so on; see `Format.export`."""
    chosen = Selection(project, options, default_stride(project.video.fps))
    name = video_name(project)
    written = missing = files = 0
    with ExitStack() as stack:
        target = stack.enter_context(atomic_folder(path))
        source = stack.enter_context(frames_of(project, options)) if options.with_frames else None
        for frame, found in chosen.with_progress(progress):
            by_object = {mask.object_id: mask for mask in found}
            for number, track in enumerate(chosen.objects):
                mask = by_object.get(track.object_id)
                missing += mask is None
                image = np.zeros(project.size, np.uint8) if mask is None else masks.decode(mask.rle)
                place = target / "Annotations_6fps" / name / f"{number:03d}" / f"{frame:05d}.png"
                write_png(place, image, binary=True)
                written += bool(image.any())
                files += 1
            if source is not None:
                write_jpeg(target / "JPEGImages_24fps" / name / f"{frame:05d}.jpg", source[frame])
                files += 1
        (target / "sav_val.txt").write_text(f"{name}\n", encoding="utf-8")
        objects = objects_json(project, chosen.objects)
        for number, entry in enumerate(objects):
            entry["folder"] = f"{number:03d}"
        write_json(target / MARKER, {**provenance(project), "objects": objects})
    chosen.add_loss(
        "unlabelled", missing, "{n} missing (not tracked there) and written as out of view", "mask"
    )
    return ExportReport(ID, path, files + 2, len(chosen.frames), written, tuple(chosen.losses))
