"""Adaptive Mutual-KV (Eqs. 6-8): memory frames that look alike share one set of keys and values.

Pure functions on lists of memory frames, before they are concatenated for memory attention. Keys and
values are linear in memory and position, and all frames use one grid, so averaging memory and position
once equals averaging the keys and values of every layer. A shared key would lose its frames' weight in
the softmax; the log of the frame count, added to its logit, gives it back (with equal frames the output
is then unchanged). Object pointers take no part.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Similarity = npt.NDArray[np.float64]
"""Cosine similarities (n, n) of memory frames; -inf where two frames must not share."""

DEFAULT_GROUP_SHARE = 4 / 7

NO_MERGING = 1.0
"""From this epsilon on nothing is merged. Cosines may exceed 1 by rounding, so it is a case of its own."""


class Grouping(StrEnum):
    """How pairwise similarity (not transitive) becomes a partition of the memory frames."""

    LEADER = "leader"
    """Newest to oldest, each frame joins the first leader it is similar to, or becomes one (default)."""
    COMPONENTS = "components"
    """Whatever is linked by a chain of similar frames."""
    COMPLETE = "complete"
    """As LEADER, but a frame must be similar to every member of a group."""


class SharedPosition(StrEnum):
    """Position encoding of a shared frame; its members differ in time."""

    MEAN = "mean"
    """The members' average (Eq. 7, default)."""
    NEWEST = "newest"
    """The newest member's."""


@dataclass(frozen=True, slots=True)
class MutualKvSettings:
    """When and how memory frames share keys and values.

    Raises:
        ValueError: epsilon or target outside its range.
    """

    epsilon: float | None = None
    """Cosine similarity above which frames share, in -1..1; 1 or more merges nothing. None chooses it while
    tracking so that ``target_groups`` are left on average."""
    target_groups: float = 4.0
    """Mean number of groups aimed at when epsilon is None, at least 1 (SAM 2 has up to 7 frames of
    memory)."""
    grouping: Grouping = Grouping.LEADER
    position: SharedPosition = SharedPosition.MEAN
    center: bool = False
    """Compare memories without each channel's mean over the frame, which all frames have in common."""
    weigh_groups: bool = True
    """Add the log of the frame count to a shared key's logit; off is the paper's plain average."""
    merge_conditioning: bool = False
    """Let prompted frames take part; by default the user's own frames are never averaged away."""
    keep_absence_apart: bool = True
    """Never merge a frame that shows the object with one that does not."""

    def __post_init__(self) -> None:
        if self.epsilon is not None and not self.epsilon >= -1.0:
            raise ValueError("Mutual-KV's epsilon is a cosine similarity, from -1 up.")
        if self.target_groups is not None and not self.target_groups >= 1.0:
            raise ValueError("Mutual-KV needs a target of at least one group.")

    @property
    def is_automatic(self) -> bool:
        """Whether epsilon is chosen while tracking."""
        return self.epsilon is None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for bundles and reports."""
        return {
            key: str(value) if isinstance(value, StrEnum) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> MutualKvSettings:
        """Read `to_dict`'s output from an untrusted place; missing keys take their defaults.

        Raises:
            ValueError: unknown keys, wrong types or values out of range.
        """
        unknown = sorted(set(value) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"Mutual-KV has no setting {unknown[0]!r}.")
        known = dict(value)
        for name in ("center", "weigh_groups", "merge_conditioning", "keep_absence_apart"):
            if not isinstance(known.get(name, False), bool):
                raise ValueError(f"Mutual-KV's {name} is either true or false.")
        for name in ("epsilon", "target_groups"):
            number = known.get(name, 1.0)
            if number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise ValueError(f"Mutual-KV's {name} must be a number.")
        known["grouping"] = Grouping(known.get("grouping", Grouping.LEADER))
        known["position"] = SharedPosition(known.get("position", SharedPosition.MEAN))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class MemoryFrame:
    """The memory tokens of one frame, as memory attention takes them."""

    uid: int
    """Names the content: equal for equal memories within a session."""
    t_pos: int
    """0 for a conditioning frame, else 1 (oldest) .. 6 (newest)."""
    tokens_nbc: torch.Tensor
    position_nbc: torch.Tensor
    is_present: bool

    @property
    def is_conditioning(self) -> bool:
        """Whether the user prompted the frame."""
        return self.t_pos == 0


@dataclass(frozen=True, slots=True)
class MergedMemory:
    """Memory frames after sharing, oldest first as before."""

    tokens: list[torch.Tensor]
    positions: list[torch.Tensor]
    counts: list[int]
    """Frames each stands for."""

    def key_bias(self) -> torch.Tensor | None:
        """Log of the frame count per memory token (M,), float32; None where no frame was merged."""
        if all(count == 1 for count in self.counts):
            return None
        parts = [
            torch.full((tokens.shape[0],), math.log(count), device=tokens.device)
            for tokens, count in zip(self.tokens, self.counts, strict=True)
        ]
        return torch.cat(parts)


def cosine_epsilon(progress: float, end: float, start: float = NO_MERGING, warm_up: float = 0.2) -> float:
    """Epsilon for a reconstruction that is ``progress`` (0..1) done: ``start``, then a cosine down to
    ``end``."""
    if progress <= warm_up:
        return start
    phase = min((progress - warm_up) / (1.0 - warm_up), 1.0)
    return end + (start - end) * (1.0 + math.cos(math.pi * phase)) / 2.0


def comparison_vector(tokens_nbc: torch.Tensor, center: bool) -> torch.Tensor:
    """A memory frame as a unit vector, float32 (N * C,)."""
    features_nc = tokens_nbc[:, 0].float()
    if center:
        features_nc = features_nc - features_nc.mean(dim=0, keepdim=True)
    flat = features_nc.flatten()
    return flat / flat.norm().clamp_min(1e-12)


def group_frames(similarity: Similarity, epsilon: float, grouping: Grouping) -> list[list[int]]:
    """Partition frames 0 (newest) .. n-1 (oldest) by similarity above epsilon (strictly).

    Returns groups in the order of their newest members; members ascend.
    """
    count = similarity.shape[0]
    if epsilon >= NO_MERGING:
        return [[i] for i in range(count)]
    if grouping is Grouping.COMPONENTS:
        return _components(similarity > epsilon)
    groups: list[list[int]] = []
    for i in range(count):
        for group in groups:
            compared = group[:1] if grouping is Grouping.LEADER else group
            if all(similarity[i, j] > epsilon for j in compared):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _components(is_linked: npt.NDArray[np.bool_]) -> list[list[int]]:
    left = list(range(is_linked.shape[0]))
    groups: list[list[int]] = []
    while left:
        group = [left.pop(0)]
        for member in group:  # grows while it is walked
            linked = [j for j in left if is_linked[member, j]]
            left = [j for j in left if j not in linked]
            group += linked
        groups.append(sorted(group))
    return groups


@dataclass(frozen=True, slots=True)
class GroupSteps:
    """How many groups one step's frames form, for every epsilon: it changes at their similarities only."""

    similarities: list[float]
    """Distinct, ascending."""
    counts: list[int]
    """Groups below the first similarity, from the first on, from the second on, ..."""

    @classmethod
    def of(cls, similarity: Similarity, grouping: Grouping) -> GroupSteps:
        """The steps of one matrix of cosines."""
        pairs = similarity[np.triu_indices(similarity.shape[0], k=1)]
        levels = sorted({float(value) for value in pairs if -np.inf < value < NO_MERGING})
        counts = [len(group_frames(similarity, level, grouping)) for level in (-np.inf, *levels)]
        return cls([*levels, NO_MERGING], [*counts, similarity.shape[0]])

    def count(self, epsilon: float) -> int:
        """Groups at this epsilon."""
        return self.counts[bisect_right(self.similarities, epsilon)]


def bisect_epsilon(steps: Sequence[GroupSteps], target_groups: float, fixed_groups: float = 0.0) -> float:
    """The epsilon whose mean number of groups comes closest to a target from below or at it.

    Args:
        steps: one a frame, of the frames that may merge.
        target_groups: mean number of groups aimed at, frames that never merge included.
        fixed_groups: mean number of frames that never merge.
    """
    room = (target_groups - fixed_groups) * len(steps)
    low, high = -1.0, NO_MERGING
    if sum(step.count(high) for step in steps) <= room:
        return high
    for _ in range(24):
        middle = (low + high) / 2.0
        if sum(step.count(middle) for step in steps) <= room:
            low = middle
        else:
            high = middle
    return low


def merge_groups(
    frames: Sequence[MemoryFrame], groups: Sequence[Sequence[int]], position: SharedPosition
) -> MergedMemory:
    """Average the memory and position of each group; a group of one stays as it is, bit for bit.

    Args:
        groups: indices into ``frames``, a partition, each group's newest member first.
    """
    tokens: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    counts: list[int] = []
    for group in sorted(groups, key=lambda group: group[0]):
        members = [frames[i] for i in group]
        newest = members[0]
        counts.append(len(members))
        if len(members) == 1:
            tokens.append(newest.tokens_nbc)
            positions.append(newest.position_nbc)
            continue
        tokens.append(torch.stack([member.tokens_nbc.float() for member in members]).mean(dim=0))
        if position is SharedPosition.NEWEST:
            positions.append(newest.position_nbc)
        else:
            positions.append(torch.stack([member.position_nbc for member in members]).mean(dim=0))
    return MergedMemory(tokens, positions, counts)
