"""Mutual-KV: grouping against brute force, exactness of the weighting, and its place in a session."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sam2.modeling.sam2_base import SAM2Base
from tracking_kit import Clip, EndlessSource, disc_center

from qcore.tracking.memory_attention import attend_memory
from qcore.tracking.mutual_kv import (
    Grouping,
    GroupSteps,
    MemoryFrame,
    MutualKvSettings,
    SharedPosition,
    Similarity,
    bisect_epsilon,
    cosine_epsilon,
    group_frames,
)
from qcore.tracking.mutual_kv_live import MutualKv
from qcore.tracking.session import VideoSession
from qcore.tracking.types import MaskResult, Prompt

TOKENS, CHANNELS, WIDTH, POINTERS = 16, 32, 64, 6
SEEDS = st.integers(0, 2**32 - 1)


def random_similarity(seed: int, count: int) -> Similarity:
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def memory_frames(seed: int, count: int = 6, kinds: int | None = None) -> list[MemoryFrame]:
    """Frames t_pos 1..count; with ``kinds``, copies of so many memories with one and the same position."""
    generator = torch.Generator().manual_seed(seed)

    def rand() -> torch.Tensor:
        return torch.randn(TOKENS, 1, CHANNELS, generator=generator)

    originals = [rand() for _ in range(kinds or count)]
    position = rand()
    frames = []
    for i in range(count):
        tokens = originals[i % len(originals)]
        frames.append(MemoryFrame(i, i + 1, tokens, position if kinds else rand(), True))
    return frames


def attend(model: SAM2Base, frames: list[MemoryFrame], kv: MutualKv, seed: int = 0) -> torch.Tensor:
    """Memory attention over the frames (merged as ``kv`` says) and six pointer tokens."""
    generator = torch.Generator().manual_seed(seed)
    curr, curr_pos = (torch.randn(TOKENS, 1, WIDTH, generator=generator) for _ in range(2))
    pointers, pointer_pos = (torch.randn(POINTERS, 1, CHANNELS, generator=generator) for _ in range(2))
    merged = kv.merge(frames)
    memory = torch.cat([*merged.tokens, pointers])
    positions = torch.cat([*merged.positions, pointer_pos])
    bias = kv.key_bias(merged, POINTERS)
    return attend_memory(model.memory_attention, curr, curr_pos, memory, positions, POINTERS, bias)


# ---- grouping


@given(SEEDS, st.integers(1, 7), st.floats(-1, 0.999))
def test_leader_groups_follow_their_definition(seed: int, count: int, epsilon: float) -> None:
    similarity = random_similarity(seed, count)
    leaders: list[int] = []
    leader_of: dict[int, int] = {}
    for i in range(count):
        alike = [leader for leader in leaders if similarity[leader, i] > epsilon]
        leader_of[i] = alike[0] if alike else i
        leaders += [] if alike else [i]
    expected = [[i for i in range(count) if leader_of[i] == leader] for leader in leaders]
    assert group_frames(similarity, epsilon, Grouping.LEADER) == expected


@given(SEEDS, st.integers(1, 7), st.floats(-1, 0.999))
def test_components_are_the_closure_of_the_links(seed: int, count: int, epsilon: float) -> None:
    similarity = random_similarity(seed, count)
    reach = (similarity > epsilon) | np.eye(count, dtype=bool)
    for _ in range(count):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    expected = sorted({tuple(np.flatnonzero(row)) for row in reach})
    found = group_frames(similarity, epsilon, Grouping.COMPONENTS)
    assert [tuple(group) for group in found] == expected


@given(SEEDS, st.integers(1, 7), st.floats(-1, 0.999))
def test_complete_groups_are_alike_in_every_pair_and_cannot_be_joined_earlier(
    seed: int, count: int, epsilon: float
) -> None:
    similarity = random_similarity(seed, count)
    groups = group_frames(similarity, epsilon, Grouping.COMPLETE)
    assert sorted(i for group in groups for i in group) == list(range(count))
    for number, group in enumerate(groups):
        assert all(similarity[i, j] > epsilon for i, j in combinations(group, 2))
        for earlier in groups[:number]:
            present = [i for i in earlier if i < group[0]]
            assert any(similarity[i, group[0]] <= epsilon for i in present)


@given(SEEDS, st.integers(1, 7), st.sampled_from(list(Grouping)), st.floats(1.0, 2.0))
def test_nothing_merges_from_epsilon_one_on(
    seed: int, count: int, grouping: Grouping, epsilon: float
) -> None:
    similarity = np.full((count, count), 1.0 + 1e-7)  # what rounding makes of equal frames
    assert group_frames(similarity, epsilon, grouping) == [[i] for i in range(count)]


@given(st.lists(SEEDS, min_size=1, max_size=6), st.floats(1, 7), st.sampled_from(list(Grouping)))
def test_bisection_meets_its_target(seeds: list[int], target: float, grouping: Grouping) -> None:
    matrices = [random_similarity(seed, 6) for seed in seeds]

    def mean_groups(epsilon: float) -> float:
        return float(np.mean([len(group_frames(m, epsilon, grouping)) for m in matrices]))

    epsilon = bisect_epsilon([GroupSteps.of(m, grouping) for m in matrices], target, fixed_groups=1.0)
    if mean_groups(-1.0) + 1.0 <= target:
        assert mean_groups(epsilon) + 1.0 <= target
    if target >= 7.0:
        assert epsilon == 1.0
    if grouping is Grouping.COMPONENTS and mean_groups(-1.0) + 1.0 <= target < 7.0:
        # links only break as epsilon rises, so the best epsilon leaves no room above it
        assert mean_groups(epsilon + 1e-5) + 1.0 > target


@given(SEEDS, st.integers(1, 7), st.sampled_from(list(Grouping)), st.floats(-1.0, 1.2))
def test_the_steps_of_a_matrix_tell_its_groups_at_every_epsilon(
    seed: int, count: int, grouping: Grouping, epsilon: float
) -> None:
    similarity = random_similarity(seed, count)
    if count > 2:
        similarity[0, 2] = similarity[2, 0] = -np.inf
    steps = GroupSteps.of(similarity, grouping)
    for value in (epsilon, *similarity[np.isfinite(similarity)]):
        assert steps.count(value) == len(group_frames(similarity, value, grouping))


def test_the_schedule_falls_from_no_merging_to_its_end() -> None:
    values = [cosine_epsilon(progress, end=0.8) for progress in np.linspace(0, 1, 21)]
    assert values[:5] == [1.0] * 5
    assert values[-1] == pytest.approx(0.8)
    assert all(a >= b for a, b in pairwise(values))
    assert cosine_epsilon(0.6, end=0.8) == pytest.approx(0.9)


# ---- merging


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEEDS, kinds=st.integers(1, 3))
def test_equal_frames_share_keys_and_leave_the_output_as_it_was(
    micro_model: SAM2Base, seed: int, kinds: int
) -> None:
    frames = memory_frames(seed, count=6, kinds=kinds)
    exact, shared = MutualKv(), MutualKv(MutualKvSettings(epsilon=0.999))
    plain = MutualKv(MutualKvSettings(epsilon=0.999, weigh_groups=False))
    assert len(shared.merge(frames).counts) == kinds
    expected = attend(micro_model, frames, exact)
    error = (attend(micro_model, frames, shared) - expected).norm() / expected.norm()
    assert error < 1e-5
    assert (attend(micro_model, frames, plain) - expected).norm() / expected.norm() > 10 * error


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEEDS, epsilon=st.floats(1.0, 3.0))
def test_the_output_is_bit_identical_from_epsilon_one_on(
    micro_model: SAM2Base, seed: int, epsilon: float
) -> None:
    frames = memory_frames(seed, kinds=2)
    merging = MutualKv(MutualKvSettings(epsilon=epsilon))
    assert torch.equal(attend(micro_model, frames, merging), attend(micro_model, frames, MutualKv()))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEEDS, order=st.permutations(range(6)), grouping=st.sampled_from(list(Grouping)))
def test_the_order_in_which_frames_are_given_does_not_matter(
    micro_model: SAM2Base, seed: int, order: list[int], grouping: Grouping
) -> None:
    frames = memory_frames(seed)
    chosen = MutualKvSettings(epsilon=0.0, grouping=grouping)
    first = MutualKv(chosen).merge(frames)
    second = MutualKv(chosen).merge([frames[i] for i in order])
    assert first.counts == second.counts
    assert all(torch.equal(a, b) for a, b in zip(first.tokens, second.tokens, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.positions, second.positions, strict=True))


def test_a_shared_frame_is_the_average_and_equals_averaged_keys(micro_model: SAM2Base) -> None:
    frames = memory_frames(3, count=3)
    merged = MutualKv(MutualKvSettings(epsilon=-1.0)).merge(frames)
    assert merged.counts == [3]
    attention = micro_model.memory_attention.layers[0].cross_attn_image
    keys = [attention.k_proj(f.tokens_nbc + f.position_nbc) for f in frames]
    shared_key = attention.k_proj(merged.tokens[0] + merged.positions[0])
    assert torch.allclose(shared_key, sum(keys) / 3, atol=1e-5)
    newest = MutualKv(MutualKvSettings(epsilon=-1.0, position=SharedPosition.NEWEST)).merge(frames)
    assert torch.equal(newest.positions[0], frames[2].position_nbc)


def test_prompted_frames_and_absence_keep_to_themselves() -> None:
    tokens, position = torch.ones(TOKENS, 1, CHANNELS), torch.zeros(TOKENS, 1, CHANNELS)
    frames = [
        MemoryFrame(0, 0, tokens, position, True),
        MemoryFrame(1, 3, tokens, position, False),
        MemoryFrame(2, 4, tokens, position, True),
        MemoryFrame(3, 5, tokens, position, False),
        MemoryFrame(4, 6, tokens, position, True),
    ]
    assert MutualKv(MutualKvSettings(epsilon=0.5)).merge(frames).counts == [1, 2, 2]
    everything = MutualKvSettings(epsilon=0.5, merge_conditioning=True, keep_absence_apart=False)
    assert MutualKv(everything).merge(frames).counts == [5]


def test_centring_removes_what_all_frames_have_in_common() -> None:
    frames = [
        MemoryFrame(f.uid, f.t_pos, f.tokens_nbc + 10.0, f.position_nbc, True) for f in memory_frames(1)
    ]
    assert MutualKv(MutualKvSettings(epsilon=0.9)).merge(frames).counts == [6]
    assert MutualKv(MutualKvSettings(epsilon=0.9, center=True)).merge(frames).counts == [1] * 6


# ---- in a session


def track(
    model: SAM2Base, clip: Clip, chosen: MutualKvSettings | None
) -> tuple[VideoSession, list[MaskResult]]:
    session = VideoSession(model, clip.source(), mutual_kv=chosen)
    session.set_prompt(Prompt(0, 1, (disc_center(0),), (1,)))
    return session, list(session.propagate())


def test_a_session_with_epsilon_one_tracks_bit_identically(micro_model: SAM2Base, clip: Clip) -> None:
    off, plain = track(micro_model, clip, None)
    _, merging = track(micro_model, clip, MutualKvSettings(epsilon=1.0))
    assert merging == plain
    assert off.statistics.macs_saved_share == 0.0
    assert off.statistics.keys_attended == off.statistics.keys_full


def test_statistics_count_what_is_attended(micro_model: SAM2Base, clip: Clip) -> None:
    session, results = track(micro_model, clip, MutualKvSettings(epsilon=-1.0))
    steps = len(clip.frames) - 1
    frames = [min(t, 7) for t in range(1, len(clip.frames))]  # the prompted one and up to six more
    statistics = session.statistics
    assert len(results) == steps + 1
    assert statistics.steps == steps
    assert statistics.memory_frames == sum(frames)
    assert statistics.groups == sum(min(count, 2) for count in frames)
    tokens = 16
    assert statistics.keys_full - statistics.keys_attended == tokens * (
        statistics.memory_frames - statistics.groups
    )
    assert 0.0 < statistics.macs_saved_share < 1.0
    assert statistics.saved_s > 0.0
    session.reset_statistics()
    assert session.statistics.steps == 0


@pytest.mark.parametrize(("target", "expected"), [(2.6, 2.6), (None, 4 / 7 * 4)])  # it has four memory frames
def test_automatic_epsilon_leaves_the_groups_it_is_asked_for(
    embedded_model: SAM2Base, clip: Clip, target: float | None, expected: float
) -> None:
    source = EndlessSource(clip.frames, 28)
    session = VideoSession(embedded_model, source, mutual_kv=MutualKvSettings(target_groups=target))
    session.set_prompt(Prompt(0, 1, (disc_center(0),), (1,)))
    list(session.propagate())
    assert session.statistics.mean_groups == pytest.approx(expected, abs=0.4)
    assert session.statistics.mean_memory_frames > 3.5
    assert 0.5 < session.statistics.epsilon < 1.0


def test_settings_change_between_frames(micro_model: SAM2Base, clip: Clip) -> None:
    session = VideoSession(micro_model, clip.source())
    session.set_prompt(Prompt(0, 1, (disc_center(0),), (1,)))
    running = session.propagate()
    for _ in range(5):
        next(running)
    assert session.statistics.groups == session.statistics.memory_frames
    session.mutual_kv = MutualKvSettings(epsilon=-1.0)
    list(running)
    assert session.statistics.groups < session.statistics.memory_frames
    assert session.mutual_kv.epsilon == -1.0


# ---- settings


@given(
    st.builds(
        MutualKvSettings,
        epsilon=st.none() | st.floats(-1, 2),
        target_groups=st.none() | st.floats(1, 7),
        grouping=st.sampled_from(list(Grouping)),
        position=st.sampled_from(list(SharedPosition)),
        center=st.booleans(),
        weigh_groups=st.booleans(),
    )
)
def test_settings_survive_being_written_down(chosen: MutualKvSettings) -> None:
    assert MutualKvSettings.from_dict(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    "value",
    [
        {"epsilon": -2.0},
        {"epsilon": float("nan")},
        {"epsilon": "0.9"},
        {"epsilon": True},
        {"target_groups": 0.5},
        {"target_groups": "4"},
        {"grouping": "best"},
        {"center": 1},
        {"speed": 3},
    ],
)
def test_settings_from_outside_are_checked(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        MutualKvSettings.from_dict(value)
