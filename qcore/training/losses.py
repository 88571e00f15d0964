"""What a predicted mask is worth: focal, dice, boundary, predicted-IoU and presence losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_WEIGHT = 20.0
MIN_VISIBLE_PIXELS = 6
"""An object with fewer visible pixels (at half the input's resolution) counts as absent."""
_BAND = 7
"""Side of the window, at half resolution, in which both object and background make a pixel boundary."""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """How the parts of the loss are weighed."""

    balance: float = 0.0
    """Share of class-balanced cross-entropy in place of the focal loss, 0..1. A model that starts from random
    weights needs it, or it never leaves the all-background answer; anneal it to 0."""
    boundary: float = 0.5
    """Weight of the cross-entropy near the object's boundary, averaged over that band: small and thin objects
    count as much as large ones there."""
    iou: float = 1.0
    presence: float = 1.0


class RawOutput(NamedTuple):
    """What the mask decoder said, before SAM 2 blanks the masks of objects that it thinks absent.

    The blanked masks are a constant -1024: a loss on them is huge and has no gradient.
    """

    mask_logits_nmhw: Tensor
    """At a quarter of the input's resolution; M candidate masks."""
    predicted_iou_nm: Tensor
    presence_logit_n: Tensor


class FrameLoss(NamedTuple):
    """Loss of one frame and the IoU that the chosen masks reach on it."""

    loss: Tensor
    iou: Tensor
    """Scalar, mean over the visible objects; 0 where none is."""


def frame_loss(raw: RawOutput, truth_nhw: Tensor, config: LossConfig) -> FrameLoss:
    """Loss of all objects on one frame.

    Only the best candidate mask of each object is taught, and only where the object is in view.

    Args:
        raw: the decoder's answer.
        truth_nhw: visible share of each pixel, float 0..1, at half the input's resolution.
        config: weights.
    """
    visible_n = is_visible(truth_nhw).float()
    count = visible_n.sum().clamp(min=1)
    logits = raw.mask_logits_nmhw.float()
    shape_nm, iou_nm = _mask_losses(logits, truth_nhw, config)
    best_n = shape_nm.argmin(1, keepdim=True)
    mask_part = (shape_nm.gather(1, best_n)[:, 0] * visible_n).sum() / count
    iou_part = ((raw.predicted_iou_nm.float() - iou_nm).abs().mean(1) * visible_n).sum() / count
    presence_part = F.binary_cross_entropy_with_logits(raw.presence_logit_n.float(), visible_n)
    reached = (iou_nm.gather(1, best_n)[:, 0] * visible_n).sum() / count
    return FrameLoss(mask_part + config.iou * iou_part + config.presence * presence_part, reached)


def is_visible(truth_nhw: Tensor) -> Tensor:
    """Bool (N,): which objects are in view."""
    return (truth_nhw > 0.5).flatten(1).sum(1) > MIN_VISIBLE_PIXELS


def _mask_losses(logits_nmhw: Tensor, truth_nhw: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Loss and IoU of every candidate mask, (N, M) each."""
    size = (truth_nhw.shape[-2], truth_nhw.shape[-1])
    logits = F.interpolate(logits_nmhw, size=size, mode="bilinear", align_corners=False)
    truth = truth_nhw[:, None].expand_as(logits)
    chance = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    loss = FOCAL_WEIGHT * (1 - config.balance) * (entropy * (chance - truth).abs() ** 2 * 0.5).mean((2, 3))
    if config.balance > 0:
        inside, pixels = truth.sum((2, 3)), truth.shape[2] * truth.shape[3]
        on_object = (entropy * truth).sum((2, 3)) / (inside + 1)
        elsewhere = (entropy * (1 - truth)).sum((2, 3)) / (pixels - inside + 1)
        loss = loss + config.balance * 0.5 * (on_object + elsewhere)
    if config.boundary > 0:
        blurred = F.avg_pool2d(truth_nhw[:, None], _BAND, 1, _BAND // 2)
        band = ((blurred > 0.04) & (blurred < 0.96)).float()
        loss = loss + config.boundary * (entropy * band).sum((2, 3)) / (band.sum((2, 3)) + 1)
    overlap = (chance * truth).sum((2, 3))
    loss = loss + 1 - (2 * overlap + 1) / (chance.sum((2, 3)) + truth.sum((2, 3)) + 1)
    with torch.no_grad():
        ours, real = logits > 0, truth > 0.5
        union = (ours | real).sum((2, 3)).clamp(min=1)
        iou = (ours & real).sum((2, 3)).float() / union.float()
    return loss, iou
