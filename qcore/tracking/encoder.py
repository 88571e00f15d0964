"""Runs the image encoder on a video's frames, each at most once while the cache holds it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_base import SAM2Base

from qcore.tracking.feature_cache import EncodedFrame, FeatureCache
from qcore.tracking.preprocess import Frames, image_tensor


class FrameEncoder:
    """Encoded frames of one video by one model.

    Args:
        storage_dtype: dtype the features are kept (and used) in; None keeps them exactly as computed.
        Rounding
            happens before the first use, so a mask never depends on whether its frame came from the cache.
    """

    def __init__(
        self, model: SAM2Base, source: Frames, cache: FeatureCache, storage_dtype: torch.dtype | None = None
    ) -> None:
        self._model = model
        self._source = source
        self._storage_dtype = storage_dtype
        self._position_1chw: torch.Tensor | None = None
        self.cache = cache
        self.encoder_runs = 0

    def __getitem__(self, frame_index: int) -> EncodedFrame:
        """The encoded frame, from the cache or computed now."""
        frame = self.cache.get(frame_index)
        if frame is None:
            frame = self._encode(self._source[frame_index])
            self.cache.put(frame_index, frame)
        if self._storage_dtype is None:
            return frame
        return EncodedFrame(tuple(level.to(self._model_dtype) for level in frame.levels))

    @property
    def position_1chw(self) -> torch.Tensor:
        """Position encoding of the top level, the same for every frame; known once a frame was encoded."""
        assert self._position_1chw is not None, "no frame was encoded yet"
        return self._position_1chw

    @property
    def _model_dtype(self) -> torch.dtype:
        return next(self._model.parameters()).dtype

    def _encode(self, rgb_hw3: npt.NDArray[np.uint8]) -> EncodedFrame:
        model = self._model
        image_13ss = image_tensor(rgb_hw3, model.image_size, model.device).to(self._model_dtype)
        backbone = model.forward_image(image_13ss)
        self.encoder_runs += 1
        if self._position_1chw is None:
            self._position_1chw = backbone["vision_pos_enc"][-1]
        levels = backbone["backbone_fpn"][-model.num_feature_levels :]
        if self._storage_dtype is not None:
            levels = [level.to(self._storage_dtype) for level in levels]
        return EncodedFrame(tuple(levels))
