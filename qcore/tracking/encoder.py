"""Runs the image encoder on a video's frames, each at most once while the cache holds it.

Frames to come can be encoded ahead by other threads (`LookAhead`), with the part of memory attention that all
objects of a frame share; only one thread at a time reads the video.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_base import SAM2Base

from qcore.tracking.feature_cache import EncodedFrame, FeatureCache
from qcore.tracking.feature_store import FeatureStore
from qcore.tracking.memory_attention import as_tokens, attend_itself
from qcore.tracking.preprocess import Frames, computes_exactly, image_tensor
from qcore.tracking.workers import Workers

LOOK_AHEAD_FRAMES = 2
"""Frames encoded before they are needed: with one, the worker would wait at every frame's end."""


class FrameEncoder:
    """Encoded frames of one video by one model.

    Args:
        storage_dtype: dtype the features are kept (and used) in; None keeps them exactly as computed.
            Rounding happens before the first use, so a mask never depends on whether its frame came from the
            cache.
        store: keeps them on disk too.
    """

    def __init__(
        self,
        model: SAM2Base,
        source: Frames,
        cache: FeatureCache,
        storage_dtype: torch.dtype | None = None,
        store: FeatureStore | None = None,
    ) -> None:
        self._model = model
        self._source = source
        self._storage_dtype = storage_dtype
        self._store = store
        self._exact = computes_exactly(model)
        self._position_1chw: torch.Tensor | None = None
        self._reading = threading.Lock()
        self._lock = threading.Lock()
        """Guards the encodings that run."""
        self._running: dict[int, Future[EncodedFrame]] = {}
        self._self_attended: OrderedDict[int, torch.Tensor] = OrderedDict()
        self.cache = cache
        self.encoder_runs = 0

    def __getitem__(self, frame_index: int) -> EncodedFrame:
        """The encoded frame, from the cache, the store on disk, or computed now."""
        with self._lock:
            running = self._running.get(frame_index)
        # what runs no more is in the cache
        frame = self.cache.get(frame_index) if running is None else running.result()
        if frame is None:
            frame = self._encode_frame(frame_index, self._source)
        return EncodedFrame(tuple(self._as_used(level) for level in frame.levels))

    def self_attended(self, frame_index: int, frame: EncodedFrame) -> torch.Tensor | None:
        """What all objects of a frame share of memory attention, see `memory_attention.attend_itself`.

        Kept for the last few frames.
        """
        with self._lock:
            attended_bnc = self._self_attended.get(frame_index)
        if attended_bnc is not None:
            return attended_bnc
        top_bchw = self._as_used(frame.top_bchw)
        position_1chw = self.position_1chw.to(top_bchw.dtype)
        attended_bnc = attend_itself(
            self._model.memory_attention, as_tokens(top_bchw), as_tokens(position_1chw)
        )
        if attended_bnc is not None:
            with self._lock:
                self._self_attended[frame_index] = attended_bnc
                while len(self._self_attended) > LOOK_AHEAD_FRAMES + 1:
                    self._self_attended.popitem(last=False)
        return attended_bnc

    def _as_used(self, level_bchw: torch.Tensor) -> torch.Tensor:
        return level_bchw if self._storage_dtype is None else level_bchw.to(self._model_dtype)

    @property
    def position_1chw(self) -> torch.Tensor:
        """Position encoding of the top level, the same for every frame; known once there was a frame."""
        assert self._position_1chw is not None, "no frame was encoded yet"
        return self._position_1chw

    def picture(self, frame_index: int) -> npt.NDArray[np.uint8]:
        """The frame itself, uint8 RGB (H, W, 3)."""
        with self._reading:
            return self._source[frame_index]

    def encode_pictures(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> list[EncodedFrame]:
        """Encode pictures (H, W, 3) that are no frames of the video; they are not cached."""
        model = self._model
        images = torch.cat([self._image(picture) for picture in pictures])
        backbone = model.forward_image(images)
        if self._position_1chw is None:
            self._position_1chw = backbone["vision_pos_enc"][-1][:1]
        levels = backbone["backbone_fpn"][-model.num_feature_levels :]
        return [EncodedFrame(tuple(level[k : k + 1] for level in levels)) for k in range(len(pictures))]

    def _image(self, rgb_hw3: npt.NDArray[np.uint8]) -> torch.Tensor:
        model = self._model
        return image_tensor(rgb_hw3, model.image_size, model.device, self._exact).to(self._model_dtype)

    def _level_shapes(self) -> list[tuple[int, ...]]:
        """(1, C, H, W) of every level."""
        model, width = self._model, self._model.hidden_dim
        widths = (width // 8, width // 4) if model.use_high_res_features_in_sam else (width, width)
        sides = [model.image_size // stride for stride in (4, 8, 16)]
        shapes: list[tuple[int, ...]] = [
            (1, c, side, side) for c, side in zip((*widths, width), sides, strict=True)
        ]
        return shapes[-model.num_feature_levels :]

    @property
    def _model_dtype(self) -> torch.dtype:
        return next(self._model.parameters()).dtype

    @contextlib.contextmanager
    def look_ahead(self, workers: Workers | None, computing: Any) -> Iterator[LookAhead | None]:
        """Encode frames ahead inside the block; nothing without workers.

        Args:
            workers: they outlive the block's encodings: close them after it.
            computing: makes the context manager to compute in, as the caller does.
        """
        if workers is None:
            yield None
            return
        # a decoder of its own where there is one: the caller may read the video meanwhile
        reopen = getattr(self._source, "reopen", None)
        source: Any = self._source if reopen is None else reopen()
        ahead = LookAhead(self, source, workers, computing)
        try:
            yield ahead
        finally:
            ahead.stop()
            if source is not self._source:
                source.close()

    def _encode_frame(self, frame_index: int, source: Frames) -> EncodedFrame:
        frame = None if self._store is None else self._store.get(frame_index, self._level_shapes())
        if frame is None:
            with self._reading:
                rgb_hw3 = source[frame_index]
            frame = self._encode(rgb_hw3)
            if self._store is not None:
                self._store.put(frame_index, frame)
        else:
            frame = EncodedFrame(tuple(level.to(self._model.device) for level in frame.levels))
            if self._position_1chw is None:
                # it depends on the shape alone
                top_bchw = frame.top_bchw.to(self._model_dtype)
                self._position_1chw = self._model.image_encoder.neck.position_encoding(top_bchw).to(top_bchw)
        self.cache.put(frame_index, frame)
        return frame

    def _encode(self, rgb_hw3: npt.NDArray[np.uint8]) -> EncodedFrame:
        model = self._model
        backbone = model.forward_image(self._image(rgb_hw3))
        with self._lock:
            self.encoder_runs += 1
        if self._position_1chw is None:
            self._position_1chw = backbone["vision_pos_enc"][-1]
        levels = backbone["backbone_fpn"][-model.num_feature_levels :]
        if self._storage_dtype is not None:
            levels = [level.to(self._storage_dtype) for level in levels]
        return EncodedFrame(tuple(levels))


class LookAhead:
    """Encodes the next frames of a walk while the ones before are tracked."""

    def __init__(self, encoder: FrameEncoder, source: Frames, workers: Workers, computing: Any) -> None:
        self._encoder, self._source = encoder, source
        self._workers, self._computing = workers, computing
        self._is_late = False
        """Whether the objects had to wait for the last frame that they asked for."""

    def missing(self, frame_indices: Collection[int]) -> list[int]:
        """Those frames that can be begun: neither encoded nor running nor too large to be kept."""
        encoder = self._encoder
        with encoder._lock:
            return [
                t
                for t in frame_indices
                if t not in encoder._running and t not in encoder.cache and self._fits()
            ]

    def demand(self, frame_index: int) -> None:
        """Begin with the frame that is tracked next, if it is missing, and note whether its objects wait."""
        self.begin([frame_index])
        with self._encoder._lock:
            self._is_late = frame_index in self._encoder._running

    def begin(self, frame_indices: Collection[int]) -> None:
        """Begin with what is missing of these frames, nearest first."""
        for frame_index in self.missing(frame_indices):
            with self._encoder._lock:
                self._encoder._running[frame_index] = self._workers.submit(self._encode, frame_index)

    def stop(self) -> None:
        """Drop what has not begun and wait for the rest; errors of frames that nobody asked for go too."""
        with self._encoder._lock:
            running = list(self._encoder._running.values())
        for future in running:
            if not future.cancel():
                future.exception()
        with self._encoder._lock:
            self._encoder._running.clear()

    def _fits(self) -> bool:
        """Whether the cache keeps the frame in use, the frames ahead, and one more."""
        cache = self._encoder.cache
        mean_bytes = cache.size_bytes / max(1, len(cache))
        return (LOOK_AHEAD_FRAMES + 2) * mean_bytes <= cache.budget_bytes

    def _encode(self, frame_index: int) -> EncodedFrame:
        encoder = self._encoder
        try:
            with self._computing():
                frame = encoder._encode_frame(frame_index, self._source)
                if not self._is_late:  # there is time to do the objects' work too
                    encoder.self_attended(frame_index, frame)
                return frame
        finally:
            # the frame is in the cache by now; after an error the next one to ask tries again
            with encoder._lock:
                encoder._running.pop(frame_index, None)
