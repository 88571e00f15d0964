"""Does a model notice that its object has left? Measured on clips whose object goes out of view and returns.

The clips are made of a labelled data set: the object of one sequence, with its own motion, moves out of the
picture of another sequence, stays away, and comes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from qcore import masks
from qcore.evaluation.trackers import SessionTracker, Tracker
from qcore.models import load_model
from qcore.runtime import lower
from qcore.tracking.types import Prompt
from qcore.training.errors import TrainingError
from qcore.training.pack import UInt8
from qcore.training.sources import davis_sequence, davis_sequence_names
from qcore.video import FrameSource

LEAVES, GONE, RETURNS, BACK = 0.25, 0.4, 0.6, 0.75
"""When the object begins to leave, is out of view, begins to return, and is back: shares of the clip."""
CLEARLY_PRESENT = 0.25
"""Share of the object inside the picture from which it counts as present; less, but not 0, is not judged."""


@dataclass(frozen=True, slots=True)
class ExitClip:
    """A clip whose object leaves and returns."""

    name: str
    frames_thwc: UInt8
    truth_thw: NDArray[np.bool_]
    in_view_t: NDArray[np.float64]
    """Share of the object that lies inside the picture, 0..1."""


@dataclass(frozen=True, slots=True)
class PresenceReport:
    """How well absence is noticed, over all clips."""

    clips: int
    absent_frames: int
    present_frames: int
    reported_absent: float
    """Percent of the frames without the object on which the model says so."""
    present_lost: float
    """Percent of the frames with the object on which the model says that it is absent."""
    iou_before: float
    """Mean IoU on frames before the object leaves, 0..1."""
    iou_after: float
    """Mean IoU after its return: 0 for a model that never finds it again."""

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        return (
            f"absent reported absent: {self.reported_absent:.1f} % of {self.absent_frames} frames\n"
            f"present reported absent: {self.present_lost:.1f} % of {self.present_frames} frames\n"
            f"IoU before leaving {self.iou_before:.3f}, after returning {self.iou_after:.3f}\n"
            f"({self.clips} clips)"
        )


def measure_presence(
    model: str | Path, davis_root: Path, frames: int = 36, kernels: bool = False
) -> PresenceReport:
    """Score a model of the registry or a model file; box prompts on the first frame.

    Args:
        model: id or path.
        davis_root: a data set in DAVIS layout with at least two sequences.
        frames: length of each clip.
        kernels: compute on the machine's fast kernels, as the program does; they round, each machine's in
            its own way.
    """
    loaded = load_model(model)
    if kernels:
        lower(loaded)
    return score_presence(SessionTracker(loaded), exit_clips(davis_root, frames))


def score_presence(tracker: Tracker, clips: Iterable[ExitClip]) -> PresenceReport:
    """Track the object of every clip from its box on the first frame and compare."""
    absent: list[bool] = []
    lost: list[bool] = []
    before: list[float] = []
    after: list[float] = []
    names: set[str] = set()
    for clip, seen in tracked_frames(tracker, clips):
        names.add(clip.name)
        first_gone = int(np.argmax(clip.in_view_t == 0))
        if clip.in_view_t[seen.frame_index] == 0:
            absent.append(seen.says_absent)
        elif clip.in_view_t[seen.frame_index] >= CLEARLY_PRESENT:
            lost.append(seen.says_absent)
            (before if seen.frame_index < first_gone else after).append(seen.iou)
    if not absent or not lost:
        raise TrainingError("The data set gives no clip whose object leaves the picture.")
    return PresenceReport(
        clips=len(names),
        absent_frames=len(absent),
        present_frames=len(lost),
        reported_absent=100 * float(np.mean(absent)),
        present_lost=100 * float(np.mean(lost)),
        iou_before=float(np.mean(before)) if before else 0.0,
        iou_after=float(np.mean(after)) if after else 0.0,
    )


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """What a tracker said of a frame, and how well its mask fits."""

    frame_index: int
    says_absent: bool
    iou: float


def tracked_frames(tracker: Tracker, clips: Iterable[ExitClip]) -> Iterator[tuple[ExitClip, SeenFrame]]:
    """Track the object of every clip from its box on the first frame; all frames but that one."""
    for clip in clips:
        ys, xs = np.nonzero(clip.truth_thw[0])
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        with ClipSource(clip) as source:
            for result in tracker.track(source, [Prompt(0, 1, box_xyxy=box)]):
                t = result.frame_index
                if t > 0:
                    mask_hw = masks.decode(result.rle) > 0
                    says_absent = result.presence < 0.5 or not mask_hw.any()
                    yield clip, SeenFrame(t, says_absent, _iou(mask_hw, clip.truth_thw[t]))


JUDGED_SHIFT = 3
"""How far apart host and guest of the judged clips stand in the list of sequences."""


def exit_clips(
    davis_root: Path, length: int, shift: int = JUDGED_SHIFT, mirrored: bool = False
) -> Iterator[ExitClip]:
    """One clip a sequence; always the same ones.

    Args:
        davis_root: a data set in DAVIS layout with at least two sequences.
        length: of each clip, in frames.
        shift: which sequence's object visits which other one.
        mirrored: the object leaves to the right.
    """
    names = davis_sequence_names(davis_root)
    if len(names) < 2:
        raise TrainingError(f"{davis_root} needs at least two sequences.")
    # never a sequence's own object
    shift = (shift - 1) % (len(names) - 1) + 1 if len(names) > JUDGED_SHIFT else 1
    for index, name in enumerate(names):
        guest = names[(index + shift) % len(names)]
        hosts, _ = davis_sequence(davis_root, name, length)
        guests, alphas = davis_sequence(davis_root, guest, length)
        clip = _paste_leaving(f"{name}+{guest}", hosts, guests, alphas, min(len(hosts), len(guests)))
        if clip is not None:
            yield _mirror(clip) if mirrored else clip


def _mirror(clip: ExitClip) -> ExitClip:
    frames = np.ascontiguousarray(clip.frames_thwc[:, :, ::-1])
    truth = np.ascontiguousarray(clip.truth_thw[:, :, ::-1])
    return ExitClip(clip.name + ", mirrored", frames, truth, clip.in_view_t)


def _paste_leaving(
    name: str, hosts: list[UInt8], guests: list[UInt8], alphas: list[UInt8], length: int
) -> ExitClip | None:
    height, width = hosts[0].shape[:2]
    x, y, w, h = cv2.boundingRect((alphas[0] > 127).astype(np.uint8))
    if not w or not h or length < 8:
        return None
    # a fifth of the picture high, or less where that would be too wide
    scale = min(0.45 * height / h, 0.4 * width / w)
    start = np.array([0.3 * width, 0.6 * height])
    away = np.array([-scale * w - 0.2 * width, 0.5 * height])
    frames, truth, in_view = [], [], []
    for t in range(length):
        gone = _share_gone(t / (length - 1))
        place = start + gone * (away - start)
        affine = np.array(
            [[scale, 0, place[0] - scale * (x + w / 2)], [0, scale, place[1] - scale * (y + h / 2)]],
            np.float32,
        )
        # drawn on a wider canvas first, to know how much of the object lies outside
        margin = 2 * width
        wide = affine + np.array([[0, 0, margin], [0, 0, margin]], np.float32)
        size = (width + 2 * margin, height + 2 * margin)
        whole = int((cv2.warpAffine(alphas[t], wide, size, flags=cv2.INTER_NEAREST) > 127).sum())
        alpha = cv2.GaussianBlur(cv2.warpAffine(alphas[t], affine, (width, height)), (0, 0), 0.8)
        soft = (alpha.astype(np.float32) / 255)[..., None]
        picture = cv2.warpAffine(guests[t], affine, (width, height)).astype(np.float32)
        frames.append((hosts[t] * (1 - soft) + picture * soft).astype(np.uint8))
        inside = alpha > 127
        truth.append(inside)
        in_view.append(float(inside.sum()) / max(1, whole))
    if in_view[0] < CLEARLY_PRESENT:
        return None
    return ExitClip(name, np.stack(frames), np.stack(truth), np.array(in_view))


def _share_gone(time: float) -> float:
    """0 at its place, 1 out of view."""
    return float(np.interp(time, [0, LEAVES, GONE, RETURNS, BACK, 1], [0, 0, 1, 1, 0, 0]))


def _iou(a_hw: NDArray[np.bool_], b_hw: NDArray[np.bool_]) -> float:
    union = int((a_hw | b_hw).sum())
    return int((a_hw & b_hw).sum()) / union if union else 1.0


class ClipSource(FrameSource):
    """The frames of an `ExitClip` as a source, for anything that tracks."""

    def __init__(self, clip: ExitClip) -> None:
        frames = clip.frames_thwc
        times = np.arange(len(frames), dtype=np.float64) / 24
        super().__init__(Path(clip.name), (frames.shape[1], frames.shape[2]), times, 24.0)
        self._clip = clip

    @property
    def fingerprint(self) -> str:
        """Hash of the pixels."""
        return hashlib.sha256(self._clip.frames_thwc.tobytes()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of the pixels."""
        return int(self._clip.frames_thwc.nbytes)

    def reopen(self, cache_bytes: int | None = None) -> FrameSource:
        """Another source of the same frames."""
        return ClipSource(self._clip)

    def _read(self, index: int) -> Any:
        return self._clip.frames_thwc[index]
