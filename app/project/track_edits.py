"""Edits that move masks between objects: import, split, merge, swap. Pure functions like those of `edits`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.project.changes import Change, Edit, key_of, make_change
from app.project.errors import ProjectError
from app.project.imported import Imported
from app.project.model import FrameMask, LabelClass, MaskSource, ObjectTrack
from app.project.palette import next_color
from app.project.project import Project
from app.project.store import MAX_CELLS, MAX_OBJECTS
from qcore import masks


@dataclass(frozen=True, slots=True)
class MergedImport:
    """What an import does to a project: apply ``change`` (one undo step), then keep ``meta`` with it."""

    change: Change
    object_ids: tuple[int, ...]
    """The project's ids of the imported objects, in the order of the file."""
    meta: Mapping[str, str]
    kept_masks: int
    """Protected masks of the project that stood in the way of imported ones and were kept."""


def merge_imported(project: Project, imported: Imported, match_names: bool = False) -> MergedImport:
    """Add imported objects to a project.

    Args:
        project: the document.
        imported: from an importer, which checked it against this project's video.
        match_names: masks of an object whose name the project has already go to that object, except where its
            own mask is protected; otherwise every imported object becomes a new one.

    Raises:
        ProjectError: more objects than a project holds.
    """
    by_name = {track.name: track for track in project.objects.values()} if match_names else {}
    new_count = sum(source.name not in by_name for source in imported.objects)
    count = len(project.objects) + new_count
    if count > MAX_OBJECTS or count * project.video.frame_count > MAX_CELLS:
        raise ProjectError(f"A project of {project.video.frame_count} frames cannot hold {count} objects.")
    class_edits, class_ids = _classes(project, imported)
    colors = [track.color for track in project.objects.values()]
    edits: list[Edit] = list(class_edits)
    object_ids, meta, kept = [], dict(imported.meta), 0
    next_id = project.next_object_id
    for source in imported.objects:
        track = by_name.get(source.name)
        if track is None:
            color = source.color or next_color(colors)
            class_id = class_ids.get(source.class_name) if source.class_name else None
            track = ObjectTrack(next_id, source.name, class_id, color)
            colors.append(color)
            next_id += 1
            edits.append(Edit(key_of(track), None, track))
        object_ids.append(track.object_id)
        meta.update({f"{key}:{track.object_id}": value for key, value in source.meta.items()})
        index = project.index(track.object_id)
        for mask in source.masks:
            if index.is_kept(mask.frame_index):
                kept += 1
                continue
            after = replace(mask, object_id=track.object_id)
            edits.append(Edit(key_of(after), project.mask(after.frame_index, track.object_id), after))
    change = make_change(f"Import {len(object_ids)} objects", edits)
    return MergedImport(change, tuple(object_ids), meta, kept)


def _classes(project: Project, imported: Imported) -> tuple[list[Edit], dict[str, int]]:
    ids = {label.name: label.class_id for label in project.classes.values()}
    edits = []
    next_id = project.next_class_id
    for name in dict.fromkeys(track.class_name for track in imported.objects):
        if name and name not in ids:
            label = LabelClass(next_id, name)
            ids[name] = next_id
            next_id += 1
            edits.append(Edit(key_of(label), None, label))
    return edits, ids


def split_object(project: Project, object_id: int, frame_index: int) -> Change:
    """Give everything of an object from a frame on to a new object: the tracker had jumped to another one."""
    track = _unlocked(project, object_id)
    used = [other.color for other in project.objects.values()]
    other = replace(
        track, object_id=project.next_object_id, name=f"{track.name} (2)", color=next_color(used), z_order=0
    )
    edits = [Edit(key_of(other), None, other)]
    for frame in project.frames_with_mask(object_id).tolist():
        mask = project.mask(frame, object_id)
        if frame >= frame_index and mask is not None:
            moved = replace(mask, object_id=other.object_id)
            edits += [Edit(key_of(mask), mask, None), Edit(key_of(moved), None, moved)]
    for prompt in project.prompts(object_id):
        if prompt.frame_index >= frame_index:
            given = replace(prompt, object_id=other.object_id)
            edits += [Edit(key_of(prompt), prompt, None), Edit(key_of(given), None, given)]
    return make_change(f"Split {track.name}", edits)


def merge_objects(project: Project, object_id: int, other_id: int) -> Change:
    """Make one object of two: masks of both are united, prompts of the first win, the second is gone."""
    track, other = _unlocked(project, object_id), _unlocked(project, other_id)
    if object_id == other_id:
        raise ValueError("an object cannot be merged with itself")
    edits = []
    for frame in project.frames_with_mask(other_id).tolist():
        mask, own = project.mask(frame, other_id), project.mask(frame, object_id)
        if mask is None:
            continue
        edits.append(Edit(key_of(mask), mask, None))
        united = replace(mask, object_id=object_id) if own is None else _united(own, mask)
        edits.append(Edit(key_of(united), own, united))
    for prompt in project.prompts(other_id):
        edits.append(Edit(key_of(prompt), prompt, None))
        if project.prompt(prompt.frame_index, object_id) is None:
            taken = replace(prompt, object_id=object_id)
            edits.append(Edit(key_of(taken), None, taken))
    edits.append(Edit(key_of(other), other, None))
    return make_change(f"Merge {other.name} into {track.name}", edits)


def _united(own: FrameMask, other: FrameMask) -> FrameMask:
    if other.rle.is_empty:
        return own
    if own.rle.is_empty:
        return replace(other, object_id=own.object_id)
    rle = masks.merge([own.rle, other.rle])
    return replace(own, rle=rle, source=MaskSource.EDITED, reviewed=own.reviewed and other.reviewed)


def swap_objects(
    project: Project, object_id: int, other_id: int, start: int = 0, stop: int | None = None
) -> Change:
    """Exchange masks and prompts of two objects between two frames, both included: they had been mixed up."""
    track, other = _unlocked(project, object_id), _unlocked(project, other_id)
    if object_id == other_id:
        raise ValueError("an object cannot be swapped with itself")
    last = project.video.frame_count - 1 if stop is None else stop
    edits: list[Edit] = []
    for here, there in ((object_id, other_id), (other_id, object_id)):
        for frame in range(start, last + 1):
            before, after = project.mask(frame, here), project.mask(frame, there)
            if before is not None or after is not None:
                given = None if after is None else replace(after, object_id=here)
                edits.append(Edit(key_of(before or given or _never()), before, given))
            asked, asked_there = project.prompt(frame, here), project.prompt(frame, there)
            if asked is not None or asked_there is not None:
                taken = None if asked_there is None else replace(asked_there, object_id=here)
                edits.append(Edit(key_of(asked or taken or _never()), asked, taken))
    return make_change(f"Swap {track.name} and {other.name}", edits)


def _never() -> FrameMask:
    raise AssertionError("one of the two exists")


def _unlocked(project: Project, object_id: int) -> ObjectTrack:
    if object_id not in project.objects:
        raise ValueError(f"no object {object_id}")
    track = project.objects[object_id]
    if track.locked:
        raise ProjectError(f"{track.name} is locked.")
    return track
