"""The comparison without and with Mutual-KV, on a tiny real model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fake_tracking import box, picture

from app.engine.backend import LoadedModel, QcoreBackend
from app.engine.mutual_kv_comparison import compare_mutual_kv
from app.engine.plan import Run, TrackPlan
from app.engine.records import EngineError, MutualKvChoice, MutualKvComparison
from qcore.evaluation.model_speed import ClipFrames
from qcore.masks import decode
from qcore.models.embedded import EmbeddedArch, build_embedded
from qcore.tracking.aids import Aids
from qcore.tracking.mutual_kv import MutualKvSettings
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Direction, Prompt

FRAMES = 10
PLAN = TrackPlan((Run(0, FRAMES - 1, Direction.FORWARD, (1, 2)),), (1, 2), 2 * (FRAMES - 1))
PROMPTS = [Prompt(0, 1, box_xyxy=box(0, 0)), Prompt(0, 2, box_xyxy=box(1, 0))]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(3)
    arch = EmbeddedArch(
        input_size=64, d_model=32, mem_dim=32, memory_layers=1, ffn_dim=64, num_maskmem=6, fuser_layers=1
    )
    return LoadedModel(build_embedded(arch).eval(), "tiny", "tiny", "CPU", "fp32")


@pytest.fixture(scope="module")
def frames() -> ClipFrames:
    return ClipFrames([picture(i) for i in range(FRAMES)])


def finish(steps: Any) -> tuple[MutualKvComparison, list[tuple[int, int]]]:
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return end.value, seen


def test_nothing_shared_is_nothing_changed(loaded: LoadedModel, frames: ClipFrames) -> None:
    steps = compare_mutual_kv(QcoreBackend(), loaded, frames, PLAN, PROMPTS, MutualKvChoice(True, 1.0))
    found, seen = finish(steps)
    assert (found.frames, found.masks) == (FRAMES - 1, 2 * (FRAMES - 1))
    assert found.iou_mean == found.iou_lowest == 1.0
    assert found.ms_without > 0 and found.ms_with > 0
    total = FRAMES + 2 * 2 * FRAMES
    assert seen == [(i + 1, total) for i in range(total)]


def test_the_figures_are_those_of_two_sessions(loaded: LoadedModel, frames: ClipFrames) -> None:
    steps = compare_mutual_kv(QcoreBackend(), loaded, frames, PLAN, PROMPTS, MutualKvChoice(True, -1.0))
    found, _ = finish(steps)
    masks = []
    for settings in (None, MutualKvSettings(epsilon=-1.0)):
        session = VideoSession(loaded.model, frames, mutual_kv=settings, aids=Aids.for_model(loaded.model))
        for prompt in PROMPTS:
            session.set_prompt(prompt)
        results = session.propagate(0, FRAMES - 1)
        masks.append({(r.object_id, r.frame_index): decode(r.rle) > 0 for r in results if r.frame_index})
    plain, shared = masks
    ious = {k: ((m & shared[k]).sum() / (m | shared[k]).sum()) if (m | shared[k]).any() else 1.0
            for k, m in plain.items()}  # fmt: skip
    assert found.iou_mean == pytest.approx(np.mean(list(ious.values())))
    assert found.iou_lowest == pytest.approx(min(ious.values()))
    assert found.groups < found.memory_frames and found.epsilon == -1.0


def test_the_models_own_threshold_is_used_by_itself(loaded: LoadedModel, frames: ClipFrames) -> None:
    backend = QcoreBackend()
    session = backend.open_session(loaded, frames, lambda *_: None)
    assert isinstance(session, VideoSession)
    calibrated = LoadedModel(loaded.model, "q", "q", "CPU", "w6a6", 0.8737, weighs_groups=False)
    backend.set_mutual_kv(calibrated, session, MutualKvChoice(True, None))
    assert session.mutual_kv == MutualKvSettings(epsilon=0.8737, weigh_groups=False)
    backend.set_mutual_kv(calibrated, session, MutualKvChoice(True, 0.9))
    assert session.mutual_kv == MutualKvSettings(epsilon=0.9, weigh_groups=False)
    backend.set_mutual_kv(loaded, session, MutualKvChoice(True, None))
    assert session.mutual_kv == MutualKvSettings()
    backend.set_mutual_kv(loaded, session, MutualKvChoice(False, None))
    assert session.mutual_kv is None


def test_keyframes_alone_cannot_be_compared(loaded: LoadedModel, frames: ClipFrames) -> None:
    plan = TrackPlan((Run(0, 0, Direction.FORWARD, (1,)),), (1,), 1)
    with pytest.raises(EngineError, match="keyframe"):
        finish(
            compare_mutual_kv(QcoreBackend(), loaded, frames, plan, PROMPTS[:1], MutualKvChoice(True, 0.9))
        )


def test_what_a_loaded_model_says_about_itself_is_what_the_command_line_writes() -> None:
    from app.cli.tracking import load_for_tracking

    found = QcoreBackend().load_model("embedded-fp16", "cpu")
    assert found.precision == load_for_tracking("embedded-fp16", "cpu")[1] in ("fp32", "bf16")
    assert found.device == "CPU" and "cpu" in found.devices
    assert found.back_end.startswith(f"{found.precision}, ") and found.back_end.endswith(
        ("thread", "threads")
    )
    with pytest.raises(EngineError, match="no tpu device"):
        QcoreBackend().load_model("embedded-fp16", "tpu")
