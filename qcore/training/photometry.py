"""What a camera does to colours: exposure, white balance, blur, noise, flicker."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def jitter_colour(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Change exposure, colour balance and black level of a float picture or clip (..., 3), 0..255."""
    gain = np.exp(rng.uniform(-strength, strength)) * np.exp(rng.uniform(-strength / 2, strength / 2, 3))
    return np.asarray(
        image * gain.astype(np.float32) + np.float32(rng.uniform(-60, 60) * strength), np.float32
    )


def degrade(rng: np.random.Generator, frames_thwc: Float) -> NDArray[np.uint8]:
    """A clip as a cheap camera would have taken it, uint8; the same faults on every frame but the flicker."""
    frames = jitter_colour(rng, frames_thwc, 0.2)
    if rng.random() < 0.2:
        sigma = float(rng.uniform(0.4, 1.2))
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])
    if rng.random() < 0.25:
        # one noise picture for all frames: drawing it for each would be the most expensive step of all
        frames = frames + rng.normal(0, rng.uniform(1, 7), frames.shape[1:]).astype(np.float32)
    if rng.random() < 0.3:
        frames = frames * np.exp(rng.normal(0, 0.04, (len(frames), 1, 1, 1))).astype(np.float32)
    if rng.random() < 0.04:
        frames = np.repeat(frames.mean(-1, keepdims=True), 3, axis=-1)
    return np.asarray(np.clip(frames, 0, 255), dtype=np.uint8)
