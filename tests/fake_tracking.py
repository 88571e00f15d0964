"""A session that needs no model, and the clip it understands: squares of one brightness each on black.

An object is the square under its prompt; tracking finds the square of the same brightness again. So every
test knows the right mask of every frame without asking the code under test.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from app.engine.backend import LoadedModel, Recall
from app.engine.records import MutualKvChoice, MutualKvFacts
from qcore.masks import Rle, decode, empty, encode
from qcore.tracking.types import Direction, MaskResult, Prompt

HEIGHT, WIDTH, SIDE = 64, 96, 16
LEVELS = (120, 220)
"""Brightness of square 0 (moves right from the left edge) and square 1 (stands still)."""


def corner(square: int, frame: int) -> tuple[int, int]:
    """(x, y) of a square's upper left pixel."""
    return (2 + 2 * frame, 8) if square == 0 else (60, 40)


def centre(square: int, frame: int) -> tuple[float, float]:
    """(x, y) of a square's middle."""
    x, y = corner(square, frame)
    return x + SIDE / 2, y + SIDE / 2


def box(square: int, frame: int) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 around a square, a little too large."""
    x, y = corner(square, frame)
    return (max(0.0, x - 2.0), y - 2.0, x + SIDE + 2.0, y + SIDE + 2.0)


def true_mask(square: int, frame: int) -> np.ndarray:
    """uint8 (H, W) of a square."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    x, y = corner(square, frame)
    mask[y : y + SIDE, x : x + SIDE] = 1
    return mask


def picture(frame: int) -> np.ndarray:
    """uint8 RGB (H, W, 3) of a frame."""
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    for square in (1, 0):
        grey[true_mask(square, frame) > 0] = LEVELS[square]
    return np.repeat(grey[..., None], 3, axis=2)


def write_clip(path: Path, frames: int = 24, fps: int = 12) -> Path:
    """Encode the clip losslessly enough that every square keeps its brightness."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "4", "g": "6", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for frame in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


class FakeFrames:
    """The clip without a file."""

    def __init__(self, count: int = 24) -> None:
        self.count = count
        self.closed = False

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return picture(index)

    def close(self) -> None:
        self.closed = True


class FakeSession:
    """Behaves as `qcore.tracking.VideoSession` does, on brightness instead of features."""

    def __init__(self, frames: Any, recall: Recall, backend: FakeBackend) -> None:
        self.frames = frames
        self.recall = recall
        self.backend = backend
        self.keyframes: dict[int, dict[int, Rle]] = {}
        self.encoded: set[int] = set()
        self.log: list[tuple[str, Any]] = []

    def _find(self, frame: int, level: int) -> Rle:
        grey = np.asarray(self.frames[frame])[..., 1].astype(int)
        return encode(np.abs(grey - level) < 30)

    def _answer(self, prompt: Prompt) -> MaskResult:
        if prompt.mask is not None:
            return MaskResult(prompt.frame_index, prompt.object_id, prompt.mask, 1.0, 1.0)
        grey = np.asarray(self.frames[prompt.frame_index])[..., 1]
        if prompt.box_xyxy is not None:
            x0, y0, x1, y1 = prompt.box_xyxy
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
        else:
            positive = [p for p, label in zip(prompt.points_xy, prompt.labels, strict=True) if label]
            x, y = positive[0] if positive else (0.0, HEIGHT - 1.0)
        level = int(grey[min(int(y), HEIGHT - 1), min(int(x), WIDTH - 1)])
        rle = self._find(prompt.frame_index, level) if level > 60 else empty((HEIGHT, WIDTH))
        return MaskResult(prompt.frame_index, prompt.object_id, rle, 0.9, 0.95)

    def set_prompt(self, prompt: Prompt) -> MaskResult:
        self.log.append(("set_prompt", prompt))
        if self.backend.fail_clicks:
            raise ValueError("boom")
        result = self._answer(prompt)
        self.keyframes.setdefault(prompt.object_id, {})[prompt.frame_index] = result.rle
        return result

    def preview(self, prompt: Prompt) -> MaskResult:
        self.log.append(("preview", prompt))
        return self._answer(prompt)

    def clear_prompts(self, object_id: int, frame_index: int | None = None) -> None:
        self.log.append(("clear", (object_id, frame_index)))
        known = self.keyframes.get(object_id, {})
        for frame in list(known) if frame_index is None else [frame_index]:
            known.pop(frame, None)

    def remove_object(self, object_id: int) -> None:
        self.keyframes.pop(object_id, None)

    def propagate(
        self,
        start: int,
        stop: int,
        direction: Direction,
        objects: Sequence[int] | None,
        starts: Mapping[int, int] | None = None,
    ) -> Iterator[MaskResult]:
        self.log.append(("propagate", (start, stop, direction, tuple(objects or ()))))
        step = -1 if direction is Direction.BACKWARD else 1
        low, high = min(start, stop), max(start, stop)
        for frame in range(low, high + 1) if step == 1 else range(high, low - 1, -1):
            for object_id in objects or ():
                if (frame - (starts or {}).get(object_id, start)) * step < 0:
                    continue
                if self.backend.hold_at is None or frame >= self.backend.hold_at:
                    self.backend.gate.wait(20)
                if self.backend.fail_at == frame:
                    raise RuntimeError("the tracker broke")
                self.encoded.add(frame)
                yield self._track(frame, object_id)

    def _track(self, frame: int, object_id: int) -> MaskResult:
        keys = self.keyframes[object_id]
        if frame in keys:
            return MaskResult(frame, object_id, keys[frame], 1.0, 1.0)
        nearest = min(keys, key=lambda k: abs(k - frame))
        grey = np.asarray(self.frames[nearest])[..., 1]
        inside = decode(keys[nearest]) > 0
        if not inside.any():
            return MaskResult(frame, object_id, empty((HEIGHT, WIDTH)), 0.8, 0.1)
        level = int(np.median(grey[inside]))
        score = 0.3 if frame in self.backend.unsure else 0.9
        return MaskResult(frame, object_id, self._find(frame, level), score, 0.95)

    def encode(self, frame_index: int) -> None:
        self.log.append(("encode", frame_index))
        self.encoded.add(frame_index)

    def encoded_frames(self) -> np.ndarray:
        flags = np.zeros(len(self.frames), np.bool_)
        flags[sorted(self.encoded)] = True
        return flags


class FakeBackend:
    """Makes fake sessions; `gate` holds a propagation between two frames while it is cleared."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.hold_at: int | None = None
        """With a number, only frames from there on wait for the gate."""
        self.sessions: list[FakeSession] = []
        self.fail_load = False
        self.fail_clicks = False
        self.fail_at = -1
        self.unsure: set[int] = set()
        self.threads: set[str] = set()

    @property
    def session(self) -> FakeSession:
        return self.sessions[-1]

    def load_model(self, model_id: str, device: str) -> LoadedModel:
        self.threads.add(threading.current_thread().name)
        if self.fail_load:
            raise OSError(2, "No such file or directory", "model.safetensors")
        return LoadedModel(object(), model_id, f"Fake {model_id}", "CPU", "fp32")

    def open_session(self, loaded: LoadedModel, frames: Any, recall: Recall) -> FakeSession:
        self.sessions.append(FakeSession(frames, recall, self))
        return self.sessions[-1]

    def release_memory(self, loaded: LoadedModel) -> None:
        return None

    def set_mutual_kv(self, loaded: LoadedModel, session: FakeSession, choice: MutualKvChoice) -> None:
        session.log.append(("mutual_kv", choice))

    def mutual_kv_facts(self, session: FakeSession) -> MutualKvFacts | None:
        choices = [value for name, value in session.log if name == "mutual_kv"]
        tracked = any(name == "propagate" for name, _ in session.log)
        return MutualKvFacts(7.0, 3.0, 0.41) if choices[-1].enabled and tracked else None
