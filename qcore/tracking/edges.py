"""Lets a mask's outline follow the edges of the picture: a guided filter over the mask's logits.

The mask decoder answers on a grid of a quarter of the input's side; between its places an outline runs where
two logits balance, whatever the picture shows there. In each small window the filter takes the logits for a
linear function of the picture's colours, which has its steps where the picture has them (He, Sun and Tang,
"Guided image filtering", PAMI 2013, section 3.5: colour guidance). The functions are fitted on a coarser grid
than they are applied on (He and Sun, "Fast guided filter", 2015). What is remembered stays the decoder's own
mask. SAM 2 does not do this.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from qcore.tracking.feature_cache import EncodedFrame

SHRINK = 2
"""The picture's side over that of the grid on which windows are fitted (the "fast" guided filter)."""

RADIUS = 4
"""Windows reach so many places of that grid to each side: two of the decoder's."""

LEAST_VARIANCE = 1e-4
"""Added to the variance of colours (0..1): where they vary less, logits are averaged and not fitted."""

LOGIT_LIMIT = 2.0
"""Logits are bent to stay within it: how sure the decoder is inside a mask says nothing about its outline."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Guide:
    """What the filter needs to know of a picture, the same for all masks on it."""

    picture_3hw: Floats
    """Colours (3, H, W), 0..1."""
    small_3hw: Floats
    """The same on the grid of the windows."""
    mean_3hw: Floats
    """Of the windows."""
    inverse_33hw: Floats
    """Inverse of the windows' covariance matrix of colours."""


def guide_of(frame: EncodedFrame) -> Guide | None:
    """The guide that a frame gives; None for one without its picture."""
    if frame.picture_hw3 is None:
        return None
    picture_hw3 = frame.picture_hw3.cpu().numpy().astype(np.float32) / np.float32(255)
    height, width = picture_hw3.shape[:2]
    small_hw3 = cv2.resize(picture_hw3, (width // SHRINK, height // SHRINK), interpolation=cv2.INTER_AREA)
    picture_3hw, small_3hw = (
        np.ascontiguousarray(each.transpose(2, 0, 1)) for each in (picture_hw3, small_hw3)
    )
    mean_3hw = _window_means(small_3hw)
    rr, rg, rb, gg, gb, bb = (
        _window_mean(small_3hw[i] * small_3hw[j])
        - mean_3hw[i] * mean_3hw[j]
        + np.float32(LEAST_VARIANCE if i == j else 0)
        for i, j in itertools.combinations_with_replacement(range(3), 2)
    )
    # the adjugate over the determinant
    cofactor_rr, cofactor_rg, cofactor_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    cofactor_gg, cofactor_gb, cofactor_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * cofactor_rr + rg * cofactor_rg + rb * cofactor_rb
    adjugate_33hw = np.array(
        [
            [cofactor_rr, cofactor_rg, cofactor_rb],
            [cofactor_rg, cofactor_gg, cofactor_gb],
            [cofactor_rb, cofactor_gb, cofactor_bb],
        ]
    )
    return Guide(picture_3hw, small_3hw, mean_3hw, adjugate_33hw / determinant)


def follow_edges(logits_hw: Floats, guide: Guide) -> Floats:
    """Mask logits that change where the picture does.

    Args:
        logits_hw: float32 (h, w), of the whole picture.
        guide: of the picture (H, W).

    Returns:
        float32 (H, W), about -`LOGIT_LIMIT` to `LOGIT_LIMIT`; positive on the object.
    """
    bent_hw = LOGIT_LIMIT * np.tanh(logits_hw / LOGIT_LIMIT)
    target_hw = _resized(bent_hw, guide.small_3hw.shape)
    target_mean_hw = _window_mean(target_hw)
    covariance_3hw = _window_means(guide.small_3hw * target_hw) - guide.mean_3hw * target_mean_hw
    slope_3hw = np.einsum("ijhw,jhw->ihw", guide.inverse_33hw, covariance_3hw)
    constant_hw = target_mean_hw - np.einsum("ihw,ihw->hw", slope_3hw, guide.mean_3hw)
    # a place lies in many windows: the mean of what they say
    followed_hw = _resized(_window_mean(constant_hw), guide.picture_3hw.shape)
    for slope_hw, colour_hw in zip(_window_means(slope_3hw), guide.picture_3hw, strict=True):
        followed_hw += _resized(slope_hw, colour_hw.shape) * colour_hw
    return followed_hw


def _window_mean(values_hw: Floats) -> Floats:
    side = 2 * RADIUS + 1
    return np.asarray(cv2.blur(values_hw, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)


def _window_means(values_chw: Floats) -> Floats:
    return np.stack([_window_mean(values_hw) for values_hw in values_chw])


def _resized(values_hw: Floats, shape: tuple[int, ...]) -> Floats:
    return np.asarray(cv2.resize(values_hw, shape[:-3:-1], interpolation=cv2.INTER_LINEAR), np.float32)
