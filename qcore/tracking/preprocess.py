"""From pixels and prompts to the tensors SAM 2 expects. Knows nothing of sessions, memories or caches.

Every step repeats upstream's own arithmetic (``sam2.utils.misc``, ``SAM2VideoPredictor.add_new_*``), so that
equal inputs give equal masks.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from sam2.modeling.sam2_base import SAM2Base

from qcore import masks
from qcore.masks import Rle
from qcore.tracking.errors import TrackingError
from qcore.tracking.types import Prompt

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

BOX_CORNER_LABELS = (2, 3)
"""SAM 2's point labels for a box's top-left and bottom-right corner."""

MASK_LOGIT = 10.0
"""Logit that stands for "certainly inside" when a binary mask is turned into mask logits."""


class Frames(Protocol):
    """What a session needs of a video: ``qcore.video.FrameSource`` has it, and so has a list-like test
    double."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every frame, in pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]: ...


def image_tensor(
    rgb_hw3: npt.NDArray[np.uint8], image_size: int, device: torch.device, exact: bool = True
) -> torch.Tensor:
    """Resize a uint8 RGB frame to the model's square input and normalise it: float32 (1, 3, S, S)."""
    return normalised(square_picture(rgb_hw3, image_size, exact), device)


def square_picture(rgb_hw3: npt.NDArray[np.uint8], side: int, exact: bool = True) -> torch.Tensor:
    """A uint8 RGB frame of any shape as a square picture, uint8 (side, side, 3).

    Bicubic and antialiased, as Pillow does by default and upstream for frame folders.

    Args:
        exact: by Pillow itself; else by torch, whose weights have fewer bits: one value in 200 differs by
            one, in a quarter of the time.
    """
    return _resized(rgb_hw3, side) if exact else _resized_fast(rgb_hw3, side)


def normalised(pixels_hw3: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A uint8 picture (S, S, 3) as the model takes it: float32 (1, 3, S, S)."""
    pixels_chw = pixels_hw3.to(device).permute(2, 0, 1).float().contiguous()
    mean_c11 = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
    std_c11 = torch.tensor(IMAGENET_STD, device=device)[:, None, None]
    return pixels_chw.div_(255.0).sub_(mean_c11).div_(std_c11)[None]


def _resized(rgb_hw3: npt.NDArray[np.uint8], side: int) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.fromarray(rgb_hw3).resize((side, side), Image.Resampling.BICUBIC)))


def _resized_fast(rgb_hw3: npt.NDArray[np.uint8], side: int) -> torch.Tensor:
    # torch warns of arrays that it cannot write to
    pixels_hw3 = torch.from_numpy(rgb_hw3 if rgb_hw3.flags.writeable else rgb_hw3.copy())
    resized_13ss = F.interpolate(
        pixels_hw3.permute(2, 0, 1)[None], size=(side, side), mode="bicubic", antialias=True
    )
    return resized_13ss[0].permute(1, 2, 0)


def computes_exactly(model: SAM2Base) -> bool:
    """Whether a model computes in upstream's float32, so that its masks equal upstream's on equal pictures.

    `qcore.runtime.lower` marks models whose kernels round.
    """
    halves = {parameter.dtype for parameter in model.parameters()} - {torch.float32, torch.float64}
    return not halves and bool(getattr(model, "computes_exactly", True))


def point_inputs(
    prompt: Prompt, size_hw: tuple[int, int], image_size: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """SAM 2's ``point_inputs`` for a prompt's box and points, box first.

    Returns ``point_coords`` (1, N, 2) in pixels of the model's input and ``point_labels`` int32 (1, N).
    """
    coords: list[tuple[float, float]] = []
    labels: list[int] = []
    if prompt.box_xyxy is not None:
        x0, y0, x1, y1 = prompt.box_xyxy
        coords += [(x0, y0), (x1, y1)]
        labels += BOX_CORNER_LABELS
    coords += prompt.points_xy
    labels += prompt.labels
    height, width = size_hw
    coords_1n2 = torch.tensor(coords, dtype=torch.float32).reshape(1, -1, 2)
    coords_1n2 = coords_1n2 / torch.tensor([width, height]) * image_size
    return {
        "point_coords": coords_1n2.to(device),
        "point_labels": torch.tensor(labels, dtype=torch.int32, device=device).reshape(1, -1),
    }


def mask_input(rle: Rle, image_size: int, device: torch.device) -> torch.Tensor:
    """A mask at video size as the model takes it: float32 (1, 1, S, S) of 0 and 1."""
    mask_11hw = torch.from_numpy(masks.decode(rle))[None, None].float().to(device)
    if mask_11hw.shape[-2:] == (image_size, image_size):
        return mask_11hw
    resized = F.interpolate(
        mask_11hw, size=(image_size, image_size), mode="bilinear", align_corners=False, antialias=True
    )
    return (resized >= 0.5).float()


def mask_logits(rle: Rle, image_size: int, device: torch.device) -> torch.Tensor:
    """Low-resolution mask logits (1, 1, S/4, S/4) in -10..10 that stand for a given mask."""
    logits_11hw = mask_input(rle, image_size, device) * (2 * MASK_LOGIT) - MASK_LOGIT
    return F.interpolate(
        logits_11hw,
        size=(image_size // 4, image_size // 4),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )


def check_prompt(prompt: Prompt, frame_count: int, size_hw: tuple[int, int]) -> None:
    """Refuse a prompt that does not fit the video.

    Raises:
        TrackingError: empty prompt, frame outside the video, numbers that are not finite, unknown label, or a
            mask of another size.
    """
    if prompt.is_empty:
        raise TrackingError("A prompt needs at least one click, a box or a mask.")
    check_frame(prompt.frame_index, frame_count)
    numbers: list[Any] = [value for point in prompt.points_xy for value in point]
    numbers += prompt.box_xyxy or ()
    if not np.isfinite(np.asarray(numbers, dtype=np.float64)).all():
        raise TrackingError("A prompt's coordinates must be ordinary numbers.")
    if any(label not in (0, 1) for label in prompt.labels):
        raise TrackingError("A click is either part of the object (1) or not (0).")
    if prompt.mask is not None:
        check_mask(prompt.mask, size_hw)


def check_frame(frame_index: int, frame_count: int) -> None:
    """Refuse a frame number outside the video (0 .. frame_count - 1)."""
    if not 0 <= frame_index < frame_count:
        raise TrackingError(f"Frame {frame_index} is outside the video, which has {frame_count} frames.")


def check_mask(rle: Rle, size_hw: tuple[int, int]) -> None:
    """Refuse a mask that is not of the video's size."""
    if rle.size != size_hw:
        raise TrackingError(
            f"The mask is {rle.size[1]} x {rle.size[0]} pixels, but the video is {size_hw[1]} x {size_hw[0]}."
        )
