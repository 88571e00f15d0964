"""A closer look at an object: the crop around its box and the mirror image, decoded and averaged.

A model with a small input sees a whole frame on few pixels, and a small object on very few. The box says
where to look, so the frame on which it was drawn can be seen at several times the resolution, for two more
runs of the encoder. A first click gets a box from the mask that it finds in the whole frame; further clicks
go on from there in the whole frame. SAM 2 itself does not do this: sessions do it only when asked to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from qcore import masks
from qcore.masks import Rle
from qcore.tracking.decoding import Decoded, decode
from qcore.tracking.edges import follow_edges, guide_of
from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.preprocess import point_inputs
from qcore.tracking.tracker import ObjectTracker
from qcore.tracking.types import Prompt
from qcore.tracking.workers import team_for

MARGIN = 1.25
"""Sides of the crop over sides of the box."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of a frame, in pixels."""

    x: int
    y: int
    width: int
    height: int

    def of(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """That part of an image (H, W, ...), as a view."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True, slots=True)
class CloseMask:
    """What a closer look found."""

    rle: Rle
    """At the video's size."""
    score: float
    """Estimated IoU, 0..1."""
    presence: float
    """Probability that the object is in view, 0..1."""


def crop_around(
    box_xyxy: tuple[float, float, float, float], size_hw: tuple[int, int], least_width: int
) -> Crop:
    """The crop around a box: of the frame's shape, `MARGIN` times as large, moved and cut to fit it.

    Args:
        box_xyxy: corners, in pixels of the frame.
        size_hw: of the frame.
        least_width: of the crop where the frame has it: enlarging pixels shows nothing more.
    """
    height, width = size_hw
    x0, y0, x1, y1 = box_xyxy
    across = min(width, max(least_width, MARGIN * max(abs(x1 - x0), abs(y1 - y0) * width / height)))
    down = across * height / width
    crop_width, crop_height = max(1, round(across)), max(1, round(down))
    left = min(max(round((x0 + x1 - across) / 2), 0), width - crop_width)
    top = min(max(round((y0 + y1 - down) / 2), 0), height - crop_height)
    return Crop(left, top, crop_width, crop_height)


class CloseLook:
    """Looks closely at one boxed object after the other, and keeps what it saw last.

    Clicks that correct a boxed object, and previews of them, then need no encoder: the box, and with it the
    crop, stays the same.

    Args:
        tracker: of the session.
    """

    def __init__(self, tracker: ObjectTracker) -> None:
        self._tracker = tracker
        self._seen: tuple[int, Crop, list[EncodedFrame]] | None = None
        """Frame, crop, and both encoded: the picture and its mirror image."""

    def mask(self, prompt: Prompt, previous_logits_b1hw: torch.Tensor | None) -> CloseMask | None:
        """Mask of a prompt with a box; None where nothing is found in the crop.

        Clicks outside the crop are left out.

        Args:
            prompt: with a box.
            previous_logits_b1hw: the mask of the whole frame that the prompt's clicks correct.
        """
        tracker = self._tracker
        assert prompt.box_xyxy is not None
        crop = crop_around(prompt.box_xyxy, tracker.size_hw, tracker.model.image_size)
        inside = _inside(prompt, crop)
        previous = (
            None if previous_logits_b1hw is None else _cropped(previous_logits_b1hw, crop, tracker.size_hw)
        )
        found: list[Decoded] = []
        logits: list[npt.NDArray[np.float32]] = []
        frames = self._encoded(prompt.frame_index, crop)
        for frame, is_mirrored in zip(frames, (False, True), strict=True):
            features_bchw = tracker.conditioner.without_memory(frame, tracker.encoder.position_1chw)
            seen = _mirrored(inside, crop.width) if is_mirrored else inside
            before = previous.flip(-1) if previous is not None and is_mirrored else previous
            size = tracker.model.image_size
            with team_for(features_bchw.shape[-2] * features_bchw.shape[-1], features_bchw.device):
                points = point_inputs(seen, (crop.height, crop.width), size, tracker.model.device)
                decoded = decode(tracker.model, features_bchw, frame, points, before, is_first=True)
            if decoded.is_present:
                found.append(decoded)
                logits_hw = decoded.logits_b1hw[0, 0].float().cpu().numpy()
                logits.append(np.ascontiguousarray(logits_hw[:, ::-1]) if is_mirrored else logits_hw)
        if not found:
            return None
        mean_hw = np.asarray(np.mean(logits, axis=0), np.float32)
        guide = guide_of(frames[0]) if tracker.encoder.aids.edges else None
        if guide is not None:
            mean_hw = follow_edges(mean_hw, guide)
        mask_hw = np.zeros(tracker.size_hw, np.bool_)
        resized_hw = cv2.resize(mean_hw, (crop.width, crop.height), interpolation=cv2.INTER_LINEAR)
        crop.of(mask_hw)[...] = resized_hw > 0
        if not mask_hw.any():
            return None
        return CloseMask(
            masks.encode(mask_hw),
            float(np.mean([one.score for one in found])),
            float(np.mean([one.presence for one in found])),
        )

    def _encoded(self, frame_index: int, crop: Crop) -> list[EncodedFrame]:
        """The crop and its mirror image, encoded unless they are what was seen last."""
        if self._seen is None or self._seen[:2] != (frame_index, crop):
            encoder = self._tracker.encoder
            picture_hw3 = np.ascontiguousarray(crop.of(encoder.picture(frame_index)))
            frames = encoder.encode_pictures([picture_hw3, np.ascontiguousarray(picture_hw3[:, ::-1])])
            self._seen = frame_index, crop, frames
        return self._seen[2]


def _inside(prompt: Prompt, crop: Crop) -> Prompt:
    """The prompt in the crop's pixels."""
    assert prompt.box_xyxy is not None
    x0, y0, x1, y1 = prompt.box_xyxy
    moved = [
        ((x - crop.x, y - crop.y), label)
        for (x, y), label in zip(prompt.points_xy, prompt.labels, strict=True)
    ]
    kept = [(xy, label) for xy, label in moved if 0 <= xy[0] < crop.width and 0 <= xy[1] < crop.height]
    return Prompt(
        prompt.frame_index,
        prompt.object_id,
        tuple(xy for xy, _ in kept),
        tuple(label for _, label in kept),
        (x0 - crop.x, y0 - crop.y, x1 - crop.x, y1 - crop.y),
    )


def _mirrored(prompt: Prompt, width: int) -> Prompt:
    assert prompt.box_xyxy is not None
    x0, y0, x1, y1 = prompt.box_xyxy
    points = tuple((width - x, y) for x, y in prompt.points_xy)
    return Prompt(
        prompt.frame_index, prompt.object_id, points, prompt.labels, (width - x1, y0, width - x0, y1)
    )


def _cropped(logits_b1hw: torch.Tensor, crop: Crop, size_hw: tuple[int, int]) -> torch.Tensor:
    """The crop's part of a whole frame's low-resolution logits, at that resolution."""
    side = logits_b1hw.shape[-1]
    scale_y, scale_x = side / size_hw[0], side / size_hw[1]
    step_x, step_y = crop.width * scale_x / side, crop.height * scale_y / side
    # pixel centres of the crop's grid in the whole frame's grid
    to_whole = np.array(
        [
            [step_x, 0, crop.x * scale_x + 0.5 * step_x - 0.5],
            [0, step_y, crop.y * scale_y + 0.5 * step_y - 0.5],
        ],
        np.float32,
    )
    whole_hw = logits_b1hw[0, 0].float().cpu().numpy()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut_hw = cv2.warpAffine(whole_hw, to_whole, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(cut_hw)[None, None].to(logits_b1hw)
