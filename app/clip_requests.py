"""From a project to what calibration wants of it: its video, boxes of its objects, its accepted masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.project.project import Project
from qcore import masks
from qcore.quant.clip_selection import AcceptedObject, Box, ClipRequest

MAX_ACCEPTED = 40
"""Accepted masks that are taken of one object, evenly spread."""


def request_of(project: Project) -> ClipRequest:
    """What to calibrate on, and what to measure the result against. Reads a few masks from the disk.

    Raises:
        ProjectError: the project cannot be read.
    """
    prompts: list[tuple[int, Box]] = []
    accepted: list[AcceptedObject] = []
    for object_id, track in list(project.objects.items()):  # the window may add one meanwhile
        index = project.index(object_id)
        visible = np.flatnonzero(index.area)
        if not len(visible):
            continue
        first = int(visible[0])
        mask = project.mask(first, object_id)
        if mask is not None:
            prompts.append((first, box_of(mask.rle)))
        frames = np.flatnonzero(index.protected())
        if len(frames) > MAX_ACCEPTED:
            frames = frames[np.linspace(0, len(frames) - 1, MAX_ACCEPTED).round().astype(int)]
        found = {int(frame): project.mask(int(frame), object_id) for frame in frames}
        kept = {frame: mask.rle for frame, mask in found.items() if mask is not None}
        if len(kept) > 1:
            accepted.append(AcceptedObject(track.name, kept))
    return ClipRequest(Path(project.video.path), tuple(prompts), tuple(accepted))


def request_of_file(path: Path) -> ClipRequest:
    """The same for a project that is not open.

    Raises:
        ProjectError: the project cannot be read.
    """
    with Project.open(path, read_only=True) as project:
        return request_of(project)


def box_of(rle: masks.Rle) -> Box:
    """The tight box (x0, y0, x1, y1) of a mask that is not empty."""
    ys, xs = np.nonzero(masks.decode(rle))
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
