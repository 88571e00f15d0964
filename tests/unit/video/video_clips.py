"""Small clips made with PyAV for the tests of `qcore.video`, and the plain decode they are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np

av.logging.set_level(av.logging.PANIC)


def picture(index: int, height: int, width: int) -> np.ndarray:
    """A textured RGB frame whose content tells its number."""
    rng = np.random.default_rng(7)
    background = rng.integers(0, 120, (height, width, 3), np.uint8)
    frame = np.roll(background, 3 * index, axis=1)
    frame[: height // 3, : width // 3] = (index * 37 % 256, index * 11 % 256, 255 - index * 5 % 256)
    return frame


def make_clip(
    path: Path,
    count: int = 40,
    size: tuple[int, int] = (48, 64),
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    b_frames: int = 2,
    keyframe_every: int = 12,
    times: Sequence[int] | None = None,
    unit: Fraction = Fraction(1, 30),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container: str | None = None,
    rotation: tuple[float, bool] | None = None,
    with_audio: bool = False,
    frames: Sequence[np.ndarray] | None = None,
) -> Path:
    """Encode ``count`` pictures; ``times`` are presentation times in ``unit`` seconds."""
    height, width = size
    with av.open(str(path), "w", format=container, options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=30, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = unit
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        sound = out.add_stream("aac", rate=8000, layout="mono") if with_audio else None
        for index in range(count):
            rgb = picture(index, height, width) if frames is None else frames[index]
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = index if times is None else times[index]
            frame.time_base = unit
            out.mux(stream.encode(frame))
            if sound is not None and index % 4 == 0:
                tone = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
                )
                tone.sample_rate = 8000
                tone.pts = index // 4 * 1024
                out.mux(sound.encode(tone))
        if sound is not None:
            out.mux(sound.encode(None))
        out.mux(stream.encode(None))
    return path


def remux(
    source: Path,
    target: Path,
    options: dict[str, str] | None = None,
    shift: int = 0,
    same_times: tuple[int, int] | None = None,
) -> Path:
    """Copy the video packets into another container.

    All times become later by ``shift`` units of the stream; of the two packets ``same_times`` the second gets
    the presentation time of the first.
    """
    shown: list[int] = []
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream_in = old.streams.video[0]
        stream_out = new.add_stream_from_template(stream_in)
        for packet in old.demux(stream_in):
            if packet.size:
                packet.pts = None if packet.pts is None else packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
                shown.append(packet.pts)
                if same_times is not None and len(shown) - 1 == same_times[1]:
                    packet.pts = packet.dts = shown[same_times[0]]
                packet.stream = stream_out
                new.mux(packet)
    return target


def sequential(path: Path) -> list[np.ndarray]:
    """Every frame that a plain decode from start to end yields: the oracle."""
    return list(sequence(path))


def sequence(path: Path) -> Iterator[np.ndarray]:
    """As `sequential`, one frame at a time, for clips too large to hold."""
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            try:
                pictures = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in pictures:
                yield frame.to_ndarray(format="rgb24")
