"""Where an object was when it was last seen, to compare its next mask with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

STEADIER_BY = 0.02
"""How much of a jump is forgiven a frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Silhouette:
    """A mask on the grid of the decoder's logits."""

    mask_hw: torch.Tensor
    """bool."""
    facts_3: torch.Tensor
    """float32: share of the picture, and the centre's row and column as shares of it."""
    steadiness: torch.Tensor
    """float32, 0..1: the least IoU of a mask with the one before, of this frame and those up to it; each of
    them counts a little less on every further frame. A mask that went over to something else jumped once, and
    looks steady from then on."""

    def lost(self) -> Silhouette:
        """The same after a frame without the object."""
        return dataclasses.replace(self, steadiness=torch.zeros_like(self.steadiness))


def silhouette_of(logits_b1hw: torch.Tensor, before: Silhouette | None) -> Silhouette | None:
    """The silhouette of a mask; None of an empty one.

    Args:
        logits_b1hw: mask logits (1, 1, H, W).
        before: the object's last one; without one it was always steady.
    """
    mask_hw = logits_b1hw[0, 0] > 0
    height, width = mask_hw.shape
    rows_h, columns_w = mask_hw.sum(1).float(), mask_hw.sum(0).float()
    area = rows_h.sum()
    if not bool(area > 0):
        return None
    places_h = torch.arange(height, device=mask_hw.device) / height
    places_w = torch.arange(width, device=mask_hw.device) / width
    # sums and not products of vectors, which half-precision models would round
    centre = ((rows_h * places_h).sum() / area, (columns_w * places_w).sum() / area)
    steadiness = torch.ones_like(area)
    if before is not None:
        steadiness = torch.minimum(_overlap(before.mask_hw, mask_hw), before.steadiness + STEADIER_BY)
    return Silhouette(mask_hw, torch.stack([area / mask_hw.numel(), *centre]), steadiness)


def _overlap(one_hw: torch.Tensor, other_hw: torch.Tensor) -> torch.Tensor:
    return (one_hw & other_hw).sum() / (one_hw | other_hw).sum()


def changes(before: Silhouette, after: Silhouette) -> torch.Tensor:
    """How a mask differs from the one before: float32 (4,).

    Logarithm of how many times as large it is; IoU with it; how far its centre went, in picture sides; its
    steadiness.
    """
    one = 1 / before.mask_hw.numel()
    growth = torch.log((after.facts_3[0] + one) / (before.facts_3[0] + one))
    travel = torch.linalg.vector_norm(after.facts_3[1:] - before.facts_3[1:])
    return torch.stack([growth, _overlap(before.mask_hw, after.mask_hw), travel, after.steadiness])


UNCHANGED = (0.0, 1.0, 0.0, 1.0)
"""`changes` of a mask that did not change."""
