"""Runs the image encoder on a video's frames, each at most once while the cache holds it.

Frames to come can be encoded ahead by other threads (`LookAhead`), with what else all objects of a frame
share; only one thread at a time reads the video.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_base import SAM2Base

from qcore.tracking.aids import NO_AIDS, Aids
from qcore.tracking.appearance import features_of
from qcore.tracking.edges import Guide, guide_of
from qcore.tracking.feature_cache import EncodedFrame, FeatureCache
from qcore.tracking.feature_store import FeatureStore
from qcore.tracking.memory_attention import as_tokens, attend_itself
from qcore.tracking.preprocess import Frames, computes_exactly, normalised, square_picture
from qcore.tracking.workers import Workers

LOOK_AHEAD_FRAMES = 2
"""Frames encoded before they are needed: with one, the worker would wait at every frame's end."""

_Value = TypeVar("_Value")


class FrameEncoder:
    """Encoded frames of one video by one model.

    Args:
        storage_dtype: dtype the features are kept (and used) in; None keeps them exactly as computed.
            Rounding happens before the first use, so a mask never depends on whether its frame came from the
            cache.
        store: keeps them on disk too.
        aids: what else than features they ask for is kept with them.
    """

    def __init__(
        self,
        model: SAM2Base,
        source: Frames,
        cache: FeatureCache,
        storage_dtype: torch.dtype | None = None,
        store: FeatureStore | None = None,
        aids: Aids = NO_AIDS,
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
        self._self_attended = _LastFrames[torch.Tensor]()
        self._looks = _LastFrames[torch.Tensor]()
        self._guides = _LastFrames[Guide]()
        self.aids = aids
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
        return EncodedFrame(tuple(self._as_used(level) for level in frame.levels), frame.picture_hw3)

    def prepare(self, frame_index: int, frame: EncodedFrame) -> None:
        """Compute what all objects of a frame share."""
        self.self_attended(frame_index, frame)
        self.looks(frame_index, frame)
        self.guide(frame_index, frame)

    def self_attended(self, frame_index: int, frame: EncodedFrame) -> torch.Tensor | None:
        """What all objects of a frame share of memory attention, see `memory_attention.attend_itself`.

        Kept for the last few frames, as are `looks` and `guide`.
        """

        def attended() -> torch.Tensor | None:
            top_bchw = self._as_used(frame.top_bchw)
            position_1chw = self.position_1chw.to(top_bchw.dtype)
            return attend_itself(self._model.memory_attention, as_tokens(top_bchw), as_tokens(position_1chw))

        return self._self_attended.get(frame_index, attended)

    def looks(self, frame_index: int, frame: EncodedFrame) -> torch.Tensor | None:
        """What a model of looks sees of a frame, see `appearance.features_of`; None where nobody asks."""

        def features() -> torch.Tensor:
            return features_of(EncodedFrame(tuple(map(self._as_used, frame.levels)), frame.picture_hw3))

        return self._looks.get(frame_index, features) if self.aids.appearance else None

    def guide(self, frame_index: int, frame: EncodedFrame) -> Guide | None:
        """What outlines follow on a frame, see `edges.py`; None where they need not."""
        return self._guides.get(frame_index, lambda: guide_of(frame)) if self.aids.edges else None

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
        squares = [self._square(picture) for picture in pictures]
        images = torch.cat([self._image(square) for square in squares])
        backbone = model.forward_image(images)
        if self._position_1chw is None:
            self._position_1chw = backbone["vision_pos_enc"][-1][:1]
        levels = backbone["backbone_fpn"][-model.num_feature_levels :]
        return [
            self._encoded([level[k : k + 1] for level in levels], square) for k, square in enumerate(squares)
        ]

    def _encoded(self, levels: Sequence[torch.Tensor], square_hw3: torch.Tensor) -> EncodedFrame:
        return EncodedFrame(tuple(levels), square_hw3 if self.aids.see_pictures else None)

    def _square(self, rgb_hw3: npt.NDArray[np.uint8]) -> torch.Tensor:
        return square_picture(rgb_hw3, self._model.image_size, self._exact)

    def _image(self, square_hw3: torch.Tensor) -> torch.Tensor:
        return normalised(square_hw3, self._model.device).to(self._model_dtype)

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
    def look_ahead(
        self, workers: Workers | None, computing: Any, goes_back: bool
    ) -> Iterator[LookAhead | None]:
        """Encode frames ahead inside the block; nothing without workers.

        Args:
            workers: they outlive the block's encodings: close them after it.
            computing: makes the context manager to compute in, as the caller does.
            goes_back: whether frames are wanted before those that were wanted first: a decoder meets them on
                its way.
        """
        if workers is None:
            yield None
            return
        # a decoder of its own where there is one: the caller may read the video meanwhile
        reopen = getattr(self._source, "reopen", None)
        # without need it keeps no pictures: new memory for each takes as long as decoding it
        source: Any = self._source if reopen is None else reopen(None if goes_back else 0)
        ahead = LookAhead(self, source, workers, computing)
        try:
            yield ahead
        finally:
            ahead.stop()
            if source is not self._source:
                source.close()

    def _encode_frame(self, frame_index: int, source: Frames) -> EncodedFrame:
        frame = None
        if self._store is not None:
            picture_side = self._model.image_size if self.aids.see_pictures else None
            frame = self._store.get(frame_index, self._level_shapes(), picture_side)
        if frame is None:
            with self._reading:
                rgb_hw3 = source[frame_index]
            frame = self._encode(rgb_hw3)
            if self._store is not None:
                self._store.put(frame_index, frame)
        else:
            levels = tuple(level.to(self._model.device) for level in frame.levels)
            frame = EncodedFrame(levels, frame.picture_hw3)
            if self._position_1chw is None:
                # it depends on the shape alone
                top_bchw = frame.top_bchw.to(self._model_dtype)
                self._position_1chw = self._model.image_encoder.neck.position_encoding(top_bchw).to(top_bchw)
        self.cache.put(frame_index, frame)
        return frame

    def _encode(self, rgb_hw3: npt.NDArray[np.uint8]) -> EncodedFrame:
        model = self._model
        square_hw3 = self._square(rgb_hw3)
        backbone = model.forward_image(self._image(square_hw3))
        with self._lock:
            self.encoder_runs += 1
        if self._position_1chw is None:
            self._position_1chw = backbone["vision_pos_enc"][-1]
        levels = backbone["backbone_fpn"][-model.num_feature_levels :]
        if self._storage_dtype is not None:
            levels = [level.to(self._storage_dtype) for level in levels]
        return self._encoded(levels, square_hw3)


class _LastFrames(Generic[_Value]):
    """A value for each of the last few frames; safe to use from several threads."""

    def __init__(self) -> None:
        self._values: OrderedDict[int, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, frame_index: int, make: Callable[[], _Value | None]) -> _Value | None:
        """The frame's value, made unless it is kept; None is not kept."""
        with self._lock:
            value = self._values.get(frame_index)
        if value is None:
            value = make()
            if value is not None:
                with self._lock:
                    self._values[frame_index] = value
                    while len(self._values) > LOOK_AHEAD_FRAMES + 1:
                        self._values.popitem(last=False)
        return value


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
                    encoder.prepare(frame_index, frame)
                return frame
        finally:
            # the frame is in the cache by now; after an error the next one to ask tries again
            with encoder._lock:
                encoder._running.pop(frame_index, None)
