"""A bounded store of encoded frames: the oldest-used frame leaves when the budget in bytes is exceeded.

The image encoder dominates the cost of tracking; with its output kept, clicking on a frame again or
tracking a span a second time costs no encoder at all (upstream keeps a single frame).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch

DEFAULT_FEATURE_CACHE_BYTES = 768 << 20


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """The image encoder's output for one frame."""

    levels: tuple[torch.Tensor, ...]
    """Features, highest resolution first: tensors (1, C, H, W)."""
    picture_hw3: torch.Tensor | None = None
    """The frame itself, uint8 RGB (S, S, 3), where S is the model's input size; None where no session's
    aids look at it."""

    @property
    def top_bchw(self) -> torch.Tensor:
        """The level that memory attention works on (stride 16)."""
        return self.levels[-1]

    @property
    def high_res(self) -> list[torch.Tensor] | None:
        """The finer levels (strides 4 and 8) for the mask decoder; None for models without them."""
        return list(self.levels[:-1]) or None

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        held = self.levels if self.picture_hw3 is None else (*self.levels, self.picture_hw3)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


class FeatureCache:
    """Encoded frames by frame index, at most ``budget_bytes`` of them (but never fewer than one).

    Safe to use from several threads.
    """

    def __init__(self, budget_bytes: int = DEFAULT_FEATURE_CACHE_BYTES) -> None:
        self.budget_bytes = budget_bytes
        self._frames: OrderedDict[int, EncodedFrame] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, frame_index: int) -> bool:
        return frame_index in self._frames

    def __iter__(self) -> Iterator[int]:
        with self._lock:
            return iter(list(self._frames))

    @property
    def size_bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, frame_index: int) -> EncodedFrame | None:
        """The encoded frame, marked as used now; None when it is not here."""
        with self._lock:
            frame = self._frames.get(frame_index)
            if frame is not None:
                self._frames.move_to_end(frame_index)
            return frame

    def put(self, frame_index: int, frame: EncodedFrame) -> None:
        """Keep a frame and drop the oldest-used ones until the budget holds again."""
        with self._lock:
            self.drop(frame_index)
            self._frames[frame_index] = frame
            self._bytes += frame.size_bytes
            while self._bytes > self.budget_bytes and len(self._frames) > 1:
                self.drop(next(iter(self._frames)))

    def drop(self, frame_index: int) -> None:
        """Forget one frame; nothing happens when it is not here."""
        with self._lock:
            frame = self._frames.pop(frame_index, None)
            if frame is not None:
                self._bytes -= frame.size_bytes

    def clear(self) -> None:
        """Forget every frame."""
        with self._lock:
            self._frames.clear()
            self._bytes = 0
