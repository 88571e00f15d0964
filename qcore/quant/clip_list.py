"""A list of clips as a JSON file: videos with the prompts and accepted masks known for them.

The window writes one for a calibration, because a project that is open belongs to it alone; people can write
their own. Paths may be relative to the file.

    {"clips": [{"path": "dog.mp4",
                "prompts": [{"frame": 0, "box": [10, 20, 200, 180]}],
                "accepted": [{"name": "dog", "masks": {"0": RLE, "12": RLE}}]}]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qcore.masks import MaskError, from_coco, to_coco
from qcore.quant.clip_selection import AcceptedObject, Box, ClipRequest
from qcore.quant.errors import QuantizationError

MAX_BYTES = 64 << 20
MAX_ENTRIES = 10_000


def write_clip_list(path: Path, requests: Sequence[ClipRequest]) -> None:
    """Write requests; `read_clip_list` gives the same back."""
    value = {
        "clips": [
            {
                "path": str(request.path),
                "prompts": [{"frame": frame, "box": list(box)} for frame, box in request.prompts],
                "accepted": [
                    {"name": entry.name, "masks": {str(i): to_coco(rle) for i, rle in entry.masks.items()}}
                    for entry in request.accepted
                ],
            }
            for request in requests
        ]
    }
    path.write_text(json.dumps(value), encoding="utf-8")


def read_clip_list(path: Path) -> list[ClipRequest]:
    """Read and check a list of clips.

    Raises:
        QuantizationError: it cannot be read or is not such a list.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise QuantizationError(f"{path.name} is too large to be a list of clips.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuantizationError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise QuantizationError(f"{path.name} is not JSON.") from error
    try:
        return [_request(entry, path.parent) for entry in _items(value["clips"])]
    except (KeyError, TypeError, ValueError, AttributeError, MaskError) as error:
        if isinstance(error, QuantizationError):
            raise
        raise QuantizationError(f"{path.name} is not a list of clips; see 'quantize --help'.") from error


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise TypeError("not a list")
    return value


def _request(entry: Any, folder: Path) -> ClipRequest:
    prompts = tuple((_frame(p["frame"]), _box(p["box"])) for p in _items(entry.get("prompts", [])))
    accepted = tuple(
        AcceptedObject(str(a["name"]), {_frame(int(i)): from_coco(rle) for i, rle in a["masks"].items()})
        for a in _items(entry.get("accepted", []))
    )
    if not isinstance(entry["path"], str) or not entry["path"]:
        raise TypeError("no path")
    return ClipRequest(folder / entry["path"], prompts, accepted)


def _frame(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 22:
        raise ValueError("no frame number")
    return value


def _box(value: Any) -> Box:
    x0, y0, x1, y1 = (float(number) for number in _items(value))
    if not all(math.isfinite(number) for number in (x0, y0, x1, y1)) or x1 <= x0 or y1 <= y0:
        raise ValueError("no box")
    return x0, y0, x1, y1
