"""One object on one frame through SAM 2's heads: features in, mask logits, pointer and memory out."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base

from qcore import masks
from qcore.models.doubt_head import HEADS_AND_TOKEN
from qcore.tracking.edges import Guide, follow_edges
from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.memory_attention import as_tokens
from qcore.tracking.memory_bank import MEMORY_DTYPE
from qcore.tracking.types import MaskResult

PREVIOUS_LOGIT_LIMIT = 32.0
"""Upstream's clamp on mask logits that are fed back together with further clicks."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The mask decoder's answer for one object."""

    logits_b1hw: torch.Tensor
    """Mask logits (1, 1, S/4, S/4), float32."""
    high_res_b1ss: torch.Tensor
    """The same at the model's input size (1, 1, S, S)."""
    pointer_bc: torch.Tensor
    presence_logit_b1: torch.Tensor
    score: float
    """Estimated IoU, 0..1."""
    token_bc: torch.Tensor | None = None
    """What the presence head is given, of models with a doubt head (`qcore/models/doubt_head.py`)."""

    @property
    def presence(self) -> float:
        """Probability that the object is in view."""
        return float(torch.sigmoid(self.presence_logit_b1.float()).item())

    @property
    def is_present(self) -> bool:
        """Whether the object is in view."""
        return bool(self.presence_logit_b1.item() > 0)


def decode(
    model: SAM2Base,
    features_bchw: torch.Tensor,
    frame: EncodedFrame,
    point_inputs: dict[str, torch.Tensor] | None,
    previous_logits_b1hw: torch.Tensor | None = None,
    is_first: bool = False,
) -> Decoded:
    """Run prompt encoder and mask decoder on conditioned features.

    Args:
        features_bchw: the frame's top-level features after conditioning on memory (or on "no memory").
        point_inputs: clicks and box corners; None while tracking.
        previous_logits_b1hw: the mask that the clicks correct.
        is_first: whether the frame is prompted without memory of other frames.
    """
    if previous_logits_b1hw is not None:
        previous_logits_b1hw = previous_logits_b1hw.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
    forward_heads = getattr(model, HEADS_AND_TOKEN, model._forward_sam_heads)
    _, _, ious, low_res, high_res, pointer, presence, *token = forward_heads(
        backbone_features=features_bchw,
        point_inputs=point_inputs,
        mask_inputs=previous_logits_b1hw,
        high_res_features=frame.high_res,
        multimask_output=model._use_multimask(is_first, point_inputs),
    )
    score = min(max(float(ious.max()), 0.0), 1.0)
    return Decoded(low_res, high_res, pointer, presence, score, token[0] if token else None)


def decode_given_mask(model: SAM2Base, frame: EncodedFrame, mask_11ss: torch.Tensor) -> Decoded:
    """Turn a given mask (0/1, at the model's input size) into logits, pointer and presence."""
    _, _, _, low_res, _, pointer, presence = model._use_mask_as_output(
        frame.top_bchw, frame.high_res, mask_11ss
    )
    return Decoded(low_res, upsample_logits(low_res, model.image_size), pointer, presence, 1.0)


def upsample_logits(logits_b1hw: torch.Tensor, image_size: int) -> torch.Tensor:
    """Low-resolution logits at the model's input size (B, 1, S, S)."""
    return F.interpolate(
        logits_b1hw.float(), size=(image_size, image_size), mode="bilinear", align_corners=False
    )


def encode_memory(model: SAM2Base, frame: EncodedFrame, decoded: Decoded, is_prompted: bool) -> torch.Tensor:
    """Memory map (1, C, H, W) in `MEMORY_DTYPE` of a decoded mask."""
    top_nbc = as_tokens(frame.top_bchw)
    map_bchw, _ = model._encode_new_memory(
        current_vision_feats=[top_nbc],
        feat_sizes=[tuple(frame.top_bchw.shape[-2:])],
        pred_masks_high_res=decoded.high_res_b1ss,
        object_score_logits=decoded.presence_logit_b1,
        is_mask_from_pts=is_prompted,
    )
    return map_bchw.to(MEMORY_DTYPE)


def mask_result(
    decoded: Decoded,
    frame_index: int,
    object_id: int,
    size_hw: tuple[int, int],
    guide: Guide | None = None,
) -> MaskResult:
    """The mask at video size: logits resized bilinearly as upstream does, then thresholded at 0.

    With a guide, the outline follows the picture's edges (`edges.py`).

    OpenCV samples where torch does and takes a tenth of its time; rows and columns are swapped because
    run-length coding walks down the columns (0.5 instead of 2.3 ms for 1280 x 720).
    """
    height, width = size_hw
    logits_hw = decoded.logits_b1hw[0, 0].float().cpu().numpy()
    if guide is not None and decoded.is_present:
        logits_hw = follow_edges(logits_hw, guide)
    logits_wh = np.ascontiguousarray(logits_hw.T)
    resized_wh = cv2.resize(logits_wh, (height, width), interpolation=cv2.INTER_LINEAR)
    rle = masks.encode((resized_wh > 0).T)
    return MaskResult(frame_index, object_id, rle, decoded.score, decoded.presence)
