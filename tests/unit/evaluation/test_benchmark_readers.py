"""Readers of DAVIS and SA-V folders, and the prompts made from true masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_folders import SIZE, save_jpeg, save_png, square, write_davis, write_sav
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcore.evaluation import EvaluationError, PromptKind
from qcore.evaluation.datasets import davis_sequences, read_index_map, sav_sequences
from qcore.evaluation.prompts import make_prompt
from qcore.masks import decode


@pytest.mark.parametrize("level", ["", "480p"])
def test_davis_with_several_objects(level: str, tmp_path: Path) -> None:
    truth = write_davis(tmp_path, objects=(1, 2, 3), frames=4, level=level)
    (sequence,) = davis_sequences(tmp_path)
    assert sequence.name == "squares" and sequence.objects == (1, 2, 3) and sequence.frame_count == 4
    assert sequence.annotated_frames(2) == (0, 1, 2, 3)
    for t in (3, 0, 1):
        masks = sequence.truth(t)
        assert set(masks) == {1, 2, 3}
        assert all(np.array_equal(masks[obj], truth[t][obj]) for obj in masks)


def test_davis_2016_files_hold_one_object(tmp_path: Path) -> None:
    truth = write_davis(tmp_path, objects=(1,), binary=True)
    (sequence,) = davis_sequences(tmp_path)
    assert sequence.objects == (1,)
    assert np.array_equal(sequence.truth(2)[1], truth[2][1])


def test_255_beside_objects_is_no_object(tmp_path: Path) -> None:
    write_davis(tmp_path, frames=3)
    values = np.zeros(SIZE, np.uint8)
    values[:4], values[10:20] = 255, 2
    save_png(tmp_path / "Annotations" / "squares" / "00000.png", values, palette=True)
    (sequence,) = davis_sequences(tmp_path)
    assert sequence.objects == (2,)


def test_frames_without_annotation_are_not_annotated(tmp_path: Path) -> None:
    write_davis(tmp_path, frames=8)
    for t in (1, 2, 5):
        (tmp_path / "Annotations" / "squares" / f"{t:05d}.png").unlink()
    (sequence,) = davis_sequences(tmp_path)
    assert sequence.annotated_frames(1) == (0, 3, 4, 6, 7) and sequence.frame_count == 8


def test_sequences_come_in_the_order_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_davis(tmp_path, name, frames=3)
    assert [s.name for s in davis_sequences(tmp_path)] == ["a", "b", "c"]
    assert [s.name for s in davis_sequences(tmp_path, ["c", "a"])] == ["c", "a"]


def test_sav_folders(tmp_path: Path) -> None:
    truth = write_sav(tmp_path / "sav_val")
    (sequence,) = sav_sequences(tmp_path)
    assert sequence.objects == (0, 1) and sequence.frame_count == 21
    assert sequence.annotated_frames(0) == (0, 4, 8, 12, 16, 20)
    assert sequence.prompt_frame(0) == 0 and sequence.prompt_frame(1) == 8
    for t, masks in truth.items():
        read = sequence.truth(t)
        assert all(np.array_equal(read[obj], masks[obj]) for obj in (0, 1))


@pytest.mark.parametrize("reader", [davis_sequences, sav_sequences])
def test_other_folders_are_refused(reader, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EvaluationError, match="folder: it lacks"):
        reader(tmp_path)


def test_what_does_not_fit_is_refused_with_a_sentence(tmp_path: Path) -> None:
    write_davis(tmp_path, frames=3)
    with pytest.raises(EvaluationError, match="no annotated sequence 'nothing'"):
        davis_sequences(tmp_path, ["nothing"])
    save_png(tmp_path / "Annotations" / "squares" / "00007.png", np.zeros(SIZE, np.uint8), palette=True)
    with pytest.raises(EvaluationError, match="'00007' without a frame"):
        davis_sequences(tmp_path)


def test_an_annotation_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_text("no")
    with pytest.raises(EvaluationError, match=r"'mask\.png' is not a readable PNG"):
        read_index_map(path)


def test_colour_and_one_bit_annotations_are_binary(tmp_path: Path) -> None:
    mask = square(0, 4, 6)
    rgb = np.zeros((*SIZE, 3), np.uint8)
    rgb[mask] = (0, 128, 0)
    save_png(tmp_path / "colour.png", rgb)
    save_png(tmp_path / "bits.png", mask)
    for name in ("colour.png", "bits.png"):
        assert np.array_equal(read_index_map(tmp_path / name), np.where(mask, 255, 0))


@settings(max_examples=100, deadline=None)
@given(mask=hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any))
def test_prompts_describe_the_mask(mask: np.ndarray) -> None:
    box = make_prompt(PromptKind.BOX, mask, 3, 7).box_xyxy
    pixels = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
    assert box == (min(xs), min(ys), max(xs), max(ys))

    click = make_prompt(PromptKind.CLICK, mask, 3, 7)
    outside = [
        (x, y)
        for y in range(-1, mask.shape[0] + 1)
        for x in range(-1, mask.shape[1] + 1)
        if not (0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x])
    ]

    def depth(x: float, y: float) -> float:
        return min((x - u) ** 2 + (y - v) ** 2 for u, v in outside)

    ((x, y),) = click.points_xy
    assert click.labels == (1,) and (x, y) in pixels
    assert depth(x, y) == pytest.approx(max(depth(u, v) for u, v in pixels))

    given_mask = make_prompt(PromptKind.MASK, mask, 3, 7)
    assert given_mask.mask is not None and np.array_equal(decode(given_mask.mask), mask)
    assert (given_mask.frame_index, given_mask.object_id) == (3, 7)


def test_an_empty_mask_makes_no_prompt() -> None:
    with pytest.raises(EvaluationError, match="no pixel"):
        make_prompt(PromptKind.BOX, np.zeros((4, 4)), 0, 1)


def test_an_object_that_never_appears_cannot_be_prompted(tmp_path: Path) -> None:
    for t in range(4):
        save_jpeg(tmp_path / "JPEGImages" / "empty" / f"{t:05d}.jpg", np.zeros((*SIZE, 3), np.uint8))
        save_png(tmp_path / "Annotations" / "empty" / f"{t:05d}.png", np.zeros(SIZE, np.uint8))
    (sequence,) = davis_sequences(tmp_path)
    with pytest.raises(EvaluationError, match="never appears"):
        sequence.prompt_frame(1)
