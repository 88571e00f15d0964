"""Instance segmentation on single images: every instance is prompted on its own, mask AP by pycocotools.

Reads COCO's own layout (``annotations/instances_*.json`` beside the image folders) and the YOLO one
(``images/*.jpg`` with ``labels/*.txt``, a line an instance: ``class x1 y1 x2 y2 ...``, 0..1 of the image).
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from qcore.evaluation.errors import EvaluationError
from qcore.evaluation.metrics import boundary_f, region_similarity
from qcore.evaluation.prompts import PromptKind, make_prompt
from qcore.evaluation.scoring import ObjectScore, SequenceScore
from qcore.masks import MaskError, Rle, decode, from_coco, to_coco
from qcore.tracking.types import MaskResult
from qcore.video import FrameSource, VideoError, open_source
from qcore.video.folder import image_files

MAX_JSON_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated thing in an image."""

    category_id: int
    polygons: Any
    """COCO's polygons (a list of flat x, y lists in pixels) or its RLE."""


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image and its instances."""

    name: str
    path: Path
    instances: tuple[Instance, ...]
    normalised: bool
    """Whether polygons are in 0..1 of the image's size."""
    image_id: int | None = None
    """Its number in COCO's files, by which a detector's results name it; None where it has none."""


def coco_images(root: Path, names: Sequence[str] | None = None) -> list[AnnotatedImage]:
    """The annotated images of a folder; ``names`` are file names without suffix.

    Raises:
        EvaluationError: the folder has neither layout, an annotation is malformed, or a name is missing.
    """
    if (root / "images").is_dir() and (root / "labels").is_dir():
        images = _yolo_images(root)
    else:
        files = sorted((root / "annotations").glob("instances_*.json")) if root.is_dir() else []
        if not files:
            raise EvaluationError(
                f"{str(root)!r} is not a COCO folder: it lacks 'annotations/instances_*.json' "
                "(or 'images' and 'labels')."
            )
        images = [image for file in files for image in _coco_images(root, file)]
    if names is not None:
        by_name = {image.name: image for image in images}
        for name in names:
            if name not in by_name:
                raise EvaluationError(f"{str(root)!r} has no annotated image {name!r}.")
        images = [by_name[name] for name in dict.fromkeys(names)]
    if not images:
        raise EvaluationError(f"{str(root)!r} holds no annotated images.")
    return images


def score_images(
    open_session: Callable[[FrameSource], Any],
    images: Sequence[AnnotatedImage],
    kind: PromptKind,
    progress: Callable[[str, int], None],
) -> tuple[tuple[SequenceScore, ...], dict[str, float]]:
    """Segment every instance of every image from its prompt.

    Args:
        open_session: gives a session with ``set_prompt`` on a clip.
        images: what to segment.
        kind: the prompt made from each instance's true mask.
        progress: called with the name and number of each finished image.

    Returns:
        Scores an image (one object an instance), and AP figures in percent.
    """
    scores: list[SequenceScore] = []
    truth: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        with opened(image) as source:
            true = list(true_masks(image, source.size))
            seconds = 0.0
            objects = []
            truth["images"].append({"id": number, "height": source.height, "width": source.width})
            session = open_session(source)
            for object_id, (category, rle) in enumerate(true, 1):
                mask = decode(rle)
                prompt = make_prompt(kind, mask, 0, object_id)
                started = time.perf_counter()
                result: MaskResult = session.set_prompt(prompt)
                seconds += time.perf_counter() - started
                predicted = decode(result.rle)
                j = region_similarity(predicted, mask)
                objects.append(ObjectScore(object_id, j, boundary_f(predicted, mask), j, 1))
                truth["annotations"].append(truth_record(truth, number, category, rle))
                found.append(
                    {
                        "image_id": number,
                        "category_id": category,
                        "segmentation": to_coco(result.rle),
                        "score": float(result.score),
                    }
                )
        if objects:
            scores.append(SequenceScore(image.name, 1, 1, seconds, tuple(objects)))
        progress(image.name, number)
    if not found:
        raise EvaluationError("Not one instance of the images has a pixel.")
    return tuple(scores), average_precision(truth, found)


def truth_record(truth: dict[str, list[Any]], image_id: int, category_id: int, rle: Rle) -> dict[str, Any]:
    """The next true instance as pycocotools takes it."""
    return {
        "id": len(truth["annotations"]) + 1,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": to_coco(rle),
        "area": rle.area,
        "bbox": list(rle.box_xywh),
        "iscrowd": 0,
    }


def average_precision(truth: dict[str, list[Any]], found: list[dict[str, Any]]) -> dict[str, float]:
    """COCO's segmentation AP in percent (100 detections an image) of detections against a ground truth."""
    truth = dict(truth)
    truth["categories"] = [
        {"id": number, "name": str(number)}
        for number in sorted({a["category_id"] for a in truth["annotations"]})
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        run = COCOeval(reference, reference.loadRes(found), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    # pycocotools marks sizes that do not occur with -1
    return {name: 100 * float(value) for name, value in zip(names, run.stats, strict=False) if value >= 0}


def opened(image: AnnotatedImage) -> FrameSource:
    """The image as a clip of one frame.

    Raises:
        EvaluationError: it cannot be read.
    """
    try:
        return open_source(image.path)
    except VideoError as error:
        raise EvaluationError(str(error)) from error


def true_masks(image: AnnotatedImage, size: tuple[int, int]) -> Iterator[tuple[int, Rle]]:
    """(category, mask) of every instance that has a pixel at ``size`` (height, width).

    Raises:
        EvaluationError: an annotation is malformed.
    """
    height, width = size
    for instance in image.instances:
        shape = instance.polygons
        try:
            if isinstance(shape, dict):
                rle = from_coco(shape, size)
            else:
                scale = np.array([width, height], np.float64) if image.normalised else np.ones(2)
                polygons = [
                    (np.asarray(p, np.float64).reshape(-1, 2) * scale).ravel().tolist()
                    for p in shape
                    if len(p) >= 6
                ]
                if not polygons:
                    continue
                merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
                rle = Rle(size, bytes(merged["counts"]))
        except (MaskError, ValueError, TypeError) as error:
            raise EvaluationError(f"The image {image.name!r} has a malformed annotation.") from error
        if not rle.is_empty:
            yield instance.category_id, rle


def _yolo_images(root: Path) -> list[AnnotatedImage]:
    """Images with labels, directly in the two folders or in one level of splits such as ``train2017``."""
    images = []
    splits = sorted(folder.name for folder in (root / "images").iterdir() if folder.is_dir())
    for split in splits or [""]:
        try:
            files = image_files(root / "images" / split)
        except VideoError as error:
            raise EvaluationError(str(error)) from error
        for file in files:
            label = root / "labels" / split / f"{file.stem}.txt"
            instances = tuple(_yolo_instances(label)) if label.is_file() else ()
            if instances:
                number = int(file.stem) if file.stem.isdecimal() else None
                images.append(AnnotatedImage(file.stem, file, instances, True, number))
    return images


def _yolo_instances(label: Path) -> Iterator[Instance]:
    for number, line in enumerate(label.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            category, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError as error:
            raise EvaluationError(f"Line {number} of {label.name!r} is not a YOLO polygon.") from error
        if len(values) < 6 or len(values) % 2 or not all(-1 <= value <= 2 for value in values):
            raise EvaluationError(f"Line {number} of {label.name!r} is not a YOLO polygon.")
        yield Instance(category + 1, [[min(1.0, max(0.0, value)) for value in values]])


def _coco_images(root: Path, file: Path) -> Iterator[AnnotatedImage]:
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise EvaluationError(f"{file.name!r} is too large.")
        content = json.loads(file.read_text(encoding="utf-8"))
        listed = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        instances: dict[int, list[Instance]] = {}
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                instances.setdefault(int(annotation["image_id"]), []).append(
                    Instance(int(annotation["category_id"]), annotation["segmentation"])
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"{file.name!r} is not a COCO annotation file.") from error
    split = file.stem.removeprefix("instances_")
    for image_id, name in listed.items():
        if image_id in instances:
            yield AnnotatedImage(
                Path(name).stem,
                _image_path(root, split, Path(name).name),
                tuple(instances[image_id]),
                False,
                image_id,
            )


def _image_path(root: Path, split: str, name: str) -> Path:
    for folder in (root / split, root / "images" / split, root / "images", root):
        if (folder / name).is_file():
            return folder / name
    raise EvaluationError(f"The image {name!r} is missing beside its annotations.")
