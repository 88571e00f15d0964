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
    has_rivals: bool = False,
) -> float:
    """How surely a mask is of the object that was asked for, as a logit; below 0 it should not be shown.

    The lower of what the presence head and the doubt head say.

    Args:
        model: with or without a doubt head.
        decoded: the mask.
        looks_nc: `appearance.features_of` the frame.
        appearance: what is known of the object; where nothing is, the doubt head is not asked.
        has_rivals: whether it competed with other objects for its pixels.
    """
    trusted = float(decoded.presence_logit_b1.float() - LEAST_PRESENCE)
    head = doubt_head_of(model)
    if head is None or decoded.token_bc is None or looks_nc is None or appearance is None:
        return trusted
    alike = likeness(looks_nc, appearance.keyframes, decoded.logits_b1hw)
    further_1k = decoded.token_bc.new_tensor([[decoded.score, alike]])
    doubt_11 = head(torch.cat([decoded.token_bc.float(), further_1k.float()], 1))
    return min(trusted, float((RIVALS_MARGIN if has_rivals else 0.0) - doubt_11.float()))


def is_back(
    model: SAM2Base, found: Decoded, looks_nc: torch.Tensor | None, appearance: Appearance | None
) -> bool:
    """Whether what was found in a search for an object out of view is surely the object; arguments of
    `trust`."""
    return found.is_present and trust(model, found, looks_nc, appearance) >= RETURN_MARGIN
