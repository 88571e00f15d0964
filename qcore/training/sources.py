"""Readers of public data sets and of folders of pictures; each yields pictures with masks for a pack."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from qcore.training.errors import TrainingError
from qcore.training.pack import PackWriter, UInt8

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_INSTANCES = 10
"""Largest instances kept of one photograph: more would be crowds of dots."""

COCO_NO_DERIVATIVES = (3, 6)
"""Licence numbers in COCO's files that do not allow adaptations: such photographs are left out."""


def read_rgb(path: Path) -> UInt8:
    """A picture file as uint8 RGB (H, W, 3).

    Raises:
        TrainingError: it cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise TrainingError(f"The picture {path} cannot be read.")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def add_davis(writer: PackWriter, root: Path, step: int = 1) -> int:
    """Add every sequence of a folder in DAVIS layout; returns the number of clips.

    Reads ``root/JPEGImages/SEQ/*.jpg`` and ``root/Annotations/SEQ/*.png`` (also below ``480p``). Pixel value
    in an annotation = object; 255 is an object of its own where it is alone, and "void" beside others.

    Args:
        writer: where it goes.
        root: the data set.
        step: keep each step-th frame.
    """
    count = 0
    for name in davis_sequence_names(root):
        frames, labels = _davis_labels(root, name, step)
        ids = _object_ids(labels)
        if len(frames) < 2 or not ids:
            log.warning("the sequence %s has no labelled frames", name)
            continue
        objects = [[_binary(label, value) for label in labels] for value in ids]
        writer.add_clip(name, frames, objects, "davis")
        count += 1
    return count


def davis_sequence_names(root: Path) -> list[str]:
    """The sequences of a data set in DAVIS layout."""
    images, _ = _davis_folders(root)
    return sorted(path.name for path in images.iterdir() if path.is_dir())


def davis_sequence(root: Path, name: str, limit: int | None = None) -> tuple[list[UInt8], list[UInt8]]:
    """Frames (H, W, 3) of a sequence, at most ``limit``, and all its objects as one mask (H, W), 0 or 255."""
    frames, labels = _davis_labels(root, name, 1, limit)
    return frames, [np.asarray((label > 0) * 255, dtype=np.uint8) for label in labels]


def add_coco(writer: PackWriter, root: Path, skip_no_derivatives: bool = True) -> int:
    """Add photographs with COCO instance polygons; returns the number of photographs.

    Takes both COCO's own layout (``instances*.json`` anywhere below ``root``, pictures anywhere below it by
    file name) and the text layout of small copies (``labels/**/NAME.txt`` beside ``images/**/NAME.jpg``, one
    line an instance: class, then normalised x y pairs).
    """
    if not root.is_dir():
        raise TrainingError(f"There is no folder {root}.")
    count = 0
    files = {path.name: path for path in sorted(root.rglob("*.jpg"))}
    seen: set[str] = set()
    for annotation in sorted(root.rglob("instances*.json")):
        count += _add_coco_json(writer, annotation, files, seen, skip_no_derivatives)
    for label in sorted(root.rglob("labels/**/*.txt")):
        path = files.get(f"{label.stem}.jpg")
        if path is None or path.name in seen:
            continue
        seen.add(path.name)
        image = read_rgb(path)
        masks = [_polygon_mask(line, image.shape[:2]) for line in label.read_text().splitlines()]
        kept = _largest([mask for mask in masks if mask is not None])
        if kept:
            writer.add_image(image, kept, "coco")
            count += 1
    if not count:
        raise TrainingError(f"{root} holds no photographs with instance polygons.")
    return count


def add_mask_folder(writer: PackWriter, root: Path, source: str) -> int:
    """Add ``root/images/NAME.*`` with ``root/masks/NAME.png``; returns the number of photographs.

    A mask picture's values are instance numbers; one with only 0 and one other value is a single mask.
    """
    images = root / "images"
    if not images.is_dir() or not (root / "masks").is_dir():
        raise TrainingError(f"{root} must hold the folders images and masks.")
    count = 0
    for path in _pictures(images):
        label = _read_labels(root / "masks" / f"{path.stem}.png")
        if label is None:
            continue
        masks = _largest([_binary(label, value) for value in _object_ids([label])])
        if masks:
            writer.add_image(read_rgb(path), masks, source)
            count += 1
    return count


def add_stamps(writer: PackWriter, root: Path, source: str = "stamps") -> int:
    """Add photographic cut-outs: every PNG with alpha below ``root``, drawings left out; returns how many.

    Made for Debian's ``tuxpaint-stamps-default``, whose drawings are told from photographs by their names.
    """
    drawings = ("symbols", "outline", "_mirror", "flags", "balloon", "cartoon")
    count = 0
    for path in sorted(root.rglob("*.png")):
        if any(word in str(path.relative_to(root)) for word in drawings):
            continue
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None or image.ndim != 3 or image.shape[2] != 4 or min(image.shape[:2]) < 40:
            continue
        alpha = image[:, :, 3]
        if float((alpha > 128).mean()) < 0.12:
            continue
        ys, xs = np.nonzero(alpha > 20)
        crop = image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        writer.add_cutout(np.ascontiguousarray(crop[:, :, [2, 1, 0, 3]], dtype=np.uint8), source)
        count += 1
    return count


def add_backgrounds(writer: PackWriter, root: Path, source: str = "wallpapers") -> int:
    """Add photographs without labels, once each; returns how many.

    Wallpaper packages hold one picture in many sizes: the first of each folder below an ``images`` folder,
    and one of pictures that look the same at 8 x 8 pixels, is kept. Flat artwork is left out.
    """
    seen: list[np.ndarray] = []
    count = 0
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        image = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_4)
        if image is None or min(image.shape[:2]) < 200:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None or min(image.shape[:2]) < 200:
            continue
        tiny = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
        if tiny.std() < 8 or any(float(np.abs(tiny - other).mean()) < 6 for other in seen):
            continue
        seen.append(tiny)
        writer.add_background(np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8), source)
        count += 1
    return count


def _davis_folders(root: Path) -> tuple[Path, Path]:
    for middle in ("", "480p"):
        images, annotations = root / "JPEGImages" / middle, root / "Annotations" / middle
        if annotations.is_dir() and any(
            path.is_dir() and any(path.glob("*.jpg")) for path in images.glob("*")
        ):
            return images, annotations
    raise TrainingError(f"{root} is not a data set in DAVIS layout.")


def _davis_labels(
    root: Path, name: str, step: int, limit: int | None = None
) -> tuple[list[UInt8], list[UInt8]]:
    images, annotations = _davis_folders(root)
    frames: list[UInt8] = []
    labels: list[UInt8] = []
    for path in _pictures(images / name)[::step][:limit]:
        label = _read_labels(annotations / name / f"{path.stem}.png")
        if label is not None:
            frames.append(read_rgb(path))
            labels.append(label)
    return frames, labels


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _read_labels(path: Path) -> UInt8 | None:
    """Label picture as uint8 (H, W); palette files give their palette numbers."""
    if not path.is_file():
        return None
    # PIL and not OpenCV: OpenCV turns a palette's numbers into colours
    from PIL import Image

    with Image.open(path) as image:
        label = np.asarray(image if image.mode in ("L", "P", "1") else image.convert("L"))
    return np.asarray(label * 255 if label.dtype == np.bool_ else label, dtype=np.uint8)


def _object_ids(labels: Sequence[UInt8]) -> list[int]:
    values: set[int] = set()
    for label in labels:
        values.update(int(value) for value in np.unique(label) if value)
    return sorted(values - {255}) or sorted(values)


def _binary(label: UInt8, value: int) -> UInt8:
    return np.asarray((label == value) * 255, dtype=np.uint8)


def _largest(masks: list[UInt8]) -> list[UInt8]:
    """The largest masks that cover between 0.3 % and 80 % of the picture."""
    areas = [float((mask > 127).mean()) for mask in masks]
    kept = sorted((i for i, area in enumerate(areas) if 0.003 <= area <= 0.8), key=lambda i: -areas[i])
    return [masks[i] for i in kept[:MAX_INSTANCES]]


def _polygon_mask(line: str, size: tuple[int, ...]) -> UInt8 | None:
    values = np.array(line.split()[1:], dtype=np.float64)
    if len(values) < 6 or len(values) % 2:
        return None
    points = (values.reshape(-1, 2) * [size[1], size[0]]).round().astype(np.int32)
    mask = np.zeros(size[:2], np.uint8)
    cv2.fillPoly(mask, [points], 255)
    return mask


def _add_coco_json(
    writer: PackWriter, annotation: Path, files: dict[str, Path], seen: set[str], skip_no_derivatives: bool
) -> int:
    data: dict[str, Any] = json.loads(annotation.read_text())
    of_image: dict[int, list[dict[str, Any]]] = {}
    for item in data.get("annotations", []):
        of_image.setdefault(item["image_id"], []).append(item)
    count = 0
    for picture in data.get("images", []):
        name = Path(picture["file_name"]).name
        if name in seen or name not in files or picture["id"] not in of_image:
            continue
        if skip_no_derivatives and picture.get("license") in COCO_NO_DERIVATIVES:
            continue
        masks = _largest(list(_coco_masks(of_image[picture["id"]], picture["height"], picture["width"])))
        if masks:
            seen.add(name)
            writer.add_image(read_rgb(files[name]), masks, "coco")
            count += 1
    return count


def _coco_masks(items: list[dict[str, Any]], height: int, width: int) -> Iterator[UInt8]:
    for item in items:
        polygons = item.get("segmentation")
        if item.get("iscrowd") or not isinstance(polygons, list) or not polygons:
            continue
        merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        yield np.asarray(coco_mask.decode(merged) * 255, dtype=np.uint8)
