"""Every edit does what it says, is undone exactly, and survives reopening."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from app.project import Change, Kind, Project, ProjectError, edits
from app.project.lanes import LaneCell
from app.project.model import FrameMask, MaskSource
from app.ui.timeline.view_model import Cell
from qcore import masks
from qcore.masks import Rle
from qcore.tracking.types import MaskResult, Prompt

Snapshot = tuple[object, ...]


def blob(seed: int) -> Rle:
    return masks.encode(np.random.default_rng(seed).random((12, 16)) < 0.4)


def result(frame: int, object_id: int, score: float = 0.8) -> MaskResult:
    return MaskResult(frame, object_id, blob(100 * frame + object_id), score, 0.9)


def snapshot(project: Project) -> Snapshot:
    """Everything the read side shows."""
    found: list[FrameMask] = [m for frame in range(40) for m in project.masks_on(frame)]
    lanes = [
        (a.object_id, a.cells.tobytes(), a.confidence.tobytes(), a.reviewed.tobytes(), a.area.tobytes())
        for a in map(project.lane, project.objects)
    ]
    prompts = [project.prompts(o) for o in project.objects]
    return dict(project.classes), list(project.objects.items()), prompts, found, lanes


def with_two_objects(project: Project) -> tuple[int, int]:
    first = edits.add_object(project, "dog")
    project.apply(first)
    second = edits.add_object(project, "ball")
    project.apply(second)
    return edits.added_id(first), edits.added_id(second)


def test_a_new_object_takes_the_davis_colours_in_turn(project: Project) -> None:
    with_two_objects(project)
    assert [o.color for o in project.objects.values()] == ["#800000", "#008000"]


def test_object_ids_are_never_reused_even_after_reopening(project: Project) -> None:
    _, second = with_two_objects(project)
    project.apply(edits.remove_object(project, second))
    path = project.path
    project.close()
    with Project.open(path) as again:
        assert edits.added_id(edits.add_object(again)) == second + 1


def test_moving_an_object_reorders_the_list_topmost_first(project: Project) -> None:
    first, second = with_two_objects(project)
    assert list(project.objects) == [first, second]
    project.apply(edits.move_object(project, second, 0))
    assert list(project.objects) == [second, first]
    assert project.objects[second].z_order > project.objects[first].z_order


def test_propagation_leaves_protected_prompted_and_locked_masks_alone(project: Project) -> None:
    dog, ball = with_two_objects(project)
    project.apply(edits.store_results(project, [result(f, dog) for f in range(6)]))
    project.apply(edits.accept(project, [1]))
    project.apply(edits.set_mask(project, 2, dog, blob(7)))
    project.apply(edits.set_mask(project, 3, dog, blob(8), MaskSource.IMPORTED))
    project.apply(edits.set_prompt(project, Prompt(4, dog, ((3.0, 4.0),), (1,)), result(4, dog, 0.5)))
    project.apply(edits.set_locked(project, ball, True))
    kept = {frame: project.mask(frame, dog) for frame in (1, 2, 3, 4)}

    again = [MaskResult(f, o, blob(999), 0.1, 0.2) for f in range(6) for o in (dog, ball)]
    project.apply(edits.store_results(project, again))

    assert {frame: project.mask(frame, dog) for frame in kept} == kept
    assert project.frames_with_mask(ball).size == 0
    replaced = [project.mask(frame, dog) for frame in (0, 5)]
    assert [m and m.rle for m in replaced] == [blob(999), blob(999)]


def test_a_brush_stroke_paints_and_erases_only_where_it_went(project: Project) -> None:
    dog, _ = with_two_objects(project)
    stroke = np.zeros((4, 6), np.uint8)
    stroke[1:3, 2:5] = 1
    project.apply(edits.paint(project, 5, dog, (10, 3, 16, 7), stroke, erase=False))
    expected = np.zeros((12, 16), np.uint8)
    expected[4:6, 12:15] = 1
    painted = project.mask(5, dog)
    assert painted is not None
    assert np.array_equal(masks.decode(painted.rle), expected)
    assert painted.source is MaskSource.EDITED

    project.apply(edits.paint(project, 5, dog, (-2, 4, 14, 5), np.ones((1, 16), np.uint8), erase=True))
    expected[4, :14] = 0
    erased = project.mask(5, dog)
    assert erased is not None
    assert np.array_equal(masks.decode(erased.rle), expected)


def test_a_stroke_that_changes_nothing_is_no_undo_step(project: Project) -> None:
    dog, _ = with_two_objects(project)
    assert edits.paint(project, 0, dog, (0, 0, 3, 3), np.ones((3, 3), np.uint8), erase=True).is_empty
    assert edits.paint(project, 0, dog, (50, 50, 53, 53), np.ones((3, 3), np.uint8), erase=False).is_empty


def test_a_locked_object_refuses_edits_with_a_sentence(project: Project) -> None:
    dog, _ = with_two_objects(project)
    project.apply(edits.set_locked(project, dog, True))
    with pytest.raises(ProjectError, match="dog is locked"):
        edits.set_mask(project, 0, dog, blob(1))


def test_clearing_a_prompt_takes_its_answer_along_but_no_other_mask(project: Project) -> None:
    dog, _ = with_two_objects(project)
    project.apply(edits.store_results(project, [result(f, dog) for f in range(4)]))
    project.apply(edits.set_prompt(project, Prompt(2, dog, box_xyxy=(1, 1, 9, 9)), result(2, dog)))
    project.apply(edits.clear_prompts(project, dog, 2))
    assert project.prompt(2, dog) is None
    assert project.frames_with_mask(dog).tolist() == [0, 1, 3]


def test_removing_a_class_keeps_its_objects(project: Project) -> None:
    dog, _ = with_two_objects(project)
    added = edits.add_class(project, "animal")
    project.apply(added)
    project.apply(edits.set_object_class(project, dog, edits.added_id(added)))
    project.apply(edits.remove_class(project, edits.added_id(added)))
    assert project.objects[dog].class_id is None
    assert not project.classes


def test_lanes_tell_what_each_frame_holds(project: Project) -> None:
    dog, _ = with_two_objects(project)
    absent = MaskResult(1, dog, masks.empty((12, 16)), 0.3, 0.1)
    project.apply(edits.store_results(project, [result(0, dog), absent]))
    project.apply(edits.set_mask(project, 2, dog, blob(1)))
    project.apply(edits.set_mask(project, 3, dog, blob(2), MaskSource.IMPORTED))
    project.apply(edits.set_prompt(project, Prompt(4, dog, ((1, 1),), (1,))))
    lane = project.lane(dog)
    expected = [Cell.TRACKED, Cell.ABSENT, Cell.EDITED, Cell.IMPORTED, Cell.PROMPTED, Cell.NONE]
    assert lane.cells[:6].tolist() == expected
    assert lane.confidence[:4].tolist() == pytest.approx([0.72, 0.9, 1.0, 1.0])
    assert np.isnan(lane.confidence[4:]).all()


def test_lane_cells_mean_the_same_to_the_timeline() -> None:
    assert {c.name: int(c) for c in LaneCell} == {c.name: int(c) for c in Cell}


Step = Callable[[Project, random.Random], Change]


def _some_object(project: Project, rng: random.Random) -> int:
    return rng.choice(list(project.objects))


STEPS: list[Step] = [
    lambda p, r: edits.add_object(p),
    lambda p, r: edits.remove_object(p, _some_object(p, r)),
    lambda p, r: edits.rename_object(p, _some_object(p, r), f"n{r.random()}"),
    lambda p, r: edits.recolor_object(p, _some_object(p, r), f"#{r.randrange(1 << 24):06x}"),
    lambda p, r: edits.set_visible(p, _some_object(p, r), r.random() < 0.5),
    lambda p, r: edits.move_object(p, _some_object(p, r), r.randrange(4)),
    lambda p, r: edits.add_class(p, "thing"),
    lambda p, r: edits.set_object_class(p, _some_object(p, r), r.choice([None, *p.classes])),
    lambda p, r: edits.remove_class(p, r.choice(list(p.classes))),
    lambda p, r: edits.set_prompt(
        p, Prompt(f := r.randrange(40), o := _some_object(p, r), ((1, 2),), (1,)), result(f, o)
    ),
    lambda p, r: edits.clear_prompts(p, _some_object(p, r)),
    lambda p, r: edits.set_mask(p, r.randrange(40), _some_object(p, r), blob(r.randrange(99))),
    lambda p, r: edits.paint(
        p, r.randrange(40), _some_object(p, r), (2, 2, 8, 6), np.ones((4, 6), np.uint8), r.random() < 0.3
    ),
    lambda p, r: edits.accept(p, range(0, 40, 3), reviewed=r.random() < 0.7),
    lambda p, r: edits.store_results(
        p, [result(f, o, r.random()) for f in range(r.randrange(40)) for o in p.objects]
    ),
    lambda p, r: edits.remove_masks(
        p, [_some_object(p, r)], r.randrange(20), r.randrange(20, 40), keep_protected=r.random() < 0.5
    ),
    lambda p, r: edits.clear_frame(p, r.randrange(40)),
]


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_edits_is_undone_redone_and_reopened_exactly(project: Project, seed: int) -> None:
    rng = random.Random(seed)
    history: list[tuple[Snapshot, Change]] = []
    for _ in range(40):
        step = rng.choice(STEPS)
        try:
            change = step(project, rng)
        except IndexError:  # nothing to choose from yet
            continue
        before = snapshot(project)
        project.apply(change, durable=rng.random() < 0.5)
        history.append((before, change))
    final = snapshot(project)
    assert len(history) > 20

    for before, change in reversed(history):
        project.apply(change.inverted(), durable=False)
        assert snapshot(project) == before
    for _, change in history:
        project.apply(change)
    assert snapshot(project) == final

    merged = Change("all")
    for _, change in history:
        merged = merged.followed_by(change)
    path = project.path
    project.close()
    with Project.open(path) as again:
        assert snapshot(again) == final
        again.apply(merged.inverted())
        assert snapshot(again) == history[0][0]


def test_listeners_hear_every_change_until_they_leave(project: Project) -> None:
    heard: list[Change] = []
    leave = project.subscribe(heard.append)
    change = edits.add_object(project)
    project.apply(change)
    project.apply(Change("nothing"))
    leave()
    project.apply(change.inverted())
    assert heard == [change]
    assert heard[0].kinds == {Kind.OBJECT}
