"""The video with its masks drawn over it, as H.264 in MP4: for people to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from app.formats.base import ExportOptions, ExportReport, FormatError, Progress
from app.formats.output import atomic_file, frames_of
from app.formats.selection import Selection, provenance
from app.project.model import FrameMask, ObjectTrack
from app.project.palette import from_hex
from app.project.project import Project
from qcore import masks

ID = "overlay"
_TIME_BASE = Fraction(1, 90_000)
_X264 = {"crf": "18", "preset": "veryfast"}
_CODECS = ("libx264", "libopenh264", "h264", "mpeg4")


def export(project: Project, path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """Write the video with its masks over it; see `Format.export`."""
    chosen = Selection(project, options, every_frame=not options.only_reviewed)
    tracks = {track.object_id: track for track in chosen.objects}
    times = project.timestamps_s
    written = 0
    try:
        with ExitStack() as stack:
            source = stack.enter_context(frames_of(project, options))
            target = stack.enter_context(atomic_file(path))
            container = stack.enter_context(av.open(str(target), "w", format="mp4"))
            container.metadata["comment"] = json.dumps(provenance(project))
            stream = _stream(container, project, chosen.stride)
            first, last_pts = times[chosen.frames[0]], -1
            for frame_index, found in chosen.with_progress(progress):
                shown = [m for m in found if not m.rle.is_empty and tracks[m.object_id].visible]
                written += len(shown)
                picture = draw_overlay(source[frame_index], shown, tracks, options)
                frame = av.VideoFrame.from_ndarray(_even(picture), format="rgb24")
                last_pts = max(round((times[frame_index] - first) / _TIME_BASE), last_pts + 1)
                frame.pts, frame.time_base = last_pts, _TIME_BASE
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except FFmpegError as error:
        reason = (getattr(error, "strerror", None) or "unknown reason").lower()
        raise FormatError(f"“{path.name}” cannot be written: {reason}.") from error
    return ExportReport(ID, path, 1, len(chosen.frames), written, tuple(chosen.losses))


def _stream(container: av.container.OutputContainer, project: Project, stride: int) -> VideoStream:
    rate = Fraction(project.video.fps or 25.0).limit_denominator(1001 * 60) / stride
    height, width = project.size
    for name in _CODECS:
        try:
            options = _X264 if name == "libx264" else {}
            stream = cast(VideoStream, container.add_stream(name, rate=rate, options=options))
        except (ValueError, FFmpegError):  # this build of FFmpeg lacks the encoder
            continue
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TIME_BASE
        return stream
    raise FormatError("No encoder for MP4 video is installed.")


def _even(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """H.264 wants even sides: the last row or column is repeated where one is odd."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def draw_overlay(
    frame_hwc: npt.NDArray[np.uint8],
    found: Sequence[FrameMask],
    tracks: dict[int, ObjectTrack],
    options: ExportOptions,
) -> npt.NDArray[np.uint8]:
    """A copy of an RGB frame with masks filled, outlined and named.

    Args:
        frame_hwc: uint8 (H, W, 3).
        found: masks, topmost first.
        tracks: objects by id, for colours and names.
        options: ``fill_opacity``, ``outline_px`` and ``names`` count.
    """
    picture = np.array(frame_hwc, np.uint8)
    opacity = min(max(options.fill_opacity, 0.0), 1.0)
    for mask in reversed(found):
        mask_hw = masks.decode(mask.rle)
        color = np.array(from_hex(tracks[mask.object_id].color), np.float32)
        inside = mask_hw != 0
        picture[inside] = np.rint(picture[inside] * (1 - opacity) + color * opacity).astype(np.uint8)
        if options.outline_px > 0:
            contours, _ = cv2.findContours(mask_hw, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            tint = tuple(int(c) for c in color)
            cv2.drawContours(picture, contours, -1, tint, options.outline_px, cv2.LINE_AA)
    return _named(picture, found, tracks) if options.names and found else picture


def _named(
    picture: npt.NDArray[np.uint8], found: Sequence[FrameMask], tracks: dict[int, ObjectTrack]
) -> npt.NDArray[np.uint8]:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, picture.shape[0] // 40))
    for mask in found:
        track = tracks[mask.object_id]
        x, y, width, _ = mask.rle.box_xywh
        left, top, right, bottom = draw.textbbox((0, 0), track.name, font=font)
        at_x = min(max(x + width / 2 - (right - left) / 2, 0), max(picture.shape[1] - (right - left), 0))
        at_y = max(y - (bottom - top) - 6, 0)
        draw.rectangle((at_x - 3, at_y, at_x + right - left + 3, at_y + bottom - top + 4), fill=track.color)
        dark = sum(from_hex(track.color)) < 3 * 140
        draw.text((at_x - left, at_y - top + 2), track.name, font=font, fill="white" if dark else "black")
    return np.asarray(image)
