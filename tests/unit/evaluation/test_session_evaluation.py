"""The embedded model through the real session, on clips small enough for a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmark_folders import write_davis

from qcore.evaluation import evaluate
from qcore.evaluation.coco import coco_images, score_images
from qcore.evaluation.prompts import PromptKind
from qcore.evaluation.trackers import SessionTracker
from qcore.models import build_official, load_model, model_spec
from qcore.video import open_source
from resources import resource_path


@pytest.fixture(scope="module")
def embedded() -> torch.nn.Module:
    return load_model("embedded-fp16", image_size=256)


def test_a_loaded_model_is_evaluated_on_a_clip_with_two_objects(
    embedded: torch.nn.Module, tmp_path: Path
) -> None:
    write_davis(tmp_path, frames=4)
    report = evaluate(embedded, "davis", tmp_path, prompt="mask", model_name="embedded at 256")
    assert report.model == "embedded at 256" and report.settings["image_size"] == 256
    (score,) = report.sequences
    assert score.tracked_frames == 4 and len(score.objects) == 2
    assert report.j_prompt_frame == 100, "the prompted frame keeps the mask it was given"
    assert report.identity is not None


def test_real_frames_are_segmented_far_better_than_by_chance(
    embedded: torch.nn.Module, shared_data: Path
) -> None:
    root = shared_data / "davis-dev"
    first, second = (
        evaluate(embedded, "davis", root, sequences=["car-roundabout"], prompt="click", max_frames=3)
        for _ in "ab"
    )
    assert first.jf > 60 and first.fps > 0
    assert (first.j, first.f) == (second.j, second.f), "the same again"


def test_images_are_segmented_from_boxes(embedded: torch.nn.Module, shared_data: Path) -> None:
    images = coco_images(shared_data / "coco128-seg")[:2]
    session = SessionTracker(embedded).session
    scores, precision = score_images(session, images, PromptKind.BOX, lambda name, number: None)
    objects = [o for s in scores for o in s.objects]
    assert sum(o.j for o in objects) / len(objects) > 0.3
    assert 0 < precision["AP"] <= 100


def test_an_official_architecture_with_random_weights_can_be_evaluated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_official(model_spec("sam2.1_hiera_tiny"), image_size=128).eval()
    write_davis(tmp_path, objects=(1,), frames=3)
    report = evaluate(model, "davis", tmp_path)
    assert 0 <= report.jf <= 100 and report.model == "SAM2Base"


def test_the_shipped_sample_clip_is_what_its_card_says() -> None:
    path = resource_path("sample/balloons.mp4")
    assert path.stat().st_size < 3_000_000
    with open_source(path) as source:
        assert (len(source), source.size, source.fps) == (168, (720, 1280), 24.0)
        assert source[0].std() > 20
