"""What an object looks like, told from the rest by a linear model that is fitted while it is tracked.

A small model's masks shrink, or creep onto what is next to them, a little on every frame, and its memory
keeps each step. A ridge regression from the encoder's features to "object" and "not object", fitted on the
frames that the user spoke about and, fading, on those since, does not creep along. Its opinion is added to
the mask that goes into the memory, where it decides what the mask decoder left open. What is shown is the
decoder's own mask, whose edges are sharper. The idea is that of fast target models in video object
segmentation (Robinson et al., CVPR 2020), without a network of its own. SAM 2 does not do this.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.memory_attention import as_tokens
from qcore.tracking.workers import Later

RIDGE = 2.0
"""Penalty on a weight, in variances of its feature."""

GAIN = 1.75
"""Mask logits for a score of one, the regression's target value for the object."""

LARGEST_SCORE = 1.5
"""Scores are cut to this, so that no place can outvote a decoder that is sure."""

KEYFRAME_SHARE = 0.15
"""Weight of the keyframes against that of what was tracked since."""

LEARNING_RATE = 0.1
"""Weight of a tracked frame against that of the frames before it."""


COLOUR_WAVES = 4
"""Cosines over each channel of colour, the constant one included."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All that a least-squares fit needs to know of some frames, so that frames can be averaged.

    With X the features and a column of ones, w a weight per place and y the target: X^T diag(w) [X, y].
    """

    moments_ck: torch.Tensor
    """float32 (C + 1, C + 2)."""

    def mixed(self, other: Evidence, share: float) -> Evidence:
        """The average with another one, whose weight is ``share``."""
        return Evidence(torch.lerp(self.moments_ck, other.moments_ck, share))


_KEPT = 8
"""Results of `mean_evidence`, and of `likeness` those that depend on the keyframes, that are kept."""


@functools.lru_cache(_KEPT)
def mean_evidence(several: tuple[Evidence, ...]) -> Evidence:
    """The average, all weighing the same; the same object for the same ones."""
    return several[0] if len(several) == 1 else Evidence(torch.stack([e.moments_ck for e in several]).mean(0))


def features_of(frame: EncodedFrame) -> torch.Tensor:
    """What the regression sees of a frame: float32 (H * W, C), row by row.

    The top level and, where there is one, the next finer level, on the grid of the finer; then colours, where
    the frame's picture is known.
    """
    # laid out alike, wherever the frame comes from: resizing rounds differently otherwise
    maps = [level.float().contiguous(memory_format=torch.channels_last) for level in frame.levels[-2:]]
    height, width = maps[0].shape[-2:]
    if len(maps) > 1:
        maps[1] = F.interpolate(maps[1], size=(height, width), mode="bilinear", align_corners=False)
    parts_nc = [as_tokens(level)[:, 0] for level in maps]
    if frame.picture_hw3 is not None:
        parts_nc.append(colours_of(frame.picture_hw3, (height, width)).to(parts_nc[0].device))
    return torch.cat(parts_nc, 1)


def colours_of(picture_hw3: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
    """The mean colour of every place as features of which any smooth function of colour is a sum.

    Products of the first `COLOUR_WAVES` cosines over each of CIELAB's channels, without the constant one. The
    encoder, trained to find things whatever their colour, keeps little of it.

    Args:
        picture_hw3: uint8 RGB.
        grid_hw: places down and across.

    Returns:
        float32 (H * W, `COLOUR_WAVES` ** 3 - 1) on the CPU, row by row, each in -1..1.
    """
    grid_hw3 = cv2.resize(picture_hw3.cpu().numpy(), grid_hw[::-1], interpolation=cv2.INTER_AREA)
    lab_hw3 = cv2.cvtColor(grid_hw3.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB)
    # lightness is 0..100; few colours have more than 64 in the others
    share_n3 = torch.from_numpy(lab_hw3.reshape(-1, 3) / (100, 128, 128) + (0, 0.5, 0.5)).float().clamp(0, 1)
    lightness_nk, a_nk, b_nk = torch.cos(torch.pi * share_n3[..., None] * torch.arange(COLOUR_WAVES)).unbind(
        1
    )
    products = lightness_nk[:, :, None, None] * a_nk[:, None, :, None] * b_nk[:, None, None, :]
    return products.flatten(1)[:, 1:]


def observe(features_nc: torch.Tensor, logits_b1hw: torch.Tensor) -> Evidence | None:
    """What a frame with a mask teaches; None where the mask is empty.

    Object and background weigh the same, however large they are. The target is 1 on the object, -1 elsewhere,
    and between them where a place is shared or the mask unsure.

    Args:
        features_nc: `features_of` the frame, whose grid is square as the model's input is.
        logits_b1hw: mask logits (1, 1, H, W).
    """
    if not bool((logits_b1hw > 0).any()):
        return None
    side = round(features_nc.shape[0] ** 0.5)
    object_n = F.adaptive_avg_pool2d(logits_b1hw.float().sigmoid(), side).flatten()
    rest_n = 1 - object_n
    # what fills less than a place in all weighs less
    weight_n = object_n / object_n.sum().clamp(min=1) + rest_n / rest_n.sum().clamp(min=1)
    columns_nk = torch.cat([features_nc, torch.ones_like(object_n)[:, None], (2 * object_n - 1)[:, None]], 1)
    # a few rows of the grid at once: one product over all places is rounded differently by other numbers of
    # threads, and results for every row are more to add up than to compute
    parts_pmk = columns_nk.view(side // math.gcd(side, 4), -1, columns_nk.shape[1])
    weighted_pmk = parts_pmk[..., :-1] * weight_n.view(*parts_pmk.shape[:2], 1)
    return Evidence(torch.bmm(weighted_pmk.transpose(1, 2), parts_pmk).sum(0))


def score(features_nc: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """How much each place looks like the object: float32 (1, 1, H, W), about 1 on it and -1 elsewhere."""
    return _score(features_nc, *_fit(evidence))


def likeness(features_nc: torch.Tensor, keyframes: Evidence, logits_b1hw: torch.Tensor) -> float:
    """The mean `score` inside a mask, by what the keyframes alone teach.

    What was tracked since may already be something else.

    Args:
        features_nc: `features_of` the frame.
        keyframes: of `mean_evidence`; what it teaches is worked out once.
        logits_b1hw: mask logits (1, 1, H, W).
    """
    score_b1hw = _score(features_nc, *_fit_once(keyframes))
    object_b1hw = F.adaptive_avg_pool2d(logits_b1hw.float().sigmoid(), score_b1hw.shape[-1])
    return float((score_b1hw * object_b1hw).sum() / object_b1hw.sum().clamp(min=1e-3))


def _fit(evidence: Evidence) -> tuple[torch.Tensor, float]:
    """The minimum of sum w (x^T a + c - y)^2 + `RIDGE` sum var(x_k) a_k^2 over a (C,) and c, which is not
    penalised.
    """
    moments_ck = evidence.moments_ck.cpu().double()  # too small a problem for a GPU
    total = moments_ck[-1, -2]
    mean_c, target_mean = moments_ck[:-1, -2] / total, moments_ck[-1, -1] / total
    covariance_cc = moments_ck[:-1, :-2] / total - mean_c[:, None] * mean_c
    with_target_c = moments_ck[:-1, -1] / total - mean_c * target_mean
    variance_c = covariance_cc.diagonal().clamp(min=0)
    # the other terms keep features out that never change, up to the rounding of their moments
    penalty_c = RIDGE * variance_c + 1e-3 * variance_c.mean() + 1e-4 * mean_c.square() + 1e-12
    factor_cc = torch.linalg.cholesky_ex(covariance_cc + penalty_c.diag()).L
    weight_c = torch.cholesky_solve(with_target_c[:, None], factor_cc)[:, 0]
    return weight_c.float(), float(target_mean - mean_c @ weight_c)


_fit_once = functools.lru_cache(_KEPT)(_fit)


def _score(features_nc: torch.Tensor, weight_c: torch.Tensor, constant: float) -> torch.Tensor:
    # a sum and not a product, for the same reason as in `observe`
    score_n = (features_nc * weight_c.to(features_nc.device)).sum(1) + constant
    side = round(features_nc.shape[0] ** 0.5)
    return score_n.clamp(-LARGEST_SCORE, LARGEST_SCORE).view(1, 1, side, side)


@dataclass(frozen=True, slots=True)
class Appearance:
    """What is known of an object's looks when a frame is tracked."""

    keyframes: Evidence
    tracked: Later[Evidence]
    """Of the last frames; that of the keyframe right after it."""

    def advise(self, features_nc: torch.Tensor, logits_b1ss: torch.Tensor) -> torch.Tensor:
        """The mask logits to remember of a frame with the object.

        Args:
            features_nc: `features_of` the frame.
            logits_b1ss: the mask decoder's, at the model's input size (1, 1, S, S).
        """
        score_b1hw = score(features_nc, self.tracked.get().mixed(self.keyframes, KEYFRAME_SHARE))
        opinion_b1ss = F.interpolate(
            score_b1hw, size=logits_b1ss.shape[-2:], mode="bilinear", align_corners=False
        )
        return logits_b1ss + GAIN * opinion_b1ss

    def learn(self, features_nc: torch.Tensor, advised_b1ss: torch.Tensor) -> Evidence:
        """`tracked` for the frame after it: nobody needs it before that frame's mask is there."""
        before, seen = self.tracked.get(), observe(features_nc, advised_b1ss)
        return before if seen is None else before.mixed(seen, LEARNING_RATE)
