"""The speed comparison runs whole, on a clip and model so small that it takes a moment."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from qcore.evaluation.speed import SpeedPlan, interleaved_ms, measure_speed
from qcore.evaluation.speed_process import default_boxes
from qcore.evaluation.speed_subjects import build_subject, quantize_for_speed
from qcore.models import load_model
from qcore.quant.bundle import save_bundle
from qcore.quant.describe import describe_model


@pytest.fixture
def frame_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(4):
        frame = rng.integers(0, 90, (72, 128, 3), np.uint8)
        frame[20:50, 20 + 5 * index : 60 + 5 * index] = 220
        cv2.imwrite(str(tmp_path / f"{index:03d}.png"), frame)
    return tmp_path


PARTS = [
    "image encoder",
    "memory attention, 1 memory",
    "memory attention, 3 memories",
    "memory attention, 4 memories",
    "memory attention, 4 memories in 2 groups",
    "click to mask, frame encoded",
    "tracking a frame, 2 objects",
    "tracking a frame again, 2 objects",
    "opening, prompting and tracking a clip of 4 frames, per frame, 2 objects",
]


def test_every_part_is_compared(frame_folder: Path) -> None:
    plan = SpeedPlan(
        models=("embedded-fp16",),
        image_size=128,
        frames=4,
        objects=(2,),
        repeats=1,
        groups=2.0,
        memory_frames=5,
    )
    said: list[str] = []
    report = measure_speed(str(frame_folder), plan, said.append)
    ways = list(dict.fromkeys(row.ours for row in report.rows))
    assert len(ways) == 4
    assert ways[1].startswith("w6a6, CPU") and ways[2] == f"{ways[1]}, Mutual-KV at 2"
    of_way = {way: [row.what for row in report.rows if row.ours == way] for way in ways}
    assert of_way[ways[0]] == of_way[ways[1]] == [part for part in PARTS if "groups" not in part]
    assert of_way[ways[2]] == [PARTS[4], *PARTS[6:]]
    assert of_way[ways[3]] == ["loading", "peak memory, 5 frames, 2 objects"]
    assert all(row.upstream_value > 0 and row.our_value > 0 for row in report.rows)
    assert report.to_markdown().count("x |") == len(report.to_json()["rows"]) == len(report.rows)
    assert said


def test_a_bundle_runs_against_the_model_it_was_made_from(frame_folder: Path, tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 255, (72, 128, 3), np.uint8) for i in range(2)]
    model = load_model("embedded-fp16", image_size=64)
    path = tmp_path / "small.safetensors"
    bundle = quantize_for_speed(model, frames, "w4a4")
    description = describe_model("embedded-fp16", model)
    save_bundle(path, bundle, description, {"bits": "w4a4", "method": "minmax"}, None)
    subject = build_subject(str(path), frames, groups=2.0)
    assert subject.name == "embedded-fp16 64 px"
    assert [c.name.split(",")[0] for c in subject.contenders] == ["minmax w4a4"] * 2
    assert subject.contenders[1].mutual_kv is not None
    assert torch.equal(subject.upstream.no_mem_embed, model.no_mem_embed)


def test_measurements_take_turns() -> None:
    order: list[str] = []
    interleaved_ms([lambda: order.append("a"), lambda: order.append("b")], repeats=2)
    assert order == ["a", "b"] * 3


def test_boxes_lie_inside_the_frame() -> None:
    for x0, y0, x1, y1 in default_boxes(100, 200, 8):
        assert 0 <= x0 < x1 <= 200
        assert 0 <= y0 < y1 <= 100
