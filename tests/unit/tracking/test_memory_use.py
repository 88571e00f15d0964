"""What a session holds does not grow with the video: counted in tensors, and as the process's peak memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import Clip, EndlessSource, disc_center, square_corner

from qcore.tracking.memory_bank import MAX_RESIDENT_KEYFRAMES
from qcore.tracking.session import VideoSession
from qcore.tracking.types import Direction, Prompt

REPOSITORY = Path(__file__).resolve().parents[3]


def prompted(model: SAM2Base, clip: Clip, length: int, frame_index: int) -> VideoSession:
    session = VideoSession(model, EndlessSource(clip.frames, length), feature_cache_bytes=1 << 20)
    x, y = square_corner(frame_index % 8)
    session.set_prompt(Prompt(frame_index, 1, (disc_center(frame_index % 8),), (1,)))
    session.set_prompt(Prompt(frame_index, 2, box_xyxy=(x, y, x + 26.0, y + 26.0)))
    return session


@pytest.mark.parametrize("direction", list(Direction))
def test_what_is_held_does_not_depend_on_how_far_tracking_went(
    micro_model: SAM2Base, clip: Clip, direction: Direction
) -> None:
    length = 90
    # in both directions: the forward pass of 5 frames first, then far back
    key = {Direction.FORWARD: 0, Direction.BACKWARD: length - 1, Direction.BOTH: length - 6}[direction]
    session = prompted(micro_model, clip, length, key)
    held = []
    for result in session.propagate(direction=direction):
        assert session.feature_cache.size_bytes <= 1 << 20
        if result.object_id == 2 and abs(result.frame_index - key) in (40, 60, 80):
            held.append(session.state_bytes())
    assert len(held) == 3
    assert len(set(held)) == 1


def test_only_memories_that_can_still_be_attended_stay(micro_model: SAM2Base, clip: Clip) -> None:
    session = prompted(micro_model, clip, 60, 0)
    list(session.propagate())
    memory = session._objects[1]
    assert sorted(memory.recent) == [*range(1, 16), *range(44, 60)]
    with_map = [t for t, entry in sorted(memory.recent.items()) if entry.map_bchw is not None]
    assert with_map == [*range(1, 7), *range(53, 60)]


def test_many_keyframes_hold_few_memory_maps(micro_model: SAM2Base, clip: Clip) -> None:
    session = prompted(micro_model, clip, 60, 0)
    keys = range(1, 60, 2)
    for t in keys:
        session.set_prompt(Prompt(t, 1, (disc_center(t % 8),), (1,)))
    first = list(session.propagate(objects=[1]))
    resident = [key for key in session._objects[1].keyframes.values() if key.entry is not None]
    assert len(resident) == MAX_RESIDENT_KEYFRAMES
    assert list(session.propagate(objects=[1])) == first  # dropped maps are encoded again, to the same masks


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read from the resource module")
def test_memory_after_a_thousand_frames_is_that_after_two_hundred() -> None:
    script = textwrap.dedent(
        """
        import resource, torch
        import numpy as np
        from qcore.models import EmbeddedArch, build_embedded
        from qcore.tracking.session import VideoSession
        from qcore.tracking.types import Prompt

        torch.set_num_threads(1)
        torch.manual_seed(0)
        arch = EmbeddedArch(input_size=64, d_model=64, mem_dim=32, memory_layers=1, ffn_dim=64,
                            fuser_layers=1, num_maskmem=7, max_object_pointers=16)
        model = build_embedded(arch).eval().requires_grad_(False)

        class Noise:
            size = (120, 160)
            def __len__(self):
                return 1001
            def __getitem__(self, index):
                return np.random.default_rng(index).integers(0, 255, (120, 160, 3), dtype=np.uint8)

        session = VideoSession(model, Noise(), feature_cache_bytes=1 << 20)
        session.set_prompt(Prompt(0, 1, ((80.0, 60.0),), (1,)))
        for result in session.propagate():
            if result.frame_index in (200, 1000):
                peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                print(session.state_bytes(), session.feature_cache.size_bytes, peak_kb)
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    early, late = ([int(word) for word in line.split()] for line in run.stdout.splitlines())
    assert late[:2] == early[:2]
    assert late[2] <= 1.05 * early[2]
