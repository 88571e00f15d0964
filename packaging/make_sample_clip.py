"""Render resources/sample/balloons.mp4: two hot-air balloons over mountains, one passing before the other.

usage: make_sample_clip.py BACKGROUND.jpg OUT.mp4

The background is the photograph "picosdeeuropa" by Aitzol Berasategi (CC BY 4.0) from the Debian package
lomiri-wallpapers-16.04; everything else is computed here. The same input gives the same pictures.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

WIDTH, HEIGHT, FPS, FRAMES = 1280, 720, 24, 168
SUN = np.array([-0.55, -0.55, 0.63])  # towards the light: x right, y down, z to the camera
HAZE_RGB = np.array([176.0, 196.0, 222.0])
GORES = 16


@dataclass(frozen=True)
class Balloon:
    """Colours (RGB) of the fabric, and where it flies: positions in pixels, height of the whole in pixels."""

    colours: tuple[tuple[int, int, int], ...]
    zigzag: bool
    start_xy: tuple[float, float]
    end_xy: tuple[float, float]
    start_height: float
    end_height: float
    turn: float
    haze: float


FAR = Balloon(
    ((118, 40, 150), (250, 200, 40), (118, 40, 150), (40, 150, 96)),
    False,
    (1010.0, 205.0),
    (330.0, 165.0),
    215.0,
    235.0,
    0.5,
    0.20,
)
NEAR = Balloon(
    ((205, 34, 40), (245, 150, 30), (250, 214, 64), (150, 24, 70)),
    True,
    (215.0, 420.0),
    (1040.0, 285.0),
    430.0,
    385.0,
    -0.8,
    0.04,
)


def profile(v: np.ndarray) -> np.ndarray:
    """Half width of the envelope at height v (0 top, 1 mouth), as a share of its height."""
    upper = np.sqrt(np.clip(1 - ((v - 0.40) / 0.40) ** 2, 0, 1)) * 0.425
    t = np.clip((v - 0.40) / 0.60, 0, 1)
    lower = 0.425 * (1 - t**2.1) ** 0.9 + 0.075 * t
    return np.where(v < 0.40, upper, lower)


def render_balloon(balloon: Balloon, height: float, turn: float, noise: np.ndarray) -> np.ndarray:
    """A sprite, float RGBA (H, W, 4) with colour in 0..255 times alpha in 0..1, supersampled 2 x 2."""
    scale = 2
    tall = round(height) * scale
    wide = round(height * 0.86) * scale
    y, x = np.mgrid[0:tall, 0:wide].astype(np.float64)
    envelope = 0.80 * tall
    v = y / envelope
    radius = profile(np.clip(v, 0, 1)) * envelope
    across = (x - wide / 2 + 0.5) / np.maximum(radius, 1e-6)
    inside = (np.abs(across) < 1) & (v < 1)
    across = np.clip(across, -0.9999, 0.9999)
    angle = np.arcsin(across) + turn

    gore = angle / (2 * math.pi / GORES)
    index = np.floor(gore).astype(int)
    within = gore - index - 0.5
    slope = (profile(np.clip(v + 0.004, 0, 1)) - profile(np.clip(v - 0.004, 0, 1))) / 0.008
    bulge = np.arcsin(across) + 0.55 * within * (2 * math.pi / GORES) * 2.2
    normal = np.stack([np.sin(bulge), -slope * 0.9, np.cos(bulge)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    diffuse = np.clip(normal @ (SUN / np.linalg.norm(SUN)), 0, 1)
    glow = 0.16 * np.exp(-(((v - 0.85) / 0.35) ** 2))  # light through the fabric
    half = SUN / np.linalg.norm(SUN) + np.array([0, 0, 1.0])
    shine = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 24
    light = 0.36 + 0.78 * diffuse + glow

    if balloon.zigzag:
        wave = np.abs(within) * 0.20
        band = np.floor((v + wave) * 7.0).astype(int)
        pick = (band + (index % 2)) % len(balloon.colours)
    else:
        pick = index % len(balloon.colours)
        pick = np.where((v > 0.40) & (v < 0.52), 1, pick)
    colour = np.array(balloon.colours, np.float64)[pick]
    seam = 1 - 0.30 * np.exp(-(((0.5 - np.abs(within)) / 0.035) ** 2))
    tapes = 1 - 0.14 * np.exp(-(((np.mod(v * 12, 1) - 0.5) / 0.06) ** 2))
    crinkle = 1 + 0.05 * cv2.resize(noise, (wide, tall), interpolation=cv2.INTER_CUBIC)
    rgb = colour * (light * seam * tapes * crinkle)[..., None] + 60 * shine[..., None]
    alpha = inside.astype(np.float64)

    rgb, alpha = add_basket(rgb, alpha, tall, wide, envelope)
    rgb = np.clip(rgb, 0, 255) * (1 - balloon.haze) + HAZE_RGB * balloon.haze
    sprite = np.concatenate([rgb * alpha[..., None], alpha[..., None]], axis=-1)
    return cv2.resize(sprite, (wide // scale, tall // scale), interpolation=cv2.INTER_AREA)


def add_basket(
    rgb: np.ndarray, alpha: np.ndarray, tall: int, wide: int, envelope: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ropes, a wicker basket and two passengers below the mouth of the envelope."""
    middle = wide / 2
    top, bottom = 0.905 * tall, 0.985 * tall
    half = 0.062 * tall
    y, x = np.mgrid[0:tall, 0:wide].astype(np.float64)
    mouth = profile(np.array(0.99)) * envelope
    for side in (-1.0, -0.45, 0.45, 1.0):
        along = np.clip((y - envelope * 0.985) / (top - envelope * 0.985), 0, 1)
        rope = middle + side * (mouth * (1 - along) + half * 0.95 * along)
        on = (np.abs(x - rope) < 0.0032 * tall) & (y > envelope * 0.985) & (y < top)
        rgb[on], alpha[on] = (52, 44, 40), 1
    for place, coat in ((-0.42, (60, 70, 120)), (0.35, (150, 60, 50))):
        head = (x - middle - place * half) ** 2 + (y - (top - 0.030 * tall)) ** 2 < (0.011 * tall) ** 2
        body = (np.abs(x - middle - place * half) < 0.016 * tall) & (y > top - 0.021 * tall) & (y < top)
        rgb[body], alpha[body] = coat, 1
        rgb[head], alpha[head] = (196, 150, 120), 1
    taper = half * (1 - 0.14 * np.clip((y - top) / (bottom - top), 0, 1))
    basket = (np.abs(x - middle) < taper) & (y >= top) & (y < bottom)
    weave = 0.82 + 0.18 * np.sign(np.sin(x * math.pi / (0.010 * tall)) * np.sin(y * math.pi / (0.009 * tall)))
    shade = 0.95 - 0.45 * (x - middle + half) / (2 * half)
    wicker = np.array([148.0, 104.0, 62.0]) * (weave * shade)[..., None]
    rgb[basket], alpha[basket] = wicker[basket], 1
    rim = (np.abs(x - middle) < half * 1.03) & (y >= top) & (y < top + 0.012 * tall)
    rgb[rim], alpha[rim] = (92, 60, 38), 1
    return rgb, alpha


def place(canvas: np.ndarray, sprite: np.ndarray, centre_xy: tuple[float, float], lean: float) -> np.ndarray:
    """The canvas with the sprite over it, leaning by ``lean`` radians, at a sub-pixel position."""
    tall, wide = sprite.shape[:2]
    cos, sin = math.cos(lean), math.sin(lean)
    move = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    move[:, 2] = np.array(centre_xy) - move[:, :2] @ np.array([wide / 2, tall / 2])
    layer = cv2.warpAffine(sprite, move, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    return canvas * (1 - layer[..., 3:]) + layer[..., :3]


def background(photo: np.ndarray, t: float) -> np.ndarray:
    """The camera drifts to the right, rises a little and breathes as if held by hand; float RGB."""
    zoom = 1.10 - 0.04 * t
    base = max(WIDTH / photo.shape[1], HEIGHT / photo.shape[0]) * zoom
    shown_w, shown_h = WIDTH / base, HEIGHT / base
    shake_x = 2.0 * math.sin(2 * math.pi * 1.3 * t + 0.4) + 1.2 * math.sin(2 * math.pi * 3.1 * t)
    shake_y = 1.6 * math.sin(2 * math.pi * 1.7 * t + 1.1)
    left = (photo.shape[1] - shown_w) * (0.15 + 0.70 * t) + shake_x / base
    top = (photo.shape[0] - shown_h) * (0.17 - 0.09 * t) + shake_y / base
    move = np.array([[base, 0, -left * base], [0, base, -top * base]])
    return cv2.warpAffine(photo, move, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)


def frames(photo: np.ndarray) -> list[np.ndarray]:
    """All frames, uint8 RGB."""
    rng = np.random.default_rng(20)
    noise = {balloon: rng.normal(0, 1, (40, 34)) for balloon in (FAR, NEAR)}
    result = []
    for number in range(FRAMES):
        t = number / (FRAMES - 1)
        ease = t + 0.06 * math.sin(2 * math.pi * t)
        canvas = background(photo, t)
        for balloon in (FAR, NEAR):
            start, end = np.array(balloon.start_xy), np.array(balloon.end_xy)
            bob = 5 * math.sin(2 * math.pi * (1.5 * t + balloon.turn))
            x, y = start + (end - start) * (ease if balloon is NEAR else t)
            height = balloon.start_height + (balloon.end_height - balloon.start_height) * t
            sprite = render_balloon(balloon, height, balloon.turn * (1 + 2 * t), noise[balloon])
            canvas = place(canvas, sprite, (x, y + bob), 0.035 * math.sin(2 * math.pi * (t + balloon.turn)))
        canvas = cv2.GaussianBlur(canvas, (0, 0), 0.55)
        canvas = canvas + rng.normal(0, 1.6, (HEIGHT, WIDTH, 1))
        result.append(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    return result


def encode(pictures: list[np.ndarray], out: Path) -> None:
    """H.264 with B-frames and a keyframe every two seconds, 4:2:0, index at the front."""
    with av.open(str(out), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "24", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = 2 * FPS
        for number, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("background", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    photo = cv2.imread(str(arguments.background), cv2.IMREAD_COLOR)
    if photo is None:
        raise SystemExit(f"{arguments.background} is not a readable image")
    encode(frames(cv2.cvtColor(photo, cv2.COLOR_BGR2RGB).astype(np.float64)), arguments.out)


if __name__ == "__main__":
    main()
