"""What a user can do to objects, classes, prompts and masks: pure functions from the project to a `Change`.

None of them writes: `project.apply(change)` does, and `project.apply(change.inverted())` takes it back.
Range arguments are frame indices, both ends included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from app.project.changes import Change, Edit, Kind, Record, key_of, make_change
from app.project.errors import ProjectError
from app.project.model import FrameMask, LabelClass, MaskSource, ObjectTrack
from app.project.palette import next_color
from app.project.project import Project
from app.project.store import MAX_CELLS, MAX_OBJECTS
from qcore import masks
from qcore.masks import MaskArray, Rle
from qcore.tracking.types import MaskResult, Prompt

# -- objects -------------------------------------------------------------------------------------------------


def add_object(
    project: Project,
    name: str | None = None,
    class_id: int | None = None,
    color: str | None = None,
    colorblind_safe: bool = False,
    prompt: Prompt | None = None,
) -> Change:
    """A new object with the next free id (`added_id` tells which), name and colour.

    ``prompt``, which names that id, comes with it.
    """
    object_id = project.next_object_id
    count = len(project.objects) + 1
    if count > MAX_OBJECTS or count * project.video.frame_count > MAX_CELLS:
        raise ProjectError(f"A project of {project.video.frame_count} frames cannot hold {count} objects.")
    used = [track.color for track in project.objects.values()]
    track = ObjectTrack(
        object_id, name or f"Object {object_id}", class_id, color or next_color(used, colorblind_safe)
    )
    prompts = [] if prompt is None else [_new(prompt)]
    return make_change(f"Add {track.name}", [_new(track), *prompts])


def added_id(change: Change) -> int:
    """The id of the object (or class) that a change adds."""
    for edit in change.edits:
        if edit.key.kind in (Kind.OBJECT, Kind.CLASS) and edit.before is None:
            return edit.key.number
    raise ValueError("the change adds no object")


def rename_object(project: Project, object_id: int, name: str) -> Change:
    """Give an object another name; an empty name changes nothing."""
    track = _object(project, object_id)
    return _replaced(f"Rename {track.name}", track, replace(track, name=name.strip() or track.name))


def recolor_object(project: Project, object_id: int, color: str) -> Change:
    """Give an object another colour, ``#rrggbb``."""
    track = _object(project, object_id)
    return _replaced(f"Colour of {track.name}", track, replace(track, color=color.lower()))


def set_object_class(project: Project, object_id: int, class_id: int | None) -> Change:
    """Say what an object is; None = unknown."""
    track = _object(project, object_id)
    if class_id is not None and class_id not in project.classes:
        raise ValueError(f"no class {class_id}")
    return _replaced(f"Class of {track.name}", track, replace(track, class_id=class_id))


def set_visible(project: Project, object_id: int, visible: bool) -> Change:
    """Show or hide an object."""
    track = _object(project, object_id)
    return _replaced(f"{'Show' if visible else 'Hide'} {track.name}", track, replace(track, visible=visible))


def set_locked(project: Project, object_id: int, locked: bool) -> Change:
    """Lock an object against edits and tracking, or unlock it."""
    track = _object(project, object_id)
    return _replaced(f"{'Lock' if locked else 'Unlock'} {track.name}", track, replace(track, locked=locked))


def move_object(project: Project, object_id: int, position: int) -> Change:
    """Put an object at ``position`` of the list (0 = topmost); the others keep their order."""
    moved = _object(project, object_id)
    order = [track for track in project.objects.values() if track.object_id != object_id]
    order.insert(max(0, min(position, len(order))), moved)
    count = len(order)
    edits = [
        Edit(key_of(track), track, replace(track, z_order=count - rank)) for rank, track in enumerate(order)
    ]
    return make_change(f"Move {moved.name}", edits)


def remove_object(project: Project, object_id: int) -> Change:
    """Remove an object with its prompts and masks."""
    track = _object(project, object_id)
    edits = [*_without(_masks_between(project, object_id)), *_without(project.prompts(object_id))]
    return make_change(f"Delete {track.name}", [*edits, Edit(key_of(track), track, None)])


# -- classes -------------------------------------------------------------------------------------------------


def add_class(project: Project, name: str, color: str = "#888888") -> Change:
    """A new class with the next free id (`added_id` tells which)."""
    label = LabelClass(project.next_class_id, name.strip() or "class", color.lower())
    return make_change(f"Add class {label.name}", [_new(label)])


def change_class(
    project: Project, class_id: int, name: str | None = None, color: str | None = None
) -> Change:
    """Give a class another name or colour."""
    label = project.classes[class_id]
    changed = replace(label, name=(name or "").strip() or label.name, color=(color or label.color).lower())
    return _replaced(f"Change class {label.name}", label, changed)


def remove_class(project: Project, class_id: int) -> Change:
    """Remove a class; its objects then have none."""
    label = project.classes[class_id]
    members = [track for track in project.objects.values() if track.class_id == class_id]
    edits = [Edit(key_of(track), track, replace(track, class_id=None)) for track in members]
    return make_change(f"Delete class {label.name}", [*edits, Edit(key_of(label), label, None)])


# -- prompts -------------------------------------------------------------------------------------------------


def set_prompt(project: Project, prompt: Prompt, result: MaskResult | None = None) -> Change:
    """Put a prompt in place of the object's old one on that frame, with the mask it gave if known.

    The user just spoke about this frame, so the mask replaces even a protected one. An empty prompt clears.
    """
    if prompt.is_empty:
        return clear_prompts(project, prompt.object_id, prompt.frame_index)
    track = _unlocked(project, prompt.object_id)
    edits = [Edit(key_of(prompt), project.prompt(prompt.frame_index, prompt.object_id), prompt)]
    if result is not None:
        mask = _from_result(result, MaskSource.PROMPT)
        edits.append(Edit(key_of(mask), project.mask(mask.frame_index, mask.object_id), mask))
    return make_change(f"Prompt {track.name}", edits)


def clear_prompts(project: Project, object_id: int, frame_index: int | None = None) -> Change:
    """Remove an object's prompts, of one frame or all, and the masks that are nothing but their answers."""
    track = _unlocked(project, object_id)
    prompts = [p for p in project.prompts(object_id) if frame_index in (None, p.frame_index)]
    answers = [project.mask(p.frame_index, object_id) for p in prompts]
    gone = [m for m in answers if m is not None and m.source is MaskSource.PROMPT and not m.reviewed]
    return make_change(f"Clear prompts of {track.name}", [*_without(prompts), *_without(gone)])


# -- masks ---------------------------------------------------------------------------------------------------


def set_mask(
    project: Project, frame_index: int, object_id: int, rle: Rle, source: MaskSource = MaskSource.EDITED
) -> Change:
    """Give an object a mask by hand: certain, and protected from propagation."""
    track = _unlocked(project, object_id)
    mask = FrameMask(frame_index, object_id, rle, 1.0, 0.0 if rle.is_empty else 1.0, source)
    return make_change(f"Edit {track.name}", [_set(project, mask)])


def mark_absent(project: Project, object_ids: Iterable[int], frames: Sequence[int]) -> Change:
    """Say that objects are not in view on some frames: empty masks by hand, and no prompts there."""
    nothing = masks.empty(project.size)
    names: list[str] = []
    edits: list[Edit] = []
    for object_id in object_ids:
        names.append(_unlocked(project, object_id).name)
        for frame in frames:
            prompt = project.prompt(frame, object_id)
            edits += _without([prompt] if prompt is not None else [])
            edits.append(_set(project, FrameMask(frame, object_id, nothing, 1.0, 0.0, MaskSource.EDITED)))
    return make_change(f"{', '.join(names)} not in view", edits)


def paint(
    project: Project,
    frame_index: int,
    object_id: int,
    patch_xyxy: tuple[int, int, int, int],
    patch_hw: MaskArray,
    erase: bool,
) -> Change:
    """Add a finished brush stroke to a mask, or take it away.

    Args:
        project: the document.
        frame_index: the frame.
        object_id: the object; a mask is started where it has none.
        patch_xyxy: the touched part of the frame, x1 and y1 exclusive; may reach beyond the frame.
        patch_hw: uint8, non-zero where the brush went, of the patch's size.
        erase: take away instead of adding.
    """
    track = _unlocked(project, object_id)
    height, width = project.size
    x0, y0, x1, y1 = patch_xyxy
    if patch_hw.shape != (y1 - y0, x1 - x0):
        raise ValueError(f"patch of {patch_hw.shape} at {patch_xyxy}")
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    title = f"{'Erase' if erase else 'Paint'} {track.name}"
    if left >= right or top >= bottom:
        return Change(title)
    before = project.mask(frame_index, object_id)
    mask_hw = masks.decode(before.rle if before is not None else masks.empty(project.size))
    stroke = patch_hw[top - y0 : bottom - y0, left - x0 : right - x0] != 0
    part = mask_hw[top:bottom, left:right]
    if (part[stroke] == (0 if erase else 1)).all():
        return Change(title)
    part[stroke] = 0 if erase else 1
    rle = masks.encode(mask_hw)
    painted = FrameMask(frame_index, object_id, rle, 1.0, 0.0 if rle.is_empty else 1.0, MaskSource.EDITED)
    return make_change(title, [Edit(key_of(painted), before, painted)])


def accept(
    project: Project, frames: Iterable[int], object_ids: Iterable[int] | None = None, reviewed: bool = True
) -> Change:
    """Accept the masks of frames (or take that back): accepted masks are protected and condition tracking."""
    chosen = list(project.objects) if object_ids is None else list(object_ids)
    edits = []
    for frame_index in frames:
        for object_id in chosen:
            mask = project.mask(frame_index, object_id)
            if mask is not None and mask.reviewed != reviewed:
                edits.append(Edit(key_of(mask), mask, replace(mask, reviewed=reviewed)))
    return make_change("Accept" if reviewed else "Take back acceptance", edits)


def store_results(project: Project, results: Iterable[MaskResult], title: str = "Track") -> Change:
    """Masks found by propagation; protected, prompted and locked ones and removed objects are left alone."""
    edits = []
    for result in results:
        track = project.objects.get(result.object_id)
        if track is None or track.locked or project.index(result.object_id).is_kept(result.frame_index):
            continue
        edits.append(_set(project, _from_result(result, MaskSource.PROPAGATED)))
    return make_change(title, edits)


def remove_masks(
    project: Project,
    object_ids: Iterable[int],
    start: int = 0,
    stop: int | None = None,
    with_prompts: bool = True,
    keep_protected: bool = False,
) -> Change:
    """Remove the masks of objects between two frames: one frame, a range or the whole clip.

    Args:
        project: the document.
        object_ids: whose; locked ones are left alone.
        start: first frame.
        stop: last frame, included; None = the end.
        with_prompts: their prompts too.
        keep_protected: leave accepted, edited, imported and prompted masks and the prompts.
    """
    edits: list[Edit] = []
    for object_id in object_ids:
        if _object(project, object_id).locked:
            continue
        index = project.index(object_id)
        found = _masks_between(project, object_id, start, stop)
        edits += _without(m for m in found if not (keep_protected and index.is_kept(m.frame_index)))
        if with_prompts and not keep_protected:
            last = project.video.frame_count - 1 if stop is None else stop
            edits += _without(p for p in project.prompts(object_id) if start <= p.frame_index <= last)
    return make_change("Delete masks", edits)


def clear_frame(project: Project, frame_index: int, object_ids: Iterable[int] | None = None) -> Change:
    """Remove all masks and prompts of one frame."""
    chosen = list(project.objects) if object_ids is None else list(object_ids)
    change = remove_masks(project, chosen, frame_index, frame_index)
    return replace(change, title=f"Clear frame {frame_index}")


def copy_mask(project: Project, frame_index: int, object_id: int, to_frames: Sequence[int]) -> Change:
    """Put one mask onto other frames of the same object, as an edit."""
    track = _unlocked(project, object_id)
    mask = project.mask(frame_index, object_id)
    if mask is None:
        raise ProjectError(f"{track.name} has no mask on frame {frame_index}.")
    copies = [
        replace(mask, frame_index=frame, source=MaskSource.EDITED, reviewed=False, score=1.0)
        for frame in to_frames
        if frame != frame_index
    ]
    return make_change(f"Copy mask of {track.name}", [_set(project, copy) for copy in copies])


# -- inside --------------------------------------------------------------------------------------------------


def _from_result(result: MaskResult, source: MaskSource) -> FrameMask:
    return FrameMask(
        result.frame_index,
        result.object_id,
        result.rle,
        _probability(result.score),
        _probability(result.presence),
        source,
    )


def _probability(value: float) -> float:
    return min(max(float(value), 0.0), 1.0) if math.isfinite(value) else 0.0


def _object(project: Project, object_id: int) -> ObjectTrack:
    try:
        return project.objects[object_id]
    except KeyError:
        raise ValueError(f"no object {object_id}") from None


def _unlocked(project: Project, object_id: int) -> ObjectTrack:
    track = _object(project, object_id)
    if track.locked:
        raise ProjectError(f"{track.name} is locked.")
    return track


def _new(record: Record) -> Edit:
    return Edit(key_of(record), None, record)


def _replaced(title: str, before: Record, after: Record) -> Change:
    return make_change(title, [Edit(key_of(before), before, after)])


def _set(project: Project, mask: FrameMask) -> Edit:
    return Edit(key_of(mask), project.mask(mask.frame_index, mask.object_id), mask)


def _without(records: Iterable[Record]) -> list[Edit]:
    return [Edit(key_of(record), record, None) for record in records]


def _masks_between(
    project: Project, object_id: int, start: int = 0, stop: int | None = None
) -> Iterator[FrameMask]:
    last = project.video.frame_count - 1 if stop is None else stop
    for frame_index in project.frames_with_mask(object_id).tolist():
        if start <= frame_index <= last:
            mask = project.mask(frame_index, object_id)
            if mask is not None:
                yield mask
