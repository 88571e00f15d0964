"""Instance segmentation from a detector's boxes (the paper's Table 1): any results file in COCO's format.

The file is a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; ids are those
of the benchmark folder. A mask's score is the detector's score times the model's own estimate of its IoU, as
in PTQ4SAM. Regions that COCO marks as crowds are not known here, so detections on them count as wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcore.evaluation.coco import (
    MAX_JSON_BYTES,
    AnnotatedImage,
    average_precision,
    opened,
    true_masks,
    truth_record,
)
from qcore.evaluation.errors import EvaluationError
from qcore.masks import to_coco
from qcore.tracking.types import MaskResult, Prompt
from qcore.video import FrameSource

DETECTIONS_PER_IMAGE = 100
"""COCO scores so many; the best are taken."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One box of a detector, pixels of the image."""

    category_id: int
    box_xyxy: tuple[float, float, float, float]
    score: float


def read_detections(path: Path) -> dict[int, list[Detection]]:
    """Boxes by image id, best first, at most `DETECTIONS_PER_IMAGE` an image.

    Raises:
        EvaluationError: not such a file.
    """
    found: dict[int, list[Detection]] = {}
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise EvaluationError(f"{path.name!r} is too large.")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise TypeError
        for item in content:
            x, y, width, height = (float(value) for value in item["bbox"])
            score = float(item["score"])
            if not all(map(math.isfinite, (x, y, width, height, score))) or width < 0 or height < 0:
                raise ValueError
            box = (x, y, x + width, y + height)
            found.setdefault(int(item["image_id"]), []).append(
                Detection(int(item["category_id"]), box, score)
            )
    except EvaluationError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvaluationError(f"{path.name!r} is not a results file in COCO's format.") from error
    best = {image: sorted(boxes, key=lambda d: -d.score) for image, boxes in found.items()}
    return {image: boxes[:DETECTIONS_PER_IMAGE] for image, boxes in best.items()}


def score_detections(
    open_session: Callable[[FrameSource], Any],
    images: Sequence[AnnotatedImage],
    detections: dict[int, list[Detection]],
    progress: Callable[[str, int], None] = lambda name, number: None,
) -> dict[str, float]:
    """Mask AP figures in percent of the masks that the detector's boxes prompt for.

    Raises:
        EvaluationError: the file names none of the images, or an annotation is malformed.
    """
    truth: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        boxes = [] if image.image_id is None else detections.get(image.image_id, [])
        with opened(image) as source:
            truth["images"].append({"id": number, "height": source.height, "width": source.width})
            for category, rle in true_masks(image, source.size):
                truth["annotations"].append(truth_record(truth, number, category, rle))
            session = open_session(source)
            for object_id, box in enumerate(boxes, 1):
                result: MaskResult = session.set_prompt(Prompt(0, object_id, box_xyxy=box.box_xyxy))
                found.append(
                    {
                        "image_id": number,
                        "category_id": box.category_id,
                        "segmentation": to_coco(result.rle),
                        "score": box.score * float(result.score),
                    }
                )
        progress(image.name, number)
    if not found:
        raise EvaluationError("The results file has no box for any of the images.")
    return average_precision(truth, found)
