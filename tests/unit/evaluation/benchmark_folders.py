"""Small benchmark folders for the tests of `qcore.evaluation`: coloured squares that move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 80)


def square(frame: int, top: int, left: int, side: int = 14, step: int = 2) -> np.ndarray:
    """Bool (48, 80) mask of a square that moves right by ``step`` a frame."""
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + side, left + step * frame : left + step * frame + side] = True
    return mask


def image_of(masks: dict[int, np.ndarray]) -> np.ndarray:
    """An RGB frame with a texture behind and a colour an object."""
    rng = np.random.default_rng(5)
    frame = rng.integers(90, 130, (*SIZE, 3), np.uint8)
    for object_id, mask in masks.items():
        frame[mask] = ((60 * object_id) % 256, 255 - (90 * object_id) % 256, 20)
    return frame


def save_jpeg(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, quality=95)


def save_png(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image = image.convert("P") if image.mode != "L" else Image.fromarray(values, mode="P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [90] * 756)
    image.save(path)


def write_davis(
    root: Path,
    name: str = "squares",
    frames: int = 6,
    objects: tuple[int, ...] = (1, 2),
    level: str = "",
    binary: bool = False,
) -> list[dict[int, np.ndarray]]:
    """One sequence; returns the true masks of every frame. ``binary``: DAVIS 2016 values 0 and 255."""
    truth = []
    for t in range(frames):
        masks = {obj: square(t, 4 + 18 * k, 6 + 10 * k) for k, obj in enumerate(objects)}
        save_jpeg(root / "JPEGImages" / level / name / f"{t:05d}.jpg", image_of(masks))
        values = np.zeros(SIZE, np.uint8)
        for obj, mask in masks.items():
            values[mask] = 255 if binary else obj
        save_png(root / "Annotations" / level / name / f"{t:05d}.png", values, palette=not binary)
        truth.append(masks)
    return truth


def write_sav(root: Path, name: str = "sav_000001") -> dict[int, dict[int, np.ndarray]]:
    """One video of 21 frames, annotated every 4th; object 1 appears in frame 8. Returns frame -> masks."""
    truth: dict[int, dict[int, np.ndarray]] = {}
    for t in range(21):
        masks = {0: square(t, 4, 6, step=1)}
        if t >= 8:
            masks[1] = square(t, 24, 6, step=1)
        save_jpeg(root / "JPEGImages_24fps" / name / f"{t:05d}.jpg", image_of(masks))
        if t % 4 == 0:
            truth[t] = {obj: masks.get(obj, np.zeros(SIZE, np.bool_)) for obj in (0, 1)}
            for obj, mask in truth[t].items():
                path = root / "Annotations_6fps" / name / f"{obj:03d}" / f"{t:05d}.png"
                save_png(path, mask.astype(np.uint8) * 255)
    return truth
