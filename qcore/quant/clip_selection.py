"""Which frames of which videos a calibration uses, and which it keeps for checking the result. Free of torch.

The paper's set is 8 clips of 20 frames. Frames are taken ``stride`` apart (4 at 24 frames a second is the 6 a
second that SA-V is annotated at), so that 20 of them span over three seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qcore.masks import Rle
from qcore.quant.errors import QuantizationError
from qcore.video import FrameSource, open_source

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the video."""
Rgb = npt.NDArray[np.uint8]

HELD_OUT_FRAMES = 16
"""At most so many frames of a clip are kept for checking the result."""
FEWEST_HELD_OUT = 4


@dataclass(frozen=True)
class AcceptedObject:
    """One object's masks that a person made or accepted: frame index to mask."""

    name: str
    masks: Mapping[int, Rle]


@dataclass(frozen=True)
class ClipRequest:
    """A video, frame folder or project's video, with the prompts known for it: (frame index, box)."""

    path: Path
    prompts: tuple[tuple[int, Box], ...] = ()
    accepted: tuple[AcceptedObject, ...] = ()
    """Truth to measure a result against; never used to calibrate."""


@dataclass(frozen=True)
class ClipPlan:
    """Frames of one clip by number, before anything is decoded."""

    path: Path
    indices: tuple[int, ...]
    """Frames to calibrate on, ascending."""
    box_xyxy: Box | None = None
    """The prompt on the first of them; None: an object is proposed by the model."""
    held_out: tuple[int, ...] = ()
    """Frames to check the result on; none of them is used by any clip of the same video."""

    @property
    def name(self) -> str:
        """E.g. ``dog.mp4@24``."""
        return f"{self.path.name}@{self.indices[0]}"


@dataclass(frozen=True)
class ClipSet:
    """All clips of a calibration."""

    clips: tuple[ClipPlan, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """File name to the reason it is not used."""

    @property
    def frame_count(self) -> int:
        """Frames to calibrate on, over all clips."""
        return sum(len(clip.indices) for clip in self.clips)

    @property
    def held_out_count(self) -> int:
        """Frames kept for checking."""
        return sum(len(clip.held_out) for clip in self.clips)


def plan_clips(
    requests: Sequence[ClipRequest],
    clips: int = 8,
    frames_per_clip: int = 20,
    stride: int = 4,
    opener: Callable[[Path], FrameSource] = open_source,
) -> list[ClipPlan]:
    """Spread ``clips`` clips over the given videos, as evenly as they go.

    A video that is asked for several clips gives them at evenly spaced starts, or at its prompts' frames; a
    short one is sampled with a smaller stride. Fewer videos than clips is fine.

    Raises:
        QuantizationError: no video given, or one too short to hold two frames.
        VideoError: a video cannot be read.
    """
    if not requests:
        raise QuantizationError("Calibration needs at least one video or folder of frames.")
    if frames_per_clip < 2 or clips < 1 or stride < 1:
        raise QuantizationError("Calibration needs at least one clip of two frames.")
    shares = [clips // len(requests) + (i < clips % len(requests)) for i in range(len(requests))]
    found: list[ClipPlan] = []
    for request, share in zip(requests, shares):
        if share == 0:
            continue
        with opener(request.path) as source:
            count = len(source)
        if count < 2:
            raise QuantizationError(f"{request.path.name} is too short to calibrate on.")
        found += _plan_video(request, count, share, frames_per_clip, stride)
    return found


def _plan_video(
    request: ClipRequest, count: int, share: int, frames_per_clip: int, stride: int
) -> list[ClipPlan]:
    step = max(1, min(stride, (count - 1) // (frames_per_clip - 1)))
    span = step * (frames_per_clip - 1)
    latest = max(0, count - 1 - span)
    starts: list[tuple[int, Box | None]] = []
    starts += [(frame, box) for frame, box in request.prompts if frame < count - 1][:share]
    if not starts:
        starts = [(round(latest * (i + 0.5) / share), None) for i in range(share)]
    used = [tuple(i for i in range(start, start + span + 1, step) if i < count) for start, _ in starts]
    taken = {index for indices in used for index in indices}
    plans: list[ClipPlan] = []
    for indices, (_, box) in zip(used, starts):
        held_out = _held_out(indices, taken, count, step)
        taken |= set(held_out)  # two clips check different frames
        plans.append(ClipPlan(request.path, indices, box, held_out))
    return plans


def _held_out(indices: tuple[int, ...], taken: set[int], count: int, step: int) -> tuple[int, ...]:
    """Frames of a video that nothing uses yet: after the clip, else before it, else between its frames."""

    def free(start: int, stop: int) -> tuple[int, ...]:
        run: list[int] = []
        for index in range(start, stop, step):
            if index in taken:
                break
            run.append(index)
        return tuple(run[:HELD_OUT_FRAMES])

    after = free(indices[-1] + step, count)
    earliest = indices[0] - step * HELD_OUT_FRAMES
    before = free(max(indices[0] % step, earliest), indices[0])
    between = free(indices[0] + step // 2, min(count, indices[-1] + 1)) if step > 1 else ()
    best = max((after, before, between), key=len)
    return best if len(best) >= FEWEST_HELD_OUT else ()


def read_frames(
    path: Path, indices: Sequence[int], opener: Callable[[Path], FrameSource] = open_source
) -> tuple[Rgb, ...]:
    """Decode frames: uint8 RGB (H, W, 3) each.

    Raises:
        VideoError: the video cannot be read.
    """
    with opener(path) as source:
        return tuple(np.ascontiguousarray(source[i]) for i in indices)
