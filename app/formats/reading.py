"""Reading annotation files that may be anything: bounded, typed, and refused with one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from app.formats.base import FormatError
from app.project.model import VideoInfo
from qcore.masks import MaskError, Rle, from_coco

MAX_JSON_BYTES = 512 << 20
MAX_OBJECTS = 4096
MAX_MASKS = 2_000_000
_MAX_NAME = 200
_MAX_NUMBER = 1e15


def load_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file.

    Raises:
        FormatError: unreadable, too large, or not a JSON object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise FormatError(f"“{path.name}” is larger than {MAX_JSON_BYTES >> 20} MB.")
        value = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except OSError as error:
        raise FormatError(
            f"“{path.name}” cannot be read: {(error.strerror or 'unknown reason').lower()}."
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise FormatError(f"“{path.name}” is not valid JSON.") from error
    if not isinstance(value, dict):
        raise FormatError(f"“{path.name}” does not hold annotations.")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


class Reader:
    """Typed access to the values of a file; every surprise is a `FormatError` that names the file."""

    def __init__(self, path: Path, what: str) -> None:
        self.name = path.name
        self._what = what

    def fail(self, reason: str) -> NoReturn:
        """Refuse the file; ``reason`` completes "“NAME” is no WHAT: "."""
        raise FormatError(f"“{self.name}” is no {self._what}: {reason}.")

    def items(self, parent: Mapping[str, Any], key: str, limit: int) -> list[Any]:
        """A list of bounded length."""
        value = parent.get(key)
        if not isinstance(value, list):
            self.fail(f"it has no list “{key}”")
        if len(value) > limit:
            self.fail(f"its list “{key}” is too long")
        return value

    def mapping(self, value: Any, what: str) -> Mapping[str, Any]:
        """A JSON object."""
        if not isinstance(value, dict):
            self.fail(f"{what} is not an object")
        return value

    def whole(self, value: Any, what: str, low: int = 0, high: int = 1 << 40) -> int:
        """A whole number in a range; 3.0 counts as one."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(f"{what} is not a whole number from {low}")
        return value

    def mask(self, value: Any, video: VideoInfo, what: str) -> Rle:
        """A COCO RLE of the video's size."""
        try:
            return from_coco(self.mapping(value, what), (video.height, video.width))
        except MaskError as error:
            raise FormatError(f"“{self.name}” does not fit: {_lower(str(error))}") from error

    def frame(self, value: Any, video: VideoInfo) -> int:
        """The index of a frame of the video."""
        index = self.whole(value, "a frame number")
        if index >= video.frame_count:
            raise FormatError(
                f"“{self.name}” does not fit: it annotates frame {index}, "
                f"but the video has {video.frame_count} frames."
            )
        return index


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def clean_name(value: Any, fallback: str) -> str:
    """A name for the screen: one line of printable text, not too long."""
    if not isinstance(value, str):
        return fallback
    text = " ".join("".join(c if c.isprintable() else " " for c in value[: 4 * _MAX_NAME]).split())
    return text[:_MAX_NAME] or fallback


def clean_color(value: Any) -> str | None:
    """``#rrggbb`` in lower case, or None."""
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return value.lower()
    return None


def clean_share(value: Any, fallback: float) -> float:
    """A number in 0..1."""
    return min(max(float(value), 0.0), 1.0) if is_number(value) else fallback


def is_number(value: Any) -> bool:
    """True for a finite number of a size that a picture can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
