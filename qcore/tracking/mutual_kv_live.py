"""Mutual-KV at work in a session: remembers similarities, chooses epsilon where asked to, keeps
statistics."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qcore.tracking.mutual_kv import (
    DEFAULT_GROUP_SHARE,
    NO_MERGING,
    GroupSteps,
    MemoryFrame,
    MergedMemory,
    MutualKvSettings,
    Similarity,
    bisect_epsilon,
    comparison_vector,
    group_frames,
    merge_groups,
)

HISTORY_FRAMES = 64
"""Frames over which an automatic epsilon meets its target."""

CACHED_PAIRS = 4096


@dataclass(slots=True)
class MutualKvStatistics:
    """What Mutual-KV did since the statistics were last reset; sums over tracked frames and objects."""

    steps: int = 0
    """Memory attentions run."""
    memory_frames: int = 0
    groups: int = 0
    keys_full: int = 0
    """Keys that memory attention would have seen without merging, pointers included."""
    keys_attended: int = 0
    macs_full: float = 0.0
    """Multiply-accumulates of memory attention without merging."""
    macs_done: float = 0.0
    attention_s: float = 0.0
    """Time spent in memory attention, in seconds."""
    epsilon: float = NO_MERGING
    """The epsilon in use."""

    @property
    def mean_groups(self) -> float:
        """Mean number of groups a frame attends to."""
        return self.groups / self.steps if self.steps else 0.0

    @property
    def mean_memory_frames(self) -> float:
        """Mean number of memory frames before merging."""
        return self.memory_frames / self.steps if self.steps else 0.0

    @property
    def macs_saved_share(self) -> float:
        """Share of memory attention's arithmetic that was not needed, 0..1 (an estimate from its shapes)."""
        return 1.0 - self.macs_done / self.macs_full if self.macs_full else 0.0

    @property
    def saved_s(self) -> float:
        """Estimated time saved in seconds: the measured time, scaled by the arithmetic left out."""
        if not self.macs_done:
            return 0.0
        return self.attention_s * (self.macs_full - self.macs_done) / self.macs_done


class MutualKv:
    """The merging of memory frames in one session; settings may change between frames."""

    def __init__(self, settings: MutualKvSettings | None = None, map_count: int = 7) -> None:
        """``map_count`` is the number of memory frames that the model attends to."""
        self._default_target = max(1.0, DEFAULT_GROUP_SHARE * map_count)
        self._settings = settings
        self._cosines: OrderedDict[tuple[int, int], float] = OrderedDict()
        self._history: deque[tuple[GroupSteps, int]] = deque(maxlen=HISTORY_FRAMES)
        self.statistics = MutualKvStatistics()

    @property
    def settings(self) -> MutualKvSettings | None:
        """None when nothing is merged."""
        return self._settings

    @settings.setter
    def settings(self, settings: MutualKvSettings | None) -> None:
        before = self._settings
        self._settings = settings
        if (
            before is None
            or settings is None
            or (before.center, before.grouping)
            != (
                settings.center,
                settings.grouping,
            )
        ):
            self._cosines.clear()
            self._history.clear()

    def reset_statistics(self) -> None:
        """Start counting anew."""
        self.statistics = MutualKvStatistics()

    def merge(self, frames: Sequence[MemoryFrame]) -> MergedMemory:
        """Let alike frames share; frames stay as they are when nothing merges."""
        settings = self._settings
        untouched = MergedMemory(
            [frame.tokens_nbc for frame in frames],
            [frame.position_nbc for frame in frames],
            [1] * len(frames),
        )
        if settings is None or (settings.epsilon is not None and settings.epsilon >= NO_MERGING):
            self.statistics.epsilon = NO_MERGING
            return untouched
        fixed = [f for f in frames if f.is_conditioning and not settings.merge_conditioning]
        mergeable = [f for f in frames if not f.is_conditioning or settings.merge_conditioning]
        newest_first = sorted(mergeable, key=lambda frame: (-frame.t_pos, frame.uid))
        similarity = self._similarity(newest_first, settings)
        if settings.epsilon is None:
            self._history.append((GroupSteps.of(similarity, settings.grouping), len(fixed)))
            steps = [step for step, _ in self._history]
            mean_fixed = float(np.mean([count for _, count in self._history]))
            target = settings.target_groups or self._default_target
            epsilon = bisect_epsilon(steps, target, mean_fixed)
        else:
            epsilon = settings.epsilon
        self.statistics.epsilon = epsilon
        groups = group_frames(similarity, epsilon, settings.grouping)
        if len(groups) == len(newest_first):
            return untouched
        merged = merge_groups(newest_first, groups, settings.position)
        return MergedMemory(
            [frame.tokens_nbc for frame in fixed] + merged.tokens[::-1],
            [frame.position_nbc for frame in fixed] + merged.positions[::-1],
            [1] * len(fixed) + merged.counts[::-1],
        )

    def key_bias(self, merged: MergedMemory, pointer_tokens: int) -> torch.Tensor | None:
        """Logit bias for all memory tokens, pointers included; None where attention stays plain."""
        if self._settings is None or not self._settings.weigh_groups:
            return None
        bias_m = merged.key_bias()
        if bias_m is None or pointer_tokens == 0:
            return bias_m
        return torch.cat([bias_m, bias_m.new_zeros(pointer_tokens)])

    def _similarity(self, frames: Sequence[MemoryFrame], settings: MutualKvSettings) -> Similarity:
        """Cosines of all pairs; known ones are not computed again."""
        count = len(frames)
        matrix = np.ones((count, count))
        vectors: dict[int, torch.Tensor] = {}

        def vector(i: int) -> torch.Tensor:
            if i not in vectors:
                vectors[i] = comparison_vector(frames[i].tokens_nbc, settings.center)
            return vectors[i]

        for i in range(count):
            for j in range(i + 1, count):
                pair = (min(frames[i].uid, frames[j].uid), max(frames[i].uid, frames[j].uid))
                cosine = self._cosines.get(pair)
                if cosine is None:
                    cosine = self._cosines[pair] = float(vector(i) @ vector(j))
                if settings.keep_absence_apart and frames[i].is_present != frames[j].is_present:
                    cosine = -np.inf
                matrix[i, j] = matrix[j, i] = cosine
        while len(self._cosines) > CACHED_PAIRS:
            self._cosines.popitem(last=False)
        return matrix
