"""Whether a tracked mask is shown: the model's doubt head judges it by more than its presence logit.

When an object has left the picture, a small model's mask often goes on to something that stood beside it, and
the presence head, which sees neither the mask nor what the object looked like, is sure of it.
"""

from __future__ import annotations

import torch
from sam2.modeling.sam2_base import SAM2Base

from qcore.models.doubt_head import doubt_head_of
from qcore.tracking.appearance import Appearance, likeness
from qcore.tracking.decoding import Decoded
from qcore.tracking.silhouette import UNCHANGED, Silhouette, changes, silhouette_of

LEAST_PRESENCE = 0.5
"""Presence logit from which a mask is shown. From 0 on the model takes the object for present, and remembers
it so: to forget it on one frame too many can lose it for the rest of a clip, to show nothing there costs that
frame."""

RIVALS_MARGIN = 0.5
"""Doubt that is overlooked where objects compete: what belongs to another one a mask has lost already, and
what is left of it is more often right."""

RETURN_MARGIN = 1.5
"""Trust, as a logit, from which what a search has found is taken for the object. By the frames that show it
alone, a small model finds it in many things; once remembered, those are hard to get rid of."""


def trust(
    model: SAM2Base,
    decoded: Decoded,
    looks_nc: torch.Tensor | None,
    appearance: Appearance | None,
    last_seen: Silhouette | None,
    has_rivals: bool = False,
) -> float:
    """How surely a mask is of the object that was asked for, as a logit; below 0 it should not be shown.

    The lower of what the presence head and the doubt head say.

    Args:
        model: with or without a doubt head.
        decoded: the mask.
        looks_nc: `appearance.features_of` the frame.
        appearance: what is known of the object; where nothing is, the doubt head is not asked.
        last_seen: its last mask before; None where there was none.
        has_rivals: whether it competed with other objects for its pixels.
    """
    trusted = float(decoded.presence_logit_b1.float() - LEAST_PRESENCE)
    head = doubt_head_of(model)
    if head is None or decoded.token_bc is None or looks_nc is None or appearance is None:
        return trusted
    alike = likeness(looks_nc, appearance.keyframes, decoded.logits_b1hw)
    signs_1k = signs_of(decoded, alike, last_seen)[None]
    doubt_11 = head(torch.cat([decoded.token_bc.float(), signs_1k], 1))
    return min(trusted, float((RIVALS_MARGIN if has_rivals else 0.0) - doubt_11.float()))


def signs_of(decoded: Decoded, alike: float, last_seen: Silhouette | None) -> torch.Tensor:
    """What tells a right mask from a wrong one: float32 (K,), the `SIGNS` of `qcore/models/doubt_head.py`.

    Estimated IoU; likeness to the keyframes; presence logit; mean and largest logit inside the mask; how much
    of it is undecided (the sum of p (1 - p) against its area); `silhouette.changes` since it was last seen;
    whether it touches the picture's border.

    Args:
        decoded: the mask.
        alike: `appearance.likeness` of the mask.
        last_seen: the object's last mask before; without one the mask counts as unchanged.
    """
    logits_hw = decoded.logits_b1hw[0, 0].float()
    inside_hw = logits_hw > 0
    area = inside_hw.sum().clamp(min=1)
    odds_hw = logits_hw.sigmoid()
    now = silhouette_of(decoded.logits_b1hw, last_seen)
    if now is None or last_seen is None:
        changed_4 = logits_hw.new_tensor(UNCHANGED)
    else:
        changed_4 = changes(last_seen, now)
    sides = (inside_hw[0], inside_hw[-1], inside_hw[:, 0], inside_hw[:, -1])
    measured = [
        (logits_hw * inside_hw).sum() / area,
        logits_hw.max(),
        (odds_hw * (1 - odds_hw)).sum() / area,
        *changed_4,
        torch.stack([side.any() for side in sides]).any().float(),
    ]
    given_2 = logits_hw.new_tensor([decoded.score, alike])
    return torch.cat([given_2, decoded.presence_logit_b1.float().flatten(), torch.stack(measured)])


def is_back(
    model: SAM2Base,
    found: Decoded,
    looks_nc: torch.Tensor | None,
    appearance: Appearance | None,
    last_seen: Silhouette | None,
) -> bool:
    """Whether what was found in a search for an object out of view is surely the object; arguments of
    `trust`."""
    return found.is_present and trust(model, found, looks_nc, appearance, last_seen) >= RETURN_MARGIN
