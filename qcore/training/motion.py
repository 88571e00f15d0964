"""Smooth paths of cameras and objects, as affine maps a frame. Pure geometry: no pictures here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def smooth_path(rng: np.random.Generator, length: int, speed: float, sway: float) -> Float:
    """A one-dimensional path that starts at 0: constant velocity plus a slow sine; float32 (length,)."""
    time = np.arange(length, dtype=np.float32)
    phase, rate = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.2)
    path = rng.normal(0, speed) * time + rng.normal(0, sway) * (np.sin(rate * time + phase) - np.sin(phase))
    return np.asarray(path, dtype=np.float32)


def camera_path(
    rng: np.random.Generator,
    length: int,
    source_hw: tuple[int, int],
    size: int,
    focus_xy: tuple[float, float] | None,
    speed: float,
) -> Float:
    """Maps from output pixels to source pixels, float32 (length, 2, 3).

    The view is a random crop of random aspect (frames are squashed to squares when the model runs), near
    ``focus_xy`` where given, that pans, turns and zooms; it may be mirrored.

    Args:
        rng: source of randomness.
        length: frames.
        source_hw: height and width of the source in pixels.
        size: side of the square output in pixels.
        focus_xy: point of the source to look at, or None.
        speed: share of the view that it moves by, a frame; 0 for a camera at rest.
    """
    height, width = source_hw
    whole = rng.random() < 0.35
    zoom = 1.0 if whole else rng.uniform(0.5, 1.0)
    aspect = 1.0 if whole else float(np.exp(rng.uniform(-0.25, 0.25)))
    half_w = min(width, width * zoom * aspect) / 2
    half_h = min(height, height * zoom / aspect) / 2
    if focus_xy is None:
        x, y = rng.uniform(half_w, width - half_w + 1e-3), rng.uniform(half_h, height - half_h + 1e-3)
    else:
        x = float(np.clip(focus_xy[0] + rng.normal(0, 0.25) * half_w, half_w, width - half_w))
        y = float(np.clip(focus_xy[1] + rng.normal(0, 0.25) * half_h, half_h, height - half_h))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    dx = smooth_path(rng, length, speed, speed) * 2 * half_w
    dy = smooth_path(rng, length, speed * 0.7, speed) * 2 * half_h
    angle = smooth_path(rng, length, speed * 0.5, speed * 0.5) + (0 if whole else rng.normal(0, 0.1))
    scale = np.exp(smooth_path(rng, length, speed * 0.5, speed * 0.5))
    cos, sin = np.cos(angle), np.sin(angle)
    step_x, step_y = 2 * half_w / size * scale, 2 * half_h / size * scale
    maps = np.empty((length, 2, 3), np.float32)
    maps[:, 0, 0], maps[:, 0, 1] = cos * step_x * flip, -sin * step_y
    maps[:, 1, 0], maps[:, 1, 1] = sin * step_x * flip, cos * step_y
    centre = np.array([x, y]) + np.stack([dx, dy], 1)
    maps[:, :, 2] = centre - maps[:, :, :2] @ np.array([size / 2, size / 2], np.float32)
    return maps


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """Where an object is and how it is turned, a frame."""

    linear: Float
    """(length, 2, 2): turn, shear and scale from the object's own pixels to output pixels."""
    centre_xy: Float
    """(length, 2): its centre in output pixels."""


def object_path(
    rng: np.random.Generator,
    length: int,
    extent_px: float,
    start_xy: tuple[float, float],
    size: int,
    speed: float,
    leaves: bool,
) -> ObjectPath:
    """A smooth path with turning, shear, growth and squeeze.

    Args:
        rng: source of randomness.
        length: frames.
        extent_px: longer side of the object in output pixels.
        start_xy: its centre on the first frame.
        size: side of the square output in pixels.
        speed: share of the output's side that it moves by, a frame.
        leaves: it goes out of view for a while after the first frame, and may come back.
    """
    dx = smooth_path(rng, length, speed, speed) * size
    dy = smooth_path(rng, length, speed * 0.7, speed * 0.8) * size
    centre = np.array(start_xy, np.float32) + np.stack([dx, dy], 1)
    if leaves:
        centre += exit_offsets(rng, length, centre[0], extent_px, size)
    angle = rng.normal(0, 0.25) + smooth_path(rng, length, speed * 1.5, speed * 2)
    growth = np.exp(smooth_path(rng, length, speed, speed))
    squeeze = np.exp(smooth_path(rng, length, speed * 0.6, speed * 1.5))
    shear = smooth_path(rng, length, speed, speed * 2)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    skew = np.zeros((length, 2, 2), np.float32)
    skew[:, 0, 0] = growth * squeeze
    skew[:, 1, 1] = growth / squeeze
    skew[:, 0, 1] = shear * growth / squeeze
    return ObjectPath(np.asarray(turn @ skew, dtype=np.float32), np.asarray(centre, dtype=np.float32))


def exit_offsets(
    rng: np.random.Generator, length: int, start_xy: Float, extent_px: float, size: int
) -> Float:
    """Displacement (length, 2) that takes an object out over the nearest sides and sometimes back.

    0 on the first frame; out of view on at least one later frame.
    """
    target = start_xy.copy()
    axis = int(rng.integers(2))
    away = 0.75 * extent_px + 0.05 * size
    target[axis] = -away if start_xy[axis] < size / 2 else size + away
    leave = int(rng.integers(1, max(2, length - 1)))
    back = int(rng.integers(leave + 1, length + 1)) if rng.random() < 0.6 else length
    weight = np.zeros(length, np.float32)
    weight[leave:back] = 1
    if rng.random() < 0.5:
        # a frame half way out before and after, where there is one
        if leave > 1:
            weight[leave - 1] = 0.5
        if back < length:
            weight[back] = 0.5
    return np.asarray(weight[:, None] * (target - start_xy), dtype=np.float32)
