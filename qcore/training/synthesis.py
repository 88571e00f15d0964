"""Training clips: photographs and real clips under a moving camera, with objects pasted over them.

Pasted objects are stills (cut-outs, or instances of photographs) that move and bend, or the objects of other
real clips with their own motion. They hide the clip's own objects, look like them, leave and come back. The
truth of every object is what is left visible of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from qcore.training.errors import TrainingError
from qcore.training.motion import Float, camera_path, exit_offsets, object_path, smooth_path
from qcore.training.pack import ClipEntry, ImageEntry, MaskEntry, TrainingPack, UInt8
from qcore.training.photometry import degrade, jitter_colour

_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


@dataclass(frozen=True, slots=True)
class SynthesisConfig:
    """What clips are like. Shares are probabilities, 0..1."""

    size: int = 384
    """Side of the square frames in pixels."""
    real_share: float = 0.45
    """Clips made of real labelled clips; the rest are photographs under a moving camera."""
    background_share: float = 0.1
    """Of the photographs: those without labels, with pasted objects only."""
    look_alike_share: float = 0.3
    """Pasted objects that are a second copy of a target or of the last pasted object."""
    video_layer_share: float = 0.35
    """Pasted objects that come with real motion, where there are real clips."""
    occluder_share: float = 0.25
    """Pasted objects that start over a target."""
    exit_share: float = 0.15
    """Pasted objects that go out of view."""
    cut_share: float = 0.06
    """Real clips with a few frames of another scene in between."""
    min_area: float = 0.006
    """Smallest target on the first frame, as a share of it; one clip in ten goes down to a quarter of it."""


class Clip(NamedTuple):
    """A training clip."""

    frames_thwc: UInt8
    masks_kthw: UInt8
    """Visible share of each pixel by object, 0..255."""


class _Layer(NamedTuple):
    """A moving picture to paste: premultiplied RGB 0..255 and alpha 0..1."""

    rgb_thwc: Float
    alpha_thw: Float


class ClipGenerator:
    """Makes clips without end; the same pack, seed and calls give the same clips.

    Args:
        pack: the material.
        config: what clips are like.
        seed: any sequence of non-negative integers.
    """

    def __init__(self, pack: TrainingPack, config: SynthesisConfig, seed: int | list[int]) -> None:
        self.pack = pack
        self.config = config
        self.rng = np.random.default_rng(seed)
        self._labelled = [entry for entry in pack.images if entry.masks]
        self._stills = [
            (entry, mask)
            for entry in self._labelled
            for mask in entry.masks
            if mask.area > 0.012 and min(mask.box_xywh[2:]) > 28 and (not mask.is_cut or mask.area > 0.05)
        ]
        self._stills += [(entry, entry.masks[0]) for entry in pack.cutouts for _ in range(2)]
        if not (self._labelled or pack.clips) and not (pack.backgrounds and self._stills):
            raise TrainingError("The training pack has neither labelled pictures nor cut-outs to paste.")

    def clip(self, length: int, max_objects: int) -> Clip:
        """One clip of ``length`` frames with 1 to ``max_objects`` targets, all in view on its first frame."""
        for _ in range(50):
            clip = self._try_clip(length, max_objects)
            if clip is not None:
                return clip
        raise TrainingError("The training pack gives no clip with a visible object: add labelled pictures.")

    def _try_clip(self, length: int, max_objects: int) -> Clip | None:
        rng, config = self.rng, self.config
        is_real = bool(self.pack.clips) and rng.random() < config.real_share
        if is_real:
            frames, targets = self._real_base(length)
            pasted = int(rng.choice([0, 1, 2], p=[0.45, 0.35, 0.2]))
        else:
            frames, targets = self._photo_base(length, max_objects)
            pasted = (
                int(rng.choice([0, 1, 2, 3], p=[0.25, 0.3, 0.25, 0.2]))
                if targets
                else int(rng.integers(1, 4))
            )
        whole = [target[0].sum() for target in targets]
        speed = float(rng.choice([0.004, 0.02, 0.05], p=[0.2, 0.45, 0.35]))
        last: tuple[ImageEntry, MaskEntry] | None = None
        for _ in range(pasted):
            layer, last = self._layer(length, frames, targets, speed, last, is_real)
            if layer is None:
                continue
            alpha_thw1 = layer.alpha_thw[..., None]
            frames = frames * (1 - alpha_thw1) + layer.rgb_thwc
            targets = [target * (1 - layer.alpha_thw) for target in targets]
            targets.append(layer.alpha_thw)
            whole.append(layer.alpha_thw[0].sum())
        limit = config.min_area * (0.25 if rng.random() < 0.1 else 1) * config.size**2
        usable = [
            k
            for k, target in enumerate(targets)
            if (target[0] > 0.5).sum() > limit and target[0].sum() > 0.35 * whole[k]
        ]
        if not usable:
            return None
        if is_real and rng.random() < config.cut_share:
            self._cut_away(frames, targets)
        chosen = rng.permutation(usable)[:max_objects]
        masks = np.stack([targets[k] for k in chosen])
        return Clip(degrade(rng, frames), np.asarray(masks * 255 + 0.5, dtype=np.uint8))

    def _photo_base(self, length: int, max_objects: int) -> tuple[Float, list[Float]]:
        """A still photograph under a moving camera, with some of its instances as targets."""
        rng, pack = self.rng, self.pack
        is_plain = not self._labelled or (pack.backgrounds and rng.random() < self.config.background_share)
        pool = (pack.backgrounds or pack.images) if is_plain else self._labelled
        entry = pool[int(rng.integers(len(pool)))]
        chosen: list[MaskEntry] = []
        focus = None
        if entry.masks and not is_plain:
            weights = np.sqrt([mask.area for mask in entry.masks])
            count = min(len(entry.masks), max_objects)
            picks = rng.choice(len(entry.masks), count, replace=False, p=weights / weights.sum())
            chosen = [entry.masks[int(k)] for k in picks]
            if rng.random() < 0.6:
                x, y, w, h = chosen[0].box_xywh
                focus = (x + w / 2, y + h / 2)
        speed = float(rng.choice([0.0, 0.012, 0.035], p=[0.2, 0.4, 0.4]))
        maps = camera_path(rng, length, entry.size, self.config.size, focus, speed)
        picture = self.pack.picture(entry.blob)
        masks = [self.pack.mask(mask.blob) for mask in chosen]
        frames = np.stack([self._warp(picture, m) for m in maps])
        return frames, [np.stack([self._warp(mask, m) for m in maps]) / np.float32(255) for mask in masks]

    def _real_base(self, length: int) -> tuple[Float, list[Float]]:
        """A stretch of a real clip, forwards or backwards, at one of several frame rates."""
        clip, indices = self._stretch(length)
        rng = self.rng
        masks = [[self._clip_mask(clip, k, t) for t in indices] for k in range(len(clip.objects))]
        focus = None
        x, y, w, h = cv2.boundingRect((masks[0][0] > 127).astype(np.uint8))
        if w and h:
            focus = (x + w / 2, y + h / 2)
        speed = 0.0 if rng.random() < 0.7 else 0.012
        maps = camera_path(rng, length, clip.size, self.config.size, focus, speed)
        frames = np.stack([self._warp(self.pack.picture(clip.frames[t]), m) for t, m in zip(indices, maps)])
        targets = [
            np.stack([self._warp(a, m) for a, m in zip(track, maps)]) / np.float32(255) for track in masks
        ]
        return frames, targets

    def _stretch(self, length: int) -> tuple[ClipEntry, list[int]]:
        rng = self.rng
        clip = self.pack.clips[int(rng.integers(len(self.pack.clips)))]
        step = int(rng.choice([1, 2, 3, 4, 6]))
        while step > 1 and (length - 1) * step >= len(clip.frames):
            step -= 1
        span = (length - 1) * step
        first = int(rng.integers(0, max(1, len(clip.frames) - span)))
        # a clip shorter than the stretch holds its last frame
        indices = [min(first + k * step, len(clip.frames) - 1) for k in range(length)]
        return clip, indices[::-1] if rng.random() < 0.5 else indices

    def _clip_mask(self, clip: ClipEntry, index: int, frame: int) -> UInt8:
        blob = clip.objects[index][frame]
        return np.zeros(clip.size, np.uint8) if blob is None else self.pack.mask(blob)

    def _layer(
        self,
        length: int,
        frames: Float,
        targets: list[Float],
        speed: float,
        last: tuple[ImageEntry, MaskEntry] | None,
        is_real: bool,
    ) -> tuple[_Layer | None, tuple[ImageEntry, MaskEntry] | None]:
        """Something to paste, and the still it was made of (None where it is moving)."""
        rng, config = self.rng, self.config
        start = None
        if targets and rng.random() < config.occluder_share:
            ys, xs = np.nonzero(targets[int(rng.integers(len(targets)))][0] > 0.5)
            if len(xs):
                sd = 0.2 * config.size
                start = (float(xs.mean() + rng.normal(0, sd)), float(ys.mean() + rng.normal(0, sd)))
        leaves = length > 1 and rng.random() < config.exit_share
        if targets and rng.random() < config.look_alike_share:
            return self._copy_layer(frames, targets[int(rng.integers(len(targets)))], leaves), last
        if self.pack.clips and rng.random() < config.video_layer_share:
            return self._video_layer(length, start, leaves), last
        if last is None or rng.random() > config.look_alike_share:
            if not self._stills:
                return None, None
            last = self._stills[int(rng.integers(len(self._stills)))]
        return self._still_layer(length, last, start, speed, leaves), last

    def _copy_layer(self, frames: Float, target: Float, leaves: bool) -> _Layer | None:
        """A second copy of a target with the target's own motion, elsewhere, mirrored or later in time."""
        rng, size = self.rng, self.config.size
        ys, xs = np.nonzero(target[0] > 0.5)
        if len(xs) < 30:
            return None
        centre = np.array([xs.mean(), ys.mean()], np.float32)
        place = rng.uniform(0.15, 0.85, 2).astype(np.float32) * size
        scale = float(np.exp(rng.normal(0, 0.15)))
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        length = len(frames)
        drift = (
            np.stack([smooth_path(rng, length, 0.01, 0.01), smooth_path(rng, length, 0.01, 0.01)], 1) * size
        )
        if leaves:
            drift += exit_offsets(rng, length, place, float(np.ptp(xs)) * scale, size)
        linear = np.array([[scale * mirror, 0], [0, scale]], np.float32)
        order = range(length)[::-1] if rng.random() < 0.3 else range(length)
        rgb, alpha = [], []
        for t, source in enumerate(order):
            offset = place + drift[t] - linear @ centre
            affine = np.hstack([linear, offset[:, None]]).astype(np.float32)
            soft = cv2.erode(target[source], np.ones((3, 3), np.uint8))
            rgb.append(cv2.warpAffine(frames[source] * soft[..., None], affine, (size, size)))
            alpha.append(cv2.warpAffine(soft, affine, (size, size)))
        return _Layer(np.stack(rgb), np.stack(alpha))

    def _video_layer(self, length: int, start: tuple[float, float] | None, leaves: bool) -> _Layer | None:
        """The object of another real clip, with its own motion and its own background removed."""
        rng, size = self.rng, self.config.size
        clip, indices = self._stretch(length)
        index = int(rng.integers(len(clip.objects)))
        first = self._clip_mask(clip, index, indices[0])
        x, y, w, h = cv2.boundingRect((first > 127).astype(np.uint8))
        if w * h < 900:
            return None
        extent = float(np.exp(rng.uniform(np.log(0.15), np.log(0.6)))) * size
        scale = extent / max(w, h)
        squash = float(np.exp(rng.normal(-0.2, 0.2)))
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        linear = np.array([[scale * squash * mirror, 0], [0, scale / squash]], np.float32)
        place = np.array(start if start is not None else rng.uniform(0.15, 0.85, 2) * size, np.float32)
        drift = (
            np.stack([smooth_path(rng, length, 0.015, 0.01), smooth_path(rng, length, 0.01, 0.01)], 1) * size
        )
        if leaves:
            drift += exit_offsets(rng, length, place, extent, size)
        gain = np.float32(np.exp(rng.normal(0, 0.12)))
        rgb, alpha = [], []
        for t, frame in enumerate(indices):
            soft = cv2.erode(self._clip_mask(clip, index, frame), np.ones((3, 3), np.uint8)).astype(
                np.float32
            )
            soft /= 255
            picture = self.pack.picture(clip.frames[frame]).astype(np.float32) * gain * soft[..., None]
            offset = place + drift[t] - linear @ np.array([x + w / 2, y + h / 2], np.float32)
            affine = np.hstack([linear, offset[:, None]]).astype(np.float32)
            rgb.append(np.minimum(cv2.warpAffine(picture, affine, (size, size)), 255))
            alpha.append(cv2.warpAffine(soft, affine, (size, size)))
        return _Layer(np.stack(rgb).astype(np.float32), np.stack(alpha).astype(np.float32))

    def _still_layer(
        self,
        length: int,
        still: tuple[ImageEntry, MaskEntry],
        start: tuple[float, float] | None,
        speed: float,
        leaves: bool,
    ) -> _Layer:
        """A still cut-out that moves, turns and bends like something soft."""
        rng, size = self.rng, self.config.size
        rgba = self._cut_out(*still)
        height, width = rgba.shape[:2]
        extent = float(np.exp(rng.uniform(np.log(0.12), np.log(0.7)))) * size
        squash = float(np.exp(rng.normal(-0.1, 0.25)))
        fit = np.array([np.sqrt(squash), 1 / np.sqrt(squash)], np.float32) * extent / max(height, width)
        shrink = float(fit.max()) * 1.3
        if shrink < 0.8:
            # close to the final size first: warping alone would alias
            new = (max(4, int(width * shrink)), max(4, int(height * shrink)))
            rgba = np.asarray(cv2.resize(rgba, new, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            fit = fit * np.array([width / new[0], height / new[1]], np.float32)
        source = rgba.astype(np.float32)
        alpha = source[..., 3:] / 255
        source = np.dstack([np.clip(jitter_colour(rng, source[..., :3], 0.15), 0, 255) * alpha, alpha])
        place = (
            start if start is not None else (rng.uniform(0.12, 0.88) * size, rng.uniform(0.15, 0.88) * size)
        )
        path = object_path(rng, length, extent, place, size, speed, leaves)
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        linear = path.linear * (fit * np.array([mirror, 1.0], np.float32))[None, None, :]
        wave = _Wave(rng, extent, float(rng.choice([0, 0.02, 0.05], p=[0.3, 0.4, 0.3])))
        middle = np.array([source.shape[1] / 2, source.shape[0] / 2], np.float32)
        layers = [
            wave.warp(source, linear[t], path.centre_xy[t] - linear[t] @ middle, size, t)
            for t in range(length)
        ]
        if rng.random() < 0.15:
            amount = int(rng.integers(3, 3 + max(2, size // 32))) | 1
            travel = np.abs(path.centre_xy[-1] - path.centre_xy[0])
            kernel = (amount, 1) if travel[0] > travel[1] else (1, amount)
            layers = [np.asarray(cv2.blur(layer, kernel), dtype=np.float32) for layer in layers]
        stack = np.stack(layers)
        return _Layer(stack[..., :3], stack[..., 3])

    def _cut_out(self, entry: ImageEntry, mask: MaskEntry) -> UInt8:
        x, y, w, h = mask.box_xywh
        rgb = self.pack.picture(entry.blob)[y : y + h, x : x + w]
        alpha = self.pack.mask(mask.blob)[y : y + h, x : x + w]
        if len(entry.masks) > 1 or mask.area < 0.9:
            blurred = cv2.GaussianBlur(cv2.erode(alpha, np.ones((3, 3), np.uint8)), (0, 0), 0.8)
            alpha = np.asarray(blurred, dtype=np.uint8)
        return np.dstack([rgb, alpha])

    def _cut_away(self, frames: Float, targets: list[Float]) -> None:
        """Replace a run of later frames by another scene: nothing of the targets is in view there."""
        length = len(frames)
        if length < 3:
            return
        first = int(self.rng.integers(1, length - 1))
        stop = int(self.rng.integers(first + 1, length + 1))
        other, _ = self._photo_base(1, 1) if self._labelled or self.pack.backgrounds else self._real_base(1)
        frames[first:stop] = other[0]
        for k, target in enumerate(targets):
            targets[k] = target.copy()
            targets[k][first:stop] = 0

    def _warp(self, image: UInt8, affine: NDArray[np.float32]) -> Float:
        size = (self.config.size, self.config.size)
        warped = cv2.warpAffine(image, affine, size, flags=_WARP, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(warped, dtype=np.float32)


class _Wave:
    """A bending that travels through an object, as a sum of sines.

    Args:
        rng: source of randomness.
        extent_px: longer side of the object in output pixels.
        strength: largest displacement as a share of it; 0 for a stiff object.
    """

    def __init__(self, rng: np.random.Generator, extent_px: float, strength: float) -> None:
        self.amplitude = strength * extent_px
        self.number = rng.uniform(1, 2.5, 4) * 2 * np.pi / extent_px
        self.phase = rng.uniform(0, 2 * np.pi, 4)
        self.rate = rng.normal(0, 0.5, 4)

    def warp(self, source: Float, linear: Float, offset: Float, size: int, frame: int) -> Float:
        """Put a premultiplied RGBA picture into a (size, size) frame by ``linear`` and ``offset``."""
        if self.amplitude == 0:
            affine = np.hstack([linear, offset[:, None]]).astype(np.float32)
            return np.asarray(cv2.warpAffine(source, affine, (size, size)), dtype=np.float32)
        out = np.zeros((size, size, source.shape[2]), np.float32)
        height, width = source.shape[:2]
        corners = (
            linear @ np.array([[0, width, 0, width], [0, 0, height, height]], np.float32) + offset[:, None]
        )
        low = np.clip(np.floor(corners.min(1) - self.amplitude - 2), 0, size).astype(int)
        high = np.clip(np.ceil(corners.max(1) + self.amplitude + 2), 0, size).astype(int)
        if (high - low).min() < 3:
            return out
        x = np.arange(low[0], high[0], dtype=np.float32)
        y = np.arange(low[1], high[1], dtype=np.float32)
        # relative to the object, so that the wave moves with it
        centre = corners.mean(1)
        p, k = self.phase + self.rate * frame, self.number
        bend_x = (
            np.sin(k[0] * (y - centre[1]) + p[0])[:, None] + 0.5 * np.sin(k[1] * (x - centre[0]) + p[1])[None]
        )
        bend_y = (
            np.sin(k[2] * (x - centre[0]) + p[2])[None] + 0.5 * np.sin(k[3] * (y - centre[1]) + p[3])[:, None]
        )
        inverse = np.linalg.inv(linear).astype(np.float32)
        at_x = x[None] + np.float32(0.7 * self.amplitude) * bend_x.astype(np.float32) - offset[0]
        at_y = y[:, None] + np.float32(0.7 * self.amplitude) * bend_y.astype(np.float32) - offset[1]
        map_x = (inverse[0, 0] * at_x + inverse[0, 1] * at_y).astype(np.float32)
        map_y = (inverse[1, 0] * at_x + inverse[1, 1] * at_y).astype(np.float32)
        out[low[1] : high[1], low[0] : high[0]] = cv2.remap(
            source, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
        return out
