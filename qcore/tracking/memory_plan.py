"""Which frames a frame attends to: pure index arithmetic, no tensors.

The choice repeats `SAM2Base._prepare_memory_conditioned_features`: conditioning frames first, then the
last frames in the direction of travel, then object pointers. What differs is deliberate: only the
conditioning frames that `ConditioningRule` admits take part, by default those already passed and the
closest few.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import select_closest_cond_frames

DEFAULT_MAX_CONDITIONING_FRAMES = 4


@dataclass(frozen=True, slots=True)
class ConditioningRule:
    """Which prompted frames of an object a frame may attend to."""

    max_frames: int | None = DEFAULT_MAX_CONDITIONING_FRAMES
    """At most so many, the closest in time (at least 2); None for all of them, as upstream does.

    Each costs as much as a frame of ordinary memory; four keep the cost bounded however often a clip is
    corrected, and up to four keyframes nothing differs from attending to all."""
    attend_future: bool = False
    """Whether prompts that lie ahead in the direction of travel take part. Upstream attends to them,
    which makes an object appear before its time or jump to a look-alike; off, a prompt never changes a
    frame behind it."""

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 2:
            raise ValueError("At least two conditioning frames must be allowed.")


@dataclass(frozen=True, slots=True)
class MemoryGeometry:
    """How far a model looks back: the numbers of `SAM2Base` that select memories."""

    map_count: int
    """Memory maps a frame attends to, the conditioning one included (7 in SAM 2)."""
    stride: int
    """Distance of ordinary memory frames (1 in SAM 2)."""
    pointer_count: int
    """Frames whose object pointers are attended (16 in SAM 2); 0 for a model without pointers."""
    only_past_pointers: bool
    signed_pointer_time: bool

    @classmethod
    def of(cls, model: SAM2Base) -> MemoryGeometry:
        """The geometry of a model."""
        return cls(
            map_count=model.num_maskmem,
            stride=model.memory_temporal_stride_for_eval,
            pointer_count=model.max_obj_ptrs_in_encoder if model.use_obj_ptrs_in_encoder else 0,
            only_past_pointers=model.only_obj_ptrs_in_the_past_for_eval,
            signed_pointer_time=model.use_signed_tpos_enc_to_obj_ptrs,
        )

    @property
    def map_reach(self) -> int:
        """Distance in frames of the farthest ordinary memory map that can be attended."""
        return 1 + (self.map_count - 2) * self.stride if self.map_count > 1 else 0

    @property
    def reach(self) -> int:
        """Distance in frames beyond which an ordinary frame is never attended to again."""
        return max(self.map_reach, self.pointer_count - 1)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The frames to attend to, in the order of the tokens."""

    maps: tuple[tuple[int, int], ...]
    """(t_pos, frame index) of every memory map; t_pos 0 is a conditioning frame, the highest the newest
    frame."""
    pointers: tuple[tuple[int, int], ...]
    """(time distance as the model encodes it, frame index) of every object pointer."""


def plan_memory(
    geometry: MemoryGeometry,
    rule: ConditioningRule,
    frame_index: int,
    frame_count: int,
    conditioning: Collection[int],
    mapped: Collection[int],
    pointed: Collection[int],
    reverse: bool,
    absent: Collection[int] = (),
) -> MemoryPlan:
    """Choose the memories of one frame.

    Args:
        frame_count: length of the video, in frames.
        conditioning: prompted frames of the object, without ``frame_index`` itself.
        mapped: frames of the object with an ordinary memory map.
        pointed: frames of the object with an ordinary object pointer.
        reverse: whether tracking runs towards frame 0.
        absent: conditioning frames that say "not in view". Half of the places are kept for the others:
            frames without the object do not tell what it looks like.
    """
    sign = -1 if reverse else 1

    def is_past(other: int) -> bool:
        return (frame_index - other) * sign >= 0

    admitted = {t: t for t in sorted(conditioning) if rule.attend_future or is_past(t)}
    cap = -1 if rule.max_frames is None else rule.max_frames
    selected, unselected = select_closest_cond_frames(frame_index, admitted, cap)
    _keep_in_view(frame_index, selected, unselected, absent)

    maps = [(0, t) for t in selected]
    for t_pos in range(1, geometry.map_count):
        t = _ordinary_frame(frame_index, geometry.map_count - t_pos, geometry.stride, sign)
        if t in mapped or t in unselected:
            maps.append((t_pos, t))

    pointers: list[tuple[int, int]] = []
    if geometry.pointer_count > 0:
        for t in selected:
            if is_past(t) or not geometry.only_past_pointers:
                distance = (frame_index - t) * sign
                pointers.append((distance if geometry.signed_pointer_time else abs(distance), t))
        for distance in range(1, min(frame_count, geometry.pointer_count)):
            t = frame_index - distance * sign
            if t in pointed or t in unselected:
                pointers.append((distance, t))
    return MemoryPlan(tuple(maps), tuple(pointers))


def _keep_in_view(
    frame_index: int, selected: dict[int, int], unselected: dict[int, int], absent: Collection[int]
) -> None:
    """Let frames that show the object take places of frames that do not, until they have half of them."""
    gone = sorted((t for t in selected if t in absent), key=lambda t: abs(t - frame_index))
    shown = sorted((t for t in unselected if t not in absent), key=lambda t: -abs(t - frame_index))
    while shown and len(gone) > len(selected) // 2:
        leaves, comes = gone.pop(), shown.pop()
        unselected[leaves] = selected.pop(leaves)
        selected[comes] = unselected.pop(comes)


def _ordinary_frame(frame_index: int, steps_back: int, stride: int, sign: int) -> int:
    """The frame ``steps_back`` memories before this one; beyond the last frame only every stride-th
    counts."""
    if steps_back == 1:
        return frame_index - sign
    if sign > 0:
        nearest = ((frame_index - 2) // stride) * stride
    else:
        nearest = -(-(frame_index + 2) // stride) * stride
    return nearest - sign * (steps_back - 2) * stride
