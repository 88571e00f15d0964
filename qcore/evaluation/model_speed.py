"""What one model costs on this machine: time a frame and memory, measured the way the program runs it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcore.evaluation.memory import peak_rss_bytes

Rgb = npt.NDArray[np.uint8]
FRAMES = 12
"""Frames that are tracked; the first three warm up and do not count."""
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """One object tracked through a clip. Times are medians over frames, of wall time."""

    encode_ms: float
    """The image encoder, once a frame for all objects."""
    track_ms: float
    """Each object on an encoded frame: memory attention, mask, new memory."""
    peak_rss_mb: float
    """Largest memory of the process so far, in MiB: of interest in a process that did nothing else."""
    device: str
    arithmetic: str
    """Of the large products, e.g. ``fp32`` or ``bf16``."""
    threads: int

    @property
    def frame_ms(self) -> float:
        """One object on a new frame."""
        return self.encode_ms + self.track_ms

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return {**{k: _one(v) for k, v in asdict(self).items()}, "frame_ms": _one(self.frame_ms)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModelSpeed:
        """Read `to_json`'s data.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(
                float(value["encode_ms"]), float(value["track_ms"]), float(value["peak_rss_mb"]),
                str(value["device"]), str(value["arithmetic"]), int(value["threads"]),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError("not a measurement of a model's speed") from error


def _one(value: Any) -> Any:
    return round(value, 1) if isinstance(value, float) else value


class ClipFrames:
    """Decoded frames as the source of a session: uint8 RGB (H, W, 3) each, all of one size."""

    def __init__(self, frames: Sequence[Rgb]) -> None:
        self._frames = frames
        height, width = frames[0].shape[:2]
        self.size = (height, width)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int, /) -> Rgb:
        return self._frames[index]


def measure_model(id_or_path: str, frames: Sequence[Rgb], device: str = "cpu") -> ModelSpeed:
    """Load a model, put it on this device's kernels and track an object in the middle of the frames.

    Args:
        id_or_path: as `qcore.models.load_model` takes it.
        frames: at least four; more than `FRAMES` are not used.
        device: where it runs.

    Raises:
        ModelError: the model cannot be loaded.
        ValueError: too few frames.
    """
    import torch

    from qcore.models import load_model
    from qcore.runtime import lower
    from qcore.tracking.session import VideoSession

    if len(frames) <= _WARM_UP:
        raise ValueError(f"{_WARM_UP + 1} frames are needed to measure a model, not {len(frames)}")
    model = load_model(id_or_path, device=device)
    kernels = lower(model)
    clip = ClipFrames(frames[:FRAMES])
    height, width = clip.size
    session = VideoSession(model, clip)
    session.add_box(0, 1, (width * 0.3, height * 0.3, width * 0.7, height * 0.7))
    encode_s: list[float] = []
    track_s: list[float] = []
    steps = session.propagate(0, len(clip) - 1)
    for index in range(len(clip)):
        started = time.perf_counter()
        session.encode(index)
        _wait(device)
        encoded = time.perf_counter()
        next(steps)
        _wait(device)
        encode_s.append(encoded - started)
        track_s.append(time.perf_counter() - encoded)
    return ModelSpeed(
        1000 * statistics.median(encode_s[_WARM_UP:]),
        1000 * statistics.median(track_s[_WARM_UP:]),
        peak_rss_bytes() / 2**20,
        kernels.device,
        kernels.arithmetic,
        torch.get_num_threads(),
    )


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
