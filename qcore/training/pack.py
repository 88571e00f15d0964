"""One file that holds all training material, as JPEG or WebP and PNG, so that it travels to another machine.

A pack is a safetensors file: all encoded pictures one after the other in ``blob``, where each begins in
``offsets``, and a JSON index in the metadata. It knows nothing of where its pictures came from beyond a
source's name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from qcore.training.errors import TrainingError

PACK_METADATA_KEY = "qcore_training_pack"
PACK_VERSION = 1

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MaskEntry:
    """One mask of a packed picture: where its PNG is and what can be known without decoding it."""

    blob: int
    area: float
    """Share of the picture that it covers, 0..1."""
    box_xywh: tuple[int, int, int, int]
    is_cut: bool
    """True when it touches the picture's edge: the object goes on outside."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """A picture and its masks; a cut-out is a picture whose only mask is its soft alpha."""

    blob: int
    size: tuple[int, int]
    """Height and width in pixels."""
    masks: tuple[MaskEntry, ...]
    source: str


@dataclass(frozen=True, slots=True)
class ClipEntry:
    """A labelled clip: its frames, and for each object one mask a frame (None where it is absent)."""

    name: str
    source: str
    size: tuple[int, int]
    frames: tuple[int, ...]
    objects: tuple[tuple[int | None, ...], ...]


@dataclass(slots=True)
class PackIndex:
    """What a pack holds."""

    images: list[ImageEntry] = field(default_factory=list)
    clips: list[ClipEntry] = field(default_factory=list)
    cutouts: list[ImageEntry] = field(default_factory=list)
    backgrounds: list[ImageEntry] = field(default_factory=list)


def shrink_to(image: UInt8, max_side: int) -> UInt8:
    """Make the longer side at most ``max_side`` pixels (area interpolation); smaller ones stay."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


class PackWriter:
    """Gathers pictures, then writes them as one pack.

    Args:
        max_side: longer side of what is stored, in pixels.
        quality: of the photographs, 1..100.
        compact: WebP in place of JPEG, and masks without soft edges: about half of the bytes.
    """

    def __init__(self, max_side: int = 512, quality: int = 88, compact: bool = False) -> None:
        self.max_side = max_side
        self.quality = quality
        self.compact = compact
        self.index = PackIndex()
        self._blobs: list[bytes] = []

    @property
    def size_bytes(self) -> int:
        """Bytes of all pictures gathered so far."""
        return sum(len(blob) for blob in self._blobs)

    def add_image(self, image_rgb: UInt8, masks: Sequence[UInt8], source: str) -> None:
        """A photograph (H, W, 3) and its instance masks (H, W), 0..255; empty and tiny masks are left out."""
        image = shrink_to(image_rgb, self.max_side)
        entries = [entry for mask in masks if (entry := self._mask(mask, image.shape[:2])) is not None]
        self.index.images.append(
            ImageEntry(self._photograph(image), (image.shape[0], image.shape[1]), tuple(entries), source)
        )

    def add_cutout(self, image_rgba: UInt8, source: str) -> None:
        """A cut-out with soft alpha, (H, W, 4)."""
        image = shrink_to(image_rgba, self.max_side // 2)
        entry = self._mask(image[:, :, 3], image.shape[:2])
        if entry is not None:
            size = (image.shape[0], image.shape[1])
            self.index.cutouts.append(ImageEntry(self._photograph(image[:, :, :3]), size, (entry,), source))

    def add_background(self, image_rgb: UInt8, source: str) -> None:
        """A photograph without labels, (H, W, 3)."""
        image = shrink_to(image_rgb, self.max_side)
        size = (image.shape[0], image.shape[1])
        self.index.backgrounds.append(ImageEntry(self._photograph(image), size, (), source))

    def add_clip(
        self, name: str, frames_rgb: Sequence[UInt8], objects: Sequence[Sequence[UInt8]], source: str
    ) -> None:
        """A labelled clip: frames (H, W, 3), and for each object one mask (H, W) a frame, 0..255."""
        if not frames_rgb or not objects:
            raise TrainingError(f"The clip {name} has no frames or no object.")
        frames = [shrink_to(frame, self.max_side) for frame in frames_rgb]
        size = (frames[0].shape[0], frames[0].shape[1])
        packed = tuple(
            tuple(entry.blob if (entry := self._mask(mask, size)) is not None else None for mask in masks)
            for masks in objects
        )
        self.index.clips.append(
            ClipEntry(name, source, size, tuple(self._photograph(frame) for frame in frames), packed)
        )

    def write(self, path: Path) -> int:
        """Write the pack; returns its size in bytes."""
        if not self._blobs:
            raise TrainingError("There is no training material to pack.")
        blob = np.frombuffer(b"".join(self._blobs), dtype=np.uint8)
        offsets = np.cumsum([0, *(len(part) for part in self._blobs)], dtype=np.int64)
        metadata = {PACK_METADATA_KEY: str(PACK_VERSION), "index": json.dumps(asdict(self.index))}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"blob": blob, "offsets": offsets}, path, metadata)
        return path.stat().st_size

    def _store(self, data: bytes) -> int:
        self._blobs.append(data)
        return len(self._blobs) - 1

    def _photograph(self, image_rgb: UInt8) -> int:
        bgr = np.ascontiguousarray(image_rgb[:, :, ::-1])
        if self.compact:
            _, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, self.quality])
        else:
            _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        return self._store(data.tobytes())

    def _mask(self, mask: UInt8, size: tuple[int, int]) -> MaskEntry | None:
        height, width = size
        if mask.shape != size:
            mask = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        inside = mask > 127
        area = float(inside.mean())
        if inside.sum() < 25:
            return None
        x, y, w, h = cv2.boundingRect(inside.astype(np.uint8))
        is_cut = x <= 1 or y <= 1 or x + w >= width - 1 or y + h >= height - 1
        options = [cv2.IMWRITE_PNG_COMPRESSION, 9]
        if self.compact:
            mask = np.where(inside, np.uint8(255), np.uint8(0))
            options += [cv2.IMWRITE_PNG_BILEVEL, 1]
        _, data = cv2.imencode(".png", mask, options)
        return MaskEntry(self._store(data.tobytes()), area, (int(x), int(y), int(w), int(h)), bool(is_cut))


class TrainingPack:
    """Reads packs as one; pictures are decoded when asked for.

    Args:
        paths: the files.

    Raises:
        TrainingError: a file is missing or not a pack of this version.
    """

    def __init__(self, *paths: Path) -> None:
        self.images: list[ImageEntry] = []
        self.cutouts: list[ImageEntry] = []
        self.backgrounds: list[ImageEntry] = []
        self.clips: list[ClipEntry] = []
        self._pictures: list[UInt8] = []
        for path in paths:
            self._add(path)

    def _add(self, path: Path) -> None:
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                if metadata.get(PACK_METADATA_KEY) != str(PACK_VERSION):
                    raise TrainingError(f"{path.name} is not a training pack of version {PACK_VERSION}.")
                blob: UInt8 = file.get_tensor("blob")
                offsets: NDArray[np.int64] = file.get_tensor("offsets")
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"The training pack {path} cannot be read.") from error
        index: dict[str, Any] = json.loads(metadata["index"])
        base = len(self._pictures)
        self._pictures += np.split(blob, offsets[1:-1])
        self.images += [_image(item, base) for item in index["images"]]
        self.cutouts += [_image(item, base) for item in index["cutouts"]]
        self.backgrounds += [_image(item, base) for item in index["backgrounds"]]
        self.clips += [
            ClipEntry(
                item["name"],
                item["source"],
                (item["size"][0], item["size"][1]),
                tuple(base + frame for frame in item["frames"]),
                tuple(
                    tuple(None if mask is None else base + mask for mask in masks)
                    for masks in item["objects"]
                ),
            )
            for item in index["clips"]
        ]

    def picture(self, blob: int) -> UInt8:
        """A stored photograph, uint8 RGB (H, W, 3)."""
        image = cv2.imdecode(self._bytes(blob), cv2.IMREAD_COLOR)
        if image is None:
            raise TrainingError("The training pack is damaged.")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def mask(self, blob: int) -> UInt8:
        """A stored mask, uint8 (H, W), 0..255."""
        return np.asarray(cv2.imdecode(self._bytes(blob), cv2.IMREAD_GRAYSCALE), dtype=np.uint8)

    def summary(self) -> dict[str, int]:
        """How much of everything there is, by kind and source."""
        counts: dict[str, int] = {}
        for kind, entries in (
            ("images", self.images),
            ("cutouts", self.cutouts),
            ("backgrounds", self.backgrounds),
        ):
            for entry in entries:
                counts[f"{kind}/{entry.source}"] = counts.get(f"{kind}/{entry.source}", 0) + 1
                if kind == "images":
                    key = f"masks/{entry.source}"
                    counts[key] = counts.get(key, 0) + len(entry.masks)
        for clip in self.clips:
            counts[f"clips/{clip.source}"] = counts.get(f"clips/{clip.source}", 0) + 1
            counts[f"frames/{clip.source}"] = counts.get(f"frames/{clip.source}", 0) + len(clip.frames)
        return counts

    def _bytes(self, blob: int) -> UInt8:
        return self._pictures[blob]


def _image(item: dict[str, Any], base: int) -> ImageEntry:
    masks = tuple(
        MaskEntry(base + mask["blob"], mask["area"], tuple(mask["box_xywh"]), mask["is_cut"])
        for mask in item["masks"]
    )
    return ImageEntry(base + item["blob"], (item["size"][0], item["size"][1]), masks, item["source"])
