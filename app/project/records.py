"""What a record must satisfy before it is written: a change that breaks this never reaches the file."""

from __future__ import annotations

import math
import re

from app.project.changes import Record
from app.project.errors import ProjectError
from app.project.model import FrameMask, LabelClass, ObjectTrack, VideoInfo
from app.project.store import MAX_FRAMES, MAX_NAME_LENGTH, MAX_SIDE
from qcore.tracking.types import Prompt

_COLOR = re.compile(r"#[0-9a-fA-F]{6}\Z")


def check_record(record: Record | None, video: VideoInfo) -> None:
    """Refuse a record that the project could not read back.

    Raises:
        ProjectError: a name the user gave is too long.
        ValueError: a mistake of the program, such as a mask of another size.
    """
    if isinstance(record, LabelClass | ObjectTrack):
        if len(record.name) > MAX_NAME_LENGTH:
            raise ProjectError(f"A name may have at most {MAX_NAME_LENGTH} characters.")
        if not _COLOR.match(record.color):
            raise ValueError(f"not a colour: {record.color}")
    elif isinstance(record, FrameMask):
        _check_frame(record.frame_index, video)
        _check_size(record.rle.size, video)
        if not (0.0 <= record.score <= 1.0 and 0.0 <= record.presence <= 1.0):
            raise ValueError(f"score {record.score} and presence {record.presence} must lie in 0..1")
    elif isinstance(record, Prompt):
        _check_frame(record.frame_index, video)
        if record.mask is not None:
            _check_size(record.mask.size, video)
        numbers = [v for point in record.points_xy for v in point] + list(record.box_xyxy or ())
        if not all(math.isfinite(v) for v in numbers) or not set(record.labels) <= {0, 1}:
            raise ValueError("a prompt has finite coordinates and labels 0 or 1")


def check_video(video: VideoInfo) -> None:
    """Refuse a video that no project can hold.

    Raises:
        ProjectError: it has no frames, or too many or too large ones.
    """
    if not (1 <= video.width <= MAX_SIDE and 1 <= video.height <= MAX_SIDE):
        raise ProjectError(f"Frames of {video.width} x {video.height} pixels cannot be annotated.")
    if not 1 <= video.frame_count <= MAX_FRAMES:
        raise ProjectError(f"A video of {video.frame_count} frames cannot be annotated.")


def _check_frame(frame_index: int, video: VideoInfo) -> None:
    if not 0 <= frame_index < video.frame_count:
        raise ValueError(f"frame {frame_index} of {video.frame_count}")


def _check_size(size: tuple[int, int], video: VideoInfo) -> None:
    if size != (video.height, video.width):
        raise ValueError(f"a mask of {size} on frames of {(video.height, video.width)}")
