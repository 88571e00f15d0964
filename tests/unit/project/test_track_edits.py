"""Moving masks between objects: split, merge, swap, and a propagation as one step of undo."""

from __future__ import annotations

import numpy as np
import pytest

from app.project import Project, ProjectError, edits, track_edits
from app.project.model import MaskSource
from app.project.propagation import PropagationPass
from qcore import masks
from qcore.masks import Rle
from qcore.tracking.types import MaskResult, Prompt


def box(x: int) -> Rle:
    mask = np.zeros((12, 16), np.uint8)
    mask[2:6, x : x + 4] = 1
    return masks.encode(mask)


def found(project: Project, object_id: int) -> dict[int, Rle]:
    every = (project.mask(f, object_id) for f in range(project.video.frame_count))
    return {mask.frame_index: mask.rle for mask in every if mask is not None}


@pytest.fixture
def pair(project: Project) -> Project:
    """Object 1 on frames 0-5, object 2 on frames 3-8, each with a prompt on its first frame."""
    project.apply(edits.add_object(project, "dog"))
    project.apply(edits.add_object(project, "cat"))
    for number, frames in ((1, range(6)), (2, range(3, 9))):
        results = [MaskResult(f, number, box(number * 3), 0.9, 0.9) for f in frames]
        project.apply(edits.store_results(project, results))
        project.apply(edits.set_prompt(project, Prompt(frames[0], number, ((4.0, 4.0),), (1,))))
    return project


def test_splitting_gives_the_rest_to_a_new_object(pair: Project) -> None:
    change = track_edits.split_object(pair, 2, 5)
    pair.apply(change)
    assert set(found(pair, 2)) == {3, 4}
    assert set(found(pair, 3)) == {5, 6, 7, 8}
    assert pair.objects[3].color not in (pair.objects[1].color, pair.objects[2].color)
    pair.apply(change.inverted())
    assert set(found(pair, 2)) == set(range(3, 9)) and list(pair.objects) == [1, 2]


def test_merging_unites_masks_where_both_have_one(pair: Project) -> None:
    change = track_edits.merge_objects(pair, 1, 2)
    pair.apply(change)
    assert list(pair.objects) == [1]
    both = masks.encode(masks.decode(box(3)) | masks.decode(box(6)))
    expected = {f: box(3) for f in range(3)} | dict.fromkeys((3, 4, 5), both) | {f: box(6) for f in (6, 7, 8)}
    assert found(pair, 1) == expected
    assert [p.frame_index for p in pair.prompts(1)] == [0, 3]
    pair.apply(change.inverted())
    assert found(pair, 2) == {f: box(6) for f in range(3, 9)}


def test_swapping_exchanges_masks_and_prompts_of_a_range(pair: Project) -> None:
    change = track_edits.swap_objects(pair, 1, 2, 3, 4)
    pair.apply(change)
    assert found(pair, 1) == {0: box(3), 1: box(3), 2: box(3), 3: box(6), 4: box(6), 5: box(3)}
    assert found(pair, 2) == {3: box(3), 4: box(3), 5: box(6), 6: box(6), 7: box(6), 8: box(6)}
    assert [p.frame_index for p in pair.prompts(1)] == [0, 3]
    assert pair.prompts(2) == []
    pair.apply(change.inverted())
    assert found(pair, 1) == {f: box(3) for f in range(6)}
    assert [p.frame_index for p in pair.prompts(2)] == [3]


def test_locked_objects_are_neither_split_nor_merged_nor_swapped(pair: Project) -> None:
    pair.apply(edits.set_locked(pair, 2, True))
    with pytest.raises(ProjectError, match="cat is locked"):
        track_edits.split_object(pair, 2, 5)
    with pytest.raises(ProjectError, match="cat is locked"):
        track_edits.merge_objects(pair, 1, 2)
    with pytest.raises(ProjectError, match="cat is locked"):
        track_edits.swap_objects(pair, 1, 2)


def test_copying_a_mask_makes_protected_edits(pair: Project) -> None:
    pair.apply(edits.copy_mask(pair, 0, 1, [4, 10]))
    copy = pair.mask(10, 1)
    assert copy is not None and copy.rle == box(3) and copy.source is MaskSource.EDITED
    with pytest.raises(ProjectError, match="dog has no mask on frame 30"):
        edits.copy_mask(pair, 30, 1, [4])


def test_a_pass_is_undone_as_one_step_and_spares_an_edit_made_meanwhile(pair: Project) -> None:
    before = found(pair, 1)
    run = PropagationPass(pair, "Track dog")
    run.store([MaskResult(f, 1, box(9), 0.8, 0.8) for f in range(0, 8)])
    edit = edits.set_mask(pair, 20, 1, box(1))
    pair.apply(edit)
    run.store([MaskResult(f, 1, box(9), 0.8, 0.8) for f in range(8, 30)])
    whole = run.finish()
    assert whole.title == "Track dog"
    assert found(pair, 1) == {f: box(9) for f in range(1, 30)} | {0: box(3), 20: box(1)}
    pair.apply(edit.inverted())
    pair.apply(whole.inverted())
    assert found(pair, 1) == before
