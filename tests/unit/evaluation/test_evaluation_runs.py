"""`evaluate` from folder to figures, with trackers whose scores are known beforehand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from benchmark_folders import SIZE, save_jpeg, save_png, square, write_davis, write_sav

from qcore.evaluation import EvaluationError, EvaluationProgress, boundary_f, evaluate, region_similarity
from qcore.evaluation.datasets import davis_sequences, sav_sequences
from qcore.evaluation.prompts import PromptKind, make_prompt
from qcore.evaluation.runner import evaluate_sequence
from qcore.evaluation.trackers import OpticalFlowTracker
from qcore.masks import encode
from qcore.tracking.types import MaskResult, Prompt
from qcore.video import FrameSource, open_source


class ScriptedTracker:
    """Answers with masks given beforehand: (frame, object) -> mask."""

    def __init__(self, masks: dict[tuple[int, int], np.ndarray]):
        self.masks = masks
        self.prompts: list[Prompt] = []

    def track(self, source: FrameSource, prompts: Sequence[Prompt]) -> Iterator[MaskResult]:
        self.prompts = list(prompts)
        for (frame, object_id), mask in sorted(self.masks.items(), key=lambda item: item[0]):
            yield MaskResult(frame, object_id, encode(mask), 1.0, 1.0)


def test_the_static_mask_scores_what_its_first_mask_scores(tmp_path: Path) -> None:
    truth = write_davis(tmp_path, objects=(1,), binary=True, frames=7)
    report = evaluate("static-mask", "davis", tmp_path)
    expected_j = np.mean([region_similarity(truth[0][1], truth[t][1]) for t in range(1, 6)])
    expected_f = np.mean([boundary_f(truth[0][1], truth[t][1]) for t in range(1, 6)])
    assert report.j == pytest.approx(100 * expected_j)
    assert report.f == pytest.approx(100 * expected_f)
    assert report.jf == pytest.approx(50 * (expected_j + expected_f))
    assert report.j_prompt_frame == 100
    assert report.identity is None and report.prompt == "mask"


def test_optical_flow_follows_a_textured_square_that_the_static_mask_loses(tmp_path: Path) -> None:
    # The camera pans over a soft texture, and the object moves along with it.
    noise = np.random.default_rng(1).integers(0, 256, (96, 192, 3), np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 2)
    for t in range(8):
        save_jpeg(tmp_path / "JPEGImages" / "pan" / f"{t}.jpg", texture[:, 24 - 3 * t : 152 - 3 * t])
        mask = np.zeros((96, 128), np.uint8)
        mask[30:60, 30 + 3 * t : 60 + 3 * t] = 255
        save_png(tmp_path / "Annotations" / "pan" / f"{t}.png", mask)
    static = evaluate("static-mask", "davis", tmp_path)
    moving = evaluate("optical-flow", "davis", tmp_path)
    assert static.j < 65 and moving.j > 90


def test_optical_flow_starts_each_object_on_its_own_frame(tmp_path: Path) -> None:
    write_sav(tmp_path)
    (sequence,) = sav_sequences(tmp_path)
    prompts = [
        make_prompt(PromptKind.MASK, sequence.truth(frame)[obj], frame, obj)
        for obj, frame in ((0, 0), (1, 8))
    ]
    with open_source(sequence.frames) as source:
        results = list(OpticalFlowTracker().track(source, prompts))
    frames = {obj: [r.frame_index for r in results if r.object_id == obj] for obj in (0, 1)}
    assert frames == {0: list(range(21)), 1: list(range(8, 21))}
    first = {obj: next(r for r in results if r.object_id == obj) for obj in (0, 1)}
    assert [first[obj].rle for obj in (0, 1)] == [prompts[0].mask, prompts[1].mask]


def test_first_and_last_annotated_frame_do_not_count(tmp_path: Path) -> None:
    truth = write_davis(tmp_path, objects=(1,), frames=5)
    masks = {(t, 1): truth[t][1] for t in range(1, 4)}
    masks[0, 1] = masks[4, 1] = np.zeros(SIZE, np.bool_)
    (sequence,) = davis_sequences(tmp_path)
    (score,) = evaluate_sequence(ScriptedTracker(masks), sequence, PromptKind.BOX).objects
    assert score.j == score.f == 1 and score.scored_frames == 3
    assert score.j_prompt_frame == 0


def test_a_mask_that_was_not_yielded_is_an_empty_one(tmp_path: Path) -> None:
    truth = write_davis(tmp_path, objects=(1,), frames=5)
    masks = {(t, 1): truth[t][1] for t in (0, 1, 3, 4)}
    (sequence,) = davis_sequences(tmp_path)
    (score,) = evaluate_sequence(ScriptedTracker(masks), sequence, PromptKind.BOX).objects
    assert score.j == pytest.approx(2 / 3) and score.f == pytest.approx(2 / 3)


def test_objects_are_averaged_not_sequences(tmp_path: Path) -> None:
    write_davis(tmp_path, "two", objects=(1, 2), frames=4)
    write_davis(tmp_path, "one", objects=(1,), binary=True, frames=9)
    report = evaluate("static-mask", "davis", tmp_path)
    by_name = {s.name: s for s in report.sequences}
    assert by_name["two"].j != pytest.approx(by_name["one"].j, abs=0.05)
    assert report.j == pytest.approx(100 * (2 * by_name["two"].j + by_name["one"].j) / 3)


def test_identity_notices_two_objects_that_change_places(tmp_path: Path) -> None:
    truth = write_davis(tmp_path, objects=(1, 2), frames=6)
    right = {(t, obj): truth[t][obj] for t in range(6) for obj in (1, 2)}
    swapped = dict(right)
    for t in (3, 4):
        swapped[t, 1], swapped[t, 2] = right[t, 2], right[t, 1]
    (sequence,) = davis_sequences(tmp_path)
    kept = evaluate_sequence(ScriptedTracker(right), sequence, PromptKind.BOX)
    mixed = evaluate_sequence(ScriptedTracker(swapped), sequence, PromptKind.BOX)
    for score in kept.objects:
        assert score.identity is not None
        assert (score.identity.own_iou, score.identity.other_iou, score.identity.own_larger) == (1, 0, 1)
    for score in mixed.objects:
        assert score.identity is not None
        assert (score.identity.own_iou, score.identity.other_iou, score.identity.own_larger) == (
            0.5,
            0.5,
            0.5,
        )


def test_sav_counts_an_object_from_its_first_true_or_predicted_pixel(tmp_path: Path) -> None:
    truth = write_sav(tmp_path)
    (sequence,) = sav_sequences(tmp_path)
    perfect = {(t, obj): masks[obj] for t, masks in truth.items() for obj in masks}
    first, late = evaluate_sequence(ScriptedTracker(perfect), sequence, PromptKind.BOX).objects
    assert (first.scored_frames, late.scored_frames) == (4, 3), "frame 4 precedes the second object"
    assert late.j == 1

    early = dict(perfect)
    early[4, 1] = square(0, 0, 0)
    _, late = evaluate_sequence(ScriptedTracker(early), sequence, PromptKind.BOX).objects
    assert late.scored_frames == 4 and late.j == pytest.approx(3 / 4)


@pytest.mark.parametrize(("kind", "field"), [("box", "box_xyxy"), ("click", "points_xy"), ("mask", "mask")])
def test_every_object_is_prompted_once_with_what_was_asked_for(kind: str, field: str, tmp_path: Path) -> None:
    write_sav(tmp_path)
    (sequence,) = sav_sequences(tmp_path)
    tracker = ScriptedTracker({(0, 0): np.ones(SIZE, np.bool_)})
    evaluate_sequence(tracker, sequence, PromptKind(kind))
    assert [(p.object_id, p.frame_index) for p in tracker.prompts] == [(0, 0), (1, 8)]
    assert all(getattr(p, field) for p in tracker.prompts)


def test_clips_can_be_cut_short(tmp_path: Path) -> None:
    truth = write_davis(tmp_path, objects=(1,), binary=True, frames=9)
    report = evaluate("static-mask", "davis", tmp_path, max_frames=4)
    (score,) = report.sequences
    assert score.frames == 4 and score.objects[0].scored_frames == 2
    assert score.j == pytest.approx(np.mean([region_similarity(truth[0][1], truth[t][1]) for t in (1, 2)]))
    assert report.to_json()["settings"]["max_frames"] == 4


def test_the_json_has_the_documented_fields(tmp_path: Path) -> None:
    write_davis(tmp_path, objects=(1, 2), frames=5)
    result = json.loads(json.dumps(evaluate("static-mask", "davis", tmp_path).to_json()))
    assert {"model", "dataset", "prompt", "J", "F", "JF", "sequences", "fps", "peak_rss_mb"} <= set(result)
    assert {"J", "F", "JF", "frames", "J0"} <= set(result["sequences"]["squares"])
    assert set(result["identity"]) == {"own_iou", "other_iou", "own_larger"}
    assert (result["model"], result["dataset"]) == ("static-mask", "davis")
    assert 0 <= result["J"] <= 100 and result["JF"] == pytest.approx(
        (result["J"] + result["F"]) / 2, abs=0.02
    )
    assert result["fps"] > 0 and result["peak_rss_mb"] > 10
    assert result["sequences"]["squares"]["frames"] == 5


def test_the_markdown_table_has_a_row_a_sequence(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_davis(tmp_path, name, frames=4)
    text = evaluate("static-mask", "davis", tmp_path, model_name="still").to_markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 + 1 and len({row.count("|") for row in rows}) == 1
    assert text.startswith("still on davis") and "Identity:" in text


def test_the_clock_runs_while_tracking_and_stands_while_reporting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_davis(tmp_path, objects=(1,), frames=5)
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class SlowTracker:
        def track(self, source: FrameSource, prompts: Sequence[Prompt]) -> Iterator[MaskResult]:
            now[0] += 2.0  # the prompt
            for frame in range(5):
                now[0] += 0.5
                yield MaskResult(frame, 1, encode(np.ones(SIZE, np.uint8)), 1.0, 1.0)

    def report(frame: int, count: int) -> None:
        now[0] += 100.0

    (sequence,) = davis_sequences(tmp_path)
    score = evaluate_sequence(SlowTracker(), sequence, PromptKind.BOX, progress=report)
    assert score.seconds == pytest.approx(4.5) and score.fps == pytest.approx(5 / 4.5)


def test_progress_counts_frames_and_can_cancel(tmp_path: Path) -> None:
    write_davis(tmp_path, "a", objects=(1,), frames=4)
    write_davis(tmp_path, "b", objects=(1,), frames=4)
    seen: list[EvaluationProgress] = []
    evaluate("static-mask", "davis", tmp_path, progress=seen.append)
    assert [(p.sequence, p.frame, p.frame_count) for p in seen] == [
        (s, f, 4) for s in "ab" for f in range(1, 5)
    ]
    assert seen[-1].fraction == 1 and all(a.fraction < b.fraction for a, b in itertools.pairwise(seen))

    class Cancelled(Exception):  # noqa: N818
        pass

    def cancel(progress: EvaluationProgress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        evaluate("static-mask", "davis", tmp_path, progress=cancel)


def test_wrong_requests_get_one_sentence(tmp_path: Path) -> None:
    write_davis(tmp_path, frames=2)
    with pytest.raises(EvaluationError, match="too few annotated frames"):
        evaluate("static-mask", "davis", tmp_path)
    with pytest.raises(EvaluationError, match="no benchmark 'imagenet'"):
        evaluate("static-mask", "imagenet", tmp_path)
    with pytest.raises(EvaluationError, match="no prompt 'wish'"):
        evaluate("static-mask", "davis", tmp_path, prompt="wish")
    with pytest.raises(EvaluationError, match="no folder"):
        evaluate("static-mask", "davis", tmp_path / "gone")
    with pytest.raises(EvaluationError, match="needs video"):
        evaluate("optical-flow", "coco", tmp_path)
    with pytest.raises(EvaluationError, match="three frames"):
        evaluate("static-mask", "davis", tmp_path, max_frames=2)


def test_annotations_of_another_size_than_the_frames_are_refused(tmp_path: Path) -> None:
    write_davis(tmp_path, objects=(1,), frames=4)
    for t in range(4):
        save_png(
            tmp_path / "Annotations" / "squares" / f"{t:05d}.png", square(t, 4, 6)[:40].astype(np.uint8), True
        )
    masks = {(t, 1): np.ones(SIZE, np.bool_) for t in range(4)}
    (sequence,) = davis_sequences(tmp_path)
    with pytest.raises(EvaluationError, match="80 x 40 pixels, its frames 80 x 48"):
        evaluate_sequence(ScriptedTracker(masks), sequence, PromptKind.BOX)
