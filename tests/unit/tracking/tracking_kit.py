"""Small drawn clips, and upstream's predictor as the oracle, for the tracking tests."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor

from qcore.tracking.types import Prompt


class ListSource:
    """Frames in memory, with the part of `FrameSource` that a session uses; counts what was read."""

    def __init__(self, frames: list[npt.NDArray[np.uint8]]) -> None:
        self.frames = frames
        self.reads: list[int] = []

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.frames[0].shape[:2]
        return height, width

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        self.reads.append(index)
        return self.frames[index]


class EndlessSource:
    """A long clip made of few frames: index i shows frame i modulo their number."""

    def __init__(self, frames: list[npt.NDArray[np.uint8]], length: int) -> None:
        self._frames = frames
        self._length = length
        self.size = frames[0].shape[:2]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        return self._frames[index % len(self._frames)]


FRAME_COUNT, HEIGHT, WIDTH = 8, 96, 144


def disc_center(frame_index: int) -> tuple[float, float]:
    """Where the red disc is on a frame of the drawn clip (x, y)."""
    return 40.0 + 4 * frame_index, 48.0 + 8 * np.sin(frame_index / 3)


def square_corner(frame_index: int) -> tuple[int, int]:
    """Top-left corner (x, y) of the blue 26-pixel square."""
    return 100 - 3 * frame_index, 8 + frame_index


def square_prompt(frame_index: int, object_id: int) -> Prompt:
    """A box drawn a pixel around the square."""
    x, y = square_corner(frame_index)
    return Prompt(frame_index, object_id, box_xyxy=(x - 1.0, y - 1.0, x + 27.0, y + 27.0))


def draw_frame(frame_index: int) -> npt.NDArray[np.uint8]:
    """A red disc and a blue square that move over a textured background."""
    rng = np.random.default_rng(5)
    texture = rng.integers(70, 130, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.uint8)
    frame = np.array(Image.fromarray(texture).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    cx, cy = disc_center(frame_index)
    frame[(xs - cx) ** 2 + (ys - cy) ** 2 < 18**2] = (210, 40, 40)
    x, y = square_corner(frame_index)
    frame[y : y + 26, x : x + 26] = (40, 60, 220)
    return frame


@dataclass(frozen=True)
class Clip:
    """The drawn clip as a folder of JPEG files (what upstream reads) and as the pixels in them."""

    folder: Path
    frames: list[npt.NDArray[np.uint8]]

    def source(self) -> ListSource:
        return ListSource(self.frames)


class Upstream:
    """`SAM2VideoPredictor` with a model's weights, as a dict of boolean masks by (frame, object)."""

    def __init__(self, model: SAM2Base, folder: Path, corrections_condition: bool = True) -> None:
        predictor: Any = copy.deepcopy(model)
        predictor.__class__ = SAM2VideoPredictor
        predictor.fill_hole_area = 0
        predictor.non_overlap_masks = False
        predictor.clear_non_cond_mem_around_input = False
        predictor.add_all_frames_to_correct_as_cond = corrections_condition
        self.predictor = predictor
        self.state = predictor.init_state(str(folder))
        self.masks: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}

    def prompt(self, frame_index: int, object_id: int, **prompt: Any) -> npt.NDArray[np.bool_]:
        if "mask" in prompt:
            mask = prompt["mask"].astype(bool)
            _, ids, logits = self.predictor.add_new_mask(self.state, frame_index, object_id, mask)
        else:
            _, ids, logits = self.predictor.add_new_points_or_box(
                self.state, frame_index, object_id, **prompt
            )
        return (logits[ids.index(object_id), 0] > 0).numpy()

    def propagate(self, start: int | None = None, reverse: bool = False) -> None:
        for frame_index, ids, logits in self.predictor.propagate_in_video(
            self.state, start_frame_idx=start, reverse=reverse
        ):
            for object_id, logit in zip(ids, logits, strict=True):
                self.masks[frame_index, object_id] = (logit[0] > 0).numpy()
