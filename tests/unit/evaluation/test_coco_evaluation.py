"""Box-prompted instance segmentation on images, scored by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmark_folders import SIZE, image_of, save_jpeg, square
from pycocotools import mask as coco_mask

from qcore.evaluation import EvaluationError, PromptKind
from qcore.evaluation.coco import average_precision, coco_images, score_images
from qcore.evaluation.detections import read_detections, score_detections
from qcore.masks import decode, encode, to_coco
from qcore.tracking.types import MaskResult, Prompt
from qcore.video import FrameSource


def write_coco(root: Path) -> dict[str, dict[int, np.ndarray]]:
    """Two images with two and one instances as polygons and RLE; a crowd that must be left out."""
    truth = {
        "000000000001": {1: square(0, 4, 6), 2: square(0, 24, 30)},
        "000000000002": {1: square(0, 10, 40)},
    }
    images, annotations = [], []
    for number, (name, masks) in enumerate(truth.items(), 1):
        save_jpeg(root / "val2017" / f"{name}.jpg", image_of(masks))
        images.append({"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
        for category, mask in masks.items():
            ys, xs = np.nonzero(mask)
            x0, y0, x1, y1 = (int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
            shape = [[x0, y0, x1, y0, x1, y1, x0, y1]] if category == 1 else to_coco(encode(mask))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentation": shape,
                }
            )
    annotations.append(
        {
            "id": 99,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 1,
            "segmentation": {"size": list(SIZE), "counts": [1, SIZE[0] * SIZE[1] - 1]},
        }
    )
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return truth


class FillBoxSession:
    """Answers a box with the box, filled."""

    def __init__(self, source: FrameSource):
        self.size = source.size

    def set_prompt(self, prompt: Prompt) -> MaskResult:
        mask = np.zeros(self.size, np.uint8)
        assert prompt.box_xyxy is not None
        x0, y0, x1, y1 = (int(v) for v in prompt.box_xyxy)
        mask[y0 : y1 + 1, x0 : x1 + 1] = 1
        return MaskResult(0, prompt.object_id, encode(mask), 0.9, 1.0)


def test_squares_are_found_perfectly_by_filling_their_boxes(tmp_path: Path) -> None:
    truth = write_coco(tmp_path)
    images = coco_images(tmp_path)
    assert {image.name: len(image.instances) for image in images} == {k: len(v) for k, v in truth.items()}
    done: list[str] = []
    scores, precision = score_images(
        FillBoxSession, images, PromptKind.BOX, lambda name, _: done.append(name)
    )
    assert done == list(truth)
    assert [len(s.objects) for s in scores] == [2, 1]
    assert all(o.j == o.f == 1 for s in scores for o in s.objects)
    assert precision["AP"] == precision["AP50"] == pytest.approx(100)


def test_images_can_be_chosen(tmp_path: Path) -> None:
    write_coco(tmp_path)
    assert [i.name for i in coco_images(tmp_path, ["000000000002"])] == ["000000000002"]
    with pytest.raises(EvaluationError, match="no annotated image 'x'"):
        coco_images(tmp_path, ["x"])


def test_average_precision_by_hand() -> None:
    # Two instances of one class; the surer detection is right, the other overlaps by 60 %: correct up to the
    # threshold 0.60, so AP is 1 for 3 thresholds (0.50, 0.55, 0.60) of 10, and for the other 7 recall stops
    # at one half: 51 of 101 recall steps have precision 1.
    size = (100, 100)
    first, second, shifted = (np.zeros(size, np.uint8) for _ in range(3))
    first[0:10, 0:10] = 1
    second[50:60, 0:80] = 1
    shifted[50:60, 0:48] = 1
    overlap = coco_mask.iou([to_coco(encode(shifted))], [to_coco(encode(second))], [0])[0][0]
    assert overlap == pytest.approx(0.6)
    annotations = [
        {
            "id": k,
            "image_id": 0,
            "category_id": 1,
            "segmentation": to_coco(encode(m)),
            "area": int(m.sum()),
            "bbox": list(encode(m).box_xywh),
            "iscrowd": 0,
        }
        for k, m in enumerate((first, second), 1)
    ]
    found = [
        {"image_id": 0, "category_id": 1, "segmentation": to_coco(encode(m)), "score": s}
        for m, s in ((first, 0.9), (shifted, 0.5))
    ]
    result = average_precision(
        {"images": [{"id": 0, "height": 100, "width": 100}], "annotations": annotations, "categories": []},
        found,
    )
    assert result["AP50"] == pytest.approx(100)
    assert result["AP75"] == pytest.approx(100 * 51 / 101)
    assert result["AP"] == pytest.approx(100 * (3 + 7 * 51 / 101) / 10)


def test_the_yolo_layout_is_read_too(tmp_path: Path) -> None:
    mask = square(0, 12, 20, side=16)
    save_jpeg(tmp_path / "images" / "a.jpg", image_of({1: mask}))
    save_jpeg(tmp_path / "images" / "unlabelled.jpg", image_of({}))
    x0, y0, x1, y1 = 20 / 80, 12 / 48, 36 / 80, 28 / 48
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(f"16 {x0} {y0} {x1} {y0} {x1} {y1} {x0} {y1}\n\n")
    (image,) = coco_images(tmp_path)
    seen: list[np.ndarray] = []

    class Recording(FillBoxSession):
        def set_prompt(self, prompt: Prompt) -> MaskResult:
            result = super().set_prompt(prompt)
            seen.append(decode(result.rle))
            return result

    ((score,), _) = score_images(Recording, [image], PromptKind.BOX, lambda name, number: None)
    assert np.array_equal(seen[0], mask) and score.objects[0].j == 1


@pytest.mark.parametrize(
    "line",
    ["0 0.1 0.1 0.5", "dog 0.1 0.1 0.5 0.1 0.5 0.5", "0 nan 0.1 0.5 0.1 0.5 0.5", "0 7 0.1 0.5 0.1 0.5 0.5"],
)
def test_malformed_yolo_lines_are_refused(line: str, tmp_path: Path) -> None:
    save_jpeg(tmp_path / "images" / "a.jpg", image_of({}))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(line)
    with pytest.raises(EvaluationError, match=r"Line 1 of 'a\.txt'"):
        coco_images(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"images": [{}], "annotations": []}', '{"images": 3}', "[" * 100000]
)
def test_malformed_json_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(EvaluationError, match="not a COCO annotation file"):
        coco_images(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="not a COCO folder"):
        coco_images(tmp_path)


def test_an_image_that_is_missing_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "val2017" / "000000000002.jpg").unlink()
    with pytest.raises(EvaluationError, match=r"'000000000002.jpg' is missing"):
        coco_images(tmp_path)


def test_the_shared_coco_sample_reads(shared_data: Path) -> None:
    images = coco_images(shared_data / "coco128-seg")
    assert 100 < len(images) <= 128
    scores, precision = score_images(FillBoxSession, images[:6], PromptKind.BOX, lambda name, number: None)
    assert all(0 < o.j <= 1 for s in scores for o in s.objects)
    assert 0 <= precision["AP"] <= precision["AP50"] <= 100


def _results(root: Path, entries: list[tuple[int, int, list[float], float]]) -> Path:
    path = root / "results.json"
    keys = ("image_id", "category_id", "bbox", "score")
    path.write_text(json.dumps([dict(zip(keys, entry, strict=True)) for entry in entries]))
    return path


def test_a_detectors_boxes_are_ranked_by_its_score(tmp_path: Path) -> None:
    write_coco(tmp_path)
    images = coco_images(tmp_path)
    right = [(1, 1, [6, 4, 13, 13], 0.9), (1, 2, [30, 24, 13, 13], 0.9), (2, 1, [40, 10, 13, 13], 0.9)]
    perfect = score_detections(FillBoxSession, images, read_detections(_results(tmp_path, right)))
    assert perfect["AP"] == pytest.approx(100)
    below = [*right, (1, 1, [60, 30, 10, 10], 0.1)]
    assert score_detections(FillBoxSession, images, read_detections(_results(tmp_path, below))) == perfect
    above = [*right, (1, 1, [60, 30, 10, 10], 0.95)]
    worse = score_detections(FillBoxSession, images, read_detections(_results(tmp_path, above)))
    # category 1: wrong, right, right, so precision is 2/3 at every recall; category 2 is perfect
    assert worse["AP"] == pytest.approx(100 * (2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    "content",
    ["{}", "[1]", '[{"image_id": 1, "category_id": 1, "bbox": [0, 0, -1, 2], "score": 1}]', "[[", "[{}]"],
)
def test_malformed_results_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(EvaluationError, match="COCO's format"):
        read_detections(path)
    write_coco(tmp_path / "coco")
    with pytest.raises(EvaluationError, match="no box"):
        score_detections(FillBoxSession, coco_images(tmp_path / "coco"), {})
