"""The speed comparison runs whole, on a clip and model so small that it takes a moment."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from qcore.evaluation.speed import SpeedPlan, default_boxes, interleaved_ms, measure_speed
from qcore.runtime import Precision


@pytest.fixture
def frame_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(4):
        frame = rng.integers(0, 90, (72, 128, 3), np.uint8)
        frame[20:50, 20 + 5 * index : 60 + 5 * index] = 220
        cv2.imwrite(str(tmp_path / f"{index:03d}.png"), frame)
    return tmp_path


def test_every_part_is_compared(frame_folder: Path) -> None:
    plan = SpeedPlan(
        models=("embedded-fp16",),
        image_size=128,
        frames=4,
        objects=(2,),
        repeats=1,
        precisions=(Precision.FP32,),
    )
    said: list[str] = []
    report = measure_speed(str(frame_folder), plan, said.append)
    measured = [row.what for row in report.rows]
    assert measured == [
        "image encoder",
        "memory attention, 1 memories",
        "memory attention, 3 memories",
        "memory attention, 4 memories",
        "click to mask, frame encoded",
        "propagation a frame, 2 objects",
        "second propagation, 2 objects",
    ]
    assert all(row.upstream_ms > 0 and row.ours_ms > 0 for row in report.rows)
    assert len(report.to_json()["rows"]) == 7
    assert report.to_markdown().count("embedded-fp16 128px CPU fp32") == 7
    assert said


def test_measurements_take_turns() -> None:
    order: list[str] = []
    interleaved_ms([lambda: order.append("a"), lambda: order.append("b")], repeats=2)
    assert order == ["a", "b"] * 3


def test_boxes_lie_inside_the_frame() -> None:
    for x0, y0, x1, y1 in default_boxes(100, 200, 8):
        assert 0 <= x0 < x1 <= 200
        assert 0 <= y0 < y1 <= 100
