"""Reading the prompts file of `qminisam2 propagate`: everything is checked before a model is loaded.

``{"objects": [{"id": 1, "name": "dog", "prompts": [{"frame": 0, "box": [x0, y0, x1, y1]},
{"frame": 0, "points": [[x, y], ...], "labels": [1, 0, ...]}, {"frame": 40, "mask": RLE-or-PNG-path}]}]}``
in pixels of the original frame. Entries of one object on one frame add up; a mask stands alone. An object may
have a ``"class"``, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from app.cli.errors import CommandError
from qcore import masks
from qcore.masks import MaskError, Rle
from qcore.tracking.types import Prompt

_MAX_FILE_BYTES = 256 << 20
_MAX_OBJECT_ID = 1_000_000
_MAX_POINTS = 1000
"""Clicks on one object and frame."""


@dataclass(frozen=True, slots=True)
class PromptedObject:
    """One object of the file with its prompts by frame."""

    object_id: int
    name: str
    class_name: str | None
    prompts: tuple[Prompt, ...]


def read_prompts(path: Path, frame_count: int, size_hw: tuple[int, int]) -> list[PromptedObject]:
    """Read and check a prompts file against the video.

    Args:
        path: the JSON file; PNG paths in it are relative to its folder.
        frame_count: frames of the video.
        size_hw: height and width of its frames in pixels.

    Raises:
        CommandError: unreadable, or something in it does not fit; the sentence says where.
    """
    return _Reader(path, frame_count, size_hw).read()


class _Reader:
    def __init__(self, path: Path, frame_count: int, size_hw: tuple[int, int]) -> None:
        self._path, self._frame_count, self._size_hw = path, frame_count, size_hw

    def read(self) -> list[PromptedObject]:
        document = self._load()
        self._known_keys(document, "the file", required={"objects"})
        objects = document["objects"]
        if not isinstance(objects, list) or not objects:
            raise self._error("“objects” must be a list of at least one object")
        found = [self._object(value, f"object {number}") for number, value in enumerate(objects, 1)]
        ids = [item.object_id for item in found]
        if len(set(ids)) != len(ids):
            raise self._error("two objects have the same id")
        return found

    def _load(self) -> Any:
        try:
            if self._path.stat().st_size > _MAX_FILE_BYTES:
                raise self._error("it is too large")
            text = self._path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise CommandError(
                f"The prompts file {self._path} cannot be read: {error.strerror or error}."
            ) from error
        except UnicodeDecodeError as error:
            raise self._error("it is not UTF-8 text") from error
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise self._error(f"line {error.lineno} is not valid JSON ({error.msg.lower()})") from error
        except (ValueError, RecursionError) as error:
            raise self._error("it is not valid JSON") from error

    def _error(self, what: str) -> CommandError:
        return CommandError(f"The prompts file {self._path.name} cannot be used: {what}.")

    def _known_keys(
        self, value: Any, where: str, required: set[str], optional: frozenset[str] = frozenset()
    ) -> None:
        if not isinstance(value, dict):
            raise self._error(f"{where} is not a JSON object")
        missing = sorted(required - value.keys())
        if missing:
            raise self._error(f"{where} lacks “{missing[0]}”")
        unknown = sorted(value.keys() - required - optional)
        if unknown:
            raise self._error(f"{where} has the unknown entry “{unknown[0]}”")

    def _whole(self, value: Any, low: int, high: int, what: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._error(f"{what} must be a whole number from {low} to {high}")
        return value

    def _object(self, value: Any, where: str) -> PromptedObject:
        self._known_keys(value, where, {"id", "prompts"}, frozenset({"name", "class"}))
        object_id = self._whole(value["id"], 1, _MAX_OBJECT_ID, f"“id” of {where}")
        name = self._name(value.get("name", f"Object {object_id}"), f"“name” of {where}")
        class_name = self._name(value["class"], f"“class” of {where}") if "class" in value else None
        entries = value["prompts"]
        if not isinstance(entries, list) or not entries:
            raise self._error(f"“prompts” of {where} must be a list of at least one prompt")
        by_frame: dict[int, Prompt] = {}
        for number, entry in enumerate(entries, 1):
            prompt = self._prompt(entry, object_id, f"prompt {number} of {where}")
            earlier = by_frame.get(prompt.frame_index)
            by_frame[prompt.frame_index] = prompt if earlier is None else self._join(earlier, prompt, where)
        prompts = tuple(by_frame[frame] for frame in sorted(by_frame))
        return PromptedObject(object_id, name, class_name, prompts)

    def _name(self, value: Any, what: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._error(f"{what} must be text")
        return value.strip()

    def _join(self, first: Prompt, second: Prompt, where: str) -> Prompt:
        frame = first.frame_index
        if first.mask is not None or second.mask is not None:
            raise self._error(f"{where} has a mask beside other prompts on frame {frame}")
        if first.box_xyxy is not None and second.box_xyxy is not None:
            raise self._error(f"{where} has two boxes on frame {frame}")
        return Prompt(
            frame,
            first.object_id,
            first.points_xy + second.points_xy,
            first.labels + second.labels,
            first.box_xyxy or second.box_xyxy,
        )

    def _prompt(self, value: Any, object_id: int, where: str) -> Prompt:
        self._known_keys(value, where, {"frame"}, frozenset({"box", "points", "labels", "mask"}))
        frame = self._whole(value["frame"], 0, self._frame_count - 1, f"“frame” of {where}")
        kinds = value.keys() & {"box", "points", "mask"}
        if not kinds:
            raise self._error(f"{where} has neither a box, nor points, nor a mask")
        if "mask" in kinds:
            if len(kinds) > 1 or "labels" in value:
                raise self._error(f"{where} has a mask beside a box or points")
            return Prompt(frame, object_id, mask=self._mask(value["mask"], where))
        box = self._box(value["box"], where) if "box" in kinds else None
        points, labels = self._points(value, where)
        return Prompt(frame, object_id, points, labels, box)

    def _numbers(self, value: Any, count: int, what: str) -> tuple[float, ...]:
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
            or not all(abs(v) < 1e9 and math.isfinite(v) for v in value)
        ):
            raise self._error(f"{what} must be {count} numbers")
        return tuple(float(v) for v in value)

    def _box(self, value: Any, where: str) -> tuple[float, float, float, float]:
        height, width = self._size_hw
        x0, y0, x1, y1 = self._numbers(value, 4, f"“box” of {where}")
        if not (x0 < x1 and y0 < y1):
            raise self._error(f"“box” of {where} must be [left, top, right, bottom] with some area")
        # detectors' boxes often reach a little over the edge
        clipped = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            raise self._error(f"“box” of {where} lies outside the {width} x {height} frame")
        return clipped

    def _points(
        self, value: Mapping[str, Any], where: str
    ) -> tuple[tuple[tuple[float, float], ...], tuple[int, ...]]:
        if "points" not in value:
            if "labels" in value:
                raise self._error(f"{where} has labels without points")
            return (), ()
        height, width = self._size_hw
        raw, labels = value["points"], value.get("labels")
        if not isinstance(raw, list) or not 1 <= len(raw) <= _MAX_POINTS:
            raise self._error(f"“points” of {where} must be a list of 1 to {_MAX_POINTS} points")
        points: list[tuple[float, float]] = []
        for point in raw:
            x, y = self._numbers(point, 2, f"each of the “points” of {where}")
            if not (0 <= x <= width and 0 <= y <= height):
                raise self._error(f"a point of {where} lies outside the {width} x {height} frame")
            points.append((x, y))
        if not isinstance(labels, list) or len(labels) != len(points):
            raise self._error(f"{where} needs one of “labels” for each of its points")
        signs = tuple(self._whole(label, 0, 1, f"each of the “labels” of {where}") for label in labels)
        return tuple(points), signs

    def _mask(self, value: Any, where: str) -> Rle:
        if isinstance(value, str):
            return self._png(value, where)
        if not isinstance(value, dict):
            raise self._error(f"“mask” of {where} must be an RLE or the path of a PNG")
        try:
            return masks.from_coco(value, self._size_hw)
        except MaskError as error:
            raise self._error(f"{where}: {_inner(str(error))}") from error

    def _png(self, name: str, where: str) -> Rle:
        path = self._path.parent / name
        height, width = self._size_hw
        try:
            with Image.open(path, formats=["PNG"]) as image:
                if image.size != (width, height):
                    raise self._error(
                        f"{name} is {image.width} x {image.height}, but the video {width} x {height} pixels"
                    )
                if image.mode not in ("1", "L", "P", "I;16", "I"):
                    raise self._error(f"{name} is a colour picture; a mask holds 0 and one other value")
                pixels_hw = np.asarray(image)
        except UnidentifiedImageError as error:
            raise self._error(f"{name} of {where} is not a PNG") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
            raise self._error(f"{name} of {where} cannot be read ({_inner(reason)})") from error
        values = np.unique(pixels_hw)
        if np.count_nonzero(values) > 1:
            raise self._error(f"{name} holds {len(values)} different values; a mask holds 0 and one other")
        return masks.encode(pixels_hw)


def _inner(sentence: str) -> str:
    """A sentence as part of another one."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")
