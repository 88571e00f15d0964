"""Which frames and objects an export holds, and counting what it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from app.formats.base import ExportOptions, FormatError, Loss, Progress
from app.formats.output import folder_name
from app.project.model import FrameMask, ObjectTrack
from app.project.project import Project
from qcore import __version__

TOOL = "Q-MiniSAM2 Annotator"
NO_CLASS = "object"
"""The class of objects without one, in formats that need one."""


class Selection:
    """The chosen frames and objects of a project.

    Args:
        project: the document.
        options: the user's choice.
        stride: used where the options leave it open.
        every_frame: also frames without any mask (formats with a fixed grid of frames).

    Raises:
        FormatError: an impossible range, or nothing to export.
    """

    def __init__(
        self, project: Project, options: ExportOptions, stride: int = 1, every_frame: bool = False
    ) -> None:
        count = project.video.frame_count
        last = count - 1 if options.stop is None else options.stop
        self.stride = stride if options.stride is None else options.stride
        if not 0 <= options.start <= last < count:
            raise FormatError(
                f"Frames {options.start} to {last} are not a range of this video's {count} frames."
            )
        if self.stride < 1:
            raise FormatError("The step between frames must be at least 1.")
        self.losses: list[Loss] = []
        self._project = project
        grid = np.zeros(count, np.bool_)
        grid[options.start : last + 1 : self.stride] = True
        chosen = [o for o in sorted(project.objects) if options.object_ids is None or o in options.object_ids]
        tracked = {o: project.index(o).source > 0 for o in chosen}
        annotated = np.logical_or.reduce([np.zeros(count, np.bool_), *tracked.values()])
        if not every_frame:
            grid &= annotated
        if options.only_reviewed:
            open_masks = [tracked[o] & ~project.index(o).reviewed for o in chosen]
            accepted = annotated & ~np.logical_or.reduce([np.zeros(count, np.bool_), *open_masks])
            skipped = int((grid & annotated & ~accepted).sum())
            self.add_loss("not_reviewed", skipped, "{n} not accepted are left out", "frame")
            grid &= accepted
        self.frames: list[int] = np.flatnonzero(grid).tolist()
        self.objects: list[ObjectTrack] = [
            project.objects[o] for o in chosen if (project.index(o).area[grid] > 0).any()
        ]
        """By id; those seen on at least one of the frames."""
        unseen = len(chosen) - len(self.objects)
        self.add_loss("never_visible", unseen, "{n} never visible on these frames left out", "object")
        off_grid = sum(int((tracked[o] & ~grid).sum()) for o in chosen)
        if off_grid and not options.only_reviewed:
            self.add_loss("skipped_frames", off_grid, "{n} on frames that are not written", "mask")
        if not self.frames or not self.objects:
            raise FormatError("There is nothing to export: no object has a mask on the chosen frames.")
        self._ids = {track.object_id for track in self.objects}

    def __iter__(self) -> Iterator[tuple[int, list[FrameMask]]]:
        """Frame by frame the masks of the chosen objects, topmost first."""
        for frame_index, masks in self._project.iter_masks(self.frames):
            yield frame_index, [mask for mask in masks if mask.object_id in self._ids]

    def with_progress(self, progress: Progress) -> Iterator[tuple[int, list[FrameMask]]]:
        """The same, telling of every frame once it is done."""
        for done, item in enumerate(self):
            progress(done, len(self.frames))
            yield item
        progress(len(self.frames), len(self.frames))

    def add_loss(self, kind: str, count: int, text: str, noun: str) -> None:
        """Note a loss where there is one; ``{n}`` in the text becomes "1 mask" or "5 masks"."""
        if count:
            amount = f"{count:,} {noun}{'' if count == 1 else 's' if noun[-1] != 's' else 'es'}"
            self.losses.append(Loss(kind, count, f"{text.format(n=amount)}."))

    def categories(self) -> tuple[list[dict[str, Any]], dict[int, int]]:
        """Categories as COCO wants them (ids from 1), and the category id of each chosen object."""
        names: dict[str, int] = {}
        of_object = {}
        for track in self.objects:
            label = self._project.classes.get(track.class_id) if track.class_id is not None else None
            name = label.name if label is not None else NO_CLASS
            of_object[track.object_id] = names.setdefault(name, len(names) + 1)
        entries = [{"id": number, "name": name, "supercategory": ""} for name, number in names.items()]
        return entries, of_object


def video_name(project: Project) -> str:
    """The video's name without ending, fit for files."""
    path = Path(project.video.path)
    return folder_name(path.stem if path.suffix else path.name)


def provenance(project: Project) -> dict[str, Any]:
    """Where the masks come from, for every format that can hold it."""
    runs = project.provenance
    latest = runs[-1] if runs else None
    return {
        "tool": TOOL,
        "tool_version": __version__,
        "model": latest.model if latest else None,
        "precision": latest.precision if latest else None,
        "mutual_kv_epsilon": latest.mutual_kv_epsilon if latest else None,
        "runs": [
            {
                "model": run.model,
                "precision": run.precision,
                "mutual_kv_epsilon": run.mutual_kv_epsilon,
                "tool_version": run.tool_version,
            }
            for run in runs
        ],
    }


def objects_json(project: Project, tracks: Iterable[ObjectTrack]) -> list[dict[str, Any]]:
    """Names, classes and colours of objects, for the files beside formats that cannot hold them."""
    found = []
    for track in tracks:
        label = project.classes.get(track.class_id) if track.class_id is not None else None
        found.append(
            {
                "object_id": track.object_id,
                "name": track.name,
                "class": label.name if label else None,
                "color": track.color,
            }
        )
    return found
