"""Binary masks and their COCO run-length form: the one codec every other module uses.

An `Rle` is what leaves tracking, lies in project files and enters exporters. Column-major runs that start
with zeros, compressed to ASCII as pycocotools does: a 3x4 mask whose column 1 has rows 0-1 set is
``counts = [3, 2, 7]`` before compression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

MaskArray = npt.NDArray[np.uint8]

MAX_SIDE = 1 << 15
"""Largest height or width accepted from a file, in pixels."""

_MAX_CHUNKS = 7
"""5-bit pieces in one compressed number: enough for the largest mask's runs and their sign."""


class MaskError(ValueError):
    """A mask from outside is malformed; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Rle:
    """One binary mask: ``size`` is (height, width) in pixels, ``counts`` COCO's compressed runs (ASCII)."""

    size: tuple[int, int]
    counts: bytes

    @property
    def area(self) -> int:
        """Number of set pixels."""
        return int(coco_mask.area(_raw(self)))

    @property
    def is_empty(self) -> bool:
        """True when no pixel is set."""
        return self.area == 0

    @property
    def box_xywh(self) -> tuple[float, float, float, float]:
        """Tight box (x, y, width, height) in pixels; all zero for an empty mask."""
        x, y, w, h = (float(v) for v in coco_mask.toBbox(_raw(self)))
        return x, y, w, h


def _raw(rle: Rle) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.counts}


def encode(mask_hw: npt.NDArray[Any]) -> Rle:
    """Encode a (H, W) array; every non-zero element belongs to the mask."""
    if mask_hw.ndim != 2:
        raise MaskError(f"A mask has two dimensions, not {mask_hw.ndim}.")
    column_major = np.asfortranarray(mask_hw != 0, dtype=np.uint8)
    raw = coco_mask.encode(column_major)
    return Rle((int(mask_hw.shape[0]), int(mask_hw.shape[1])), bytes(raw["counts"]))


def decode(rle: Rle) -> MaskArray:
    """Decode to a C-contiguous uint8 (H, W) array of 0 and 1."""
    return np.ascontiguousarray(coco_mask.decode(_raw(rle)))


def empty(size_hw: tuple[int, int]) -> Rle:
    """The mask of (height, width) without a set pixel."""
    return encode(np.zeros(size_hw, np.uint8))


def iou(a: Rle, b: Rle) -> float:
    """Intersection over union in 0..1; two empty masks agree perfectly (1.0)."""
    if a.size != b.size:
        raise MaskError(f"Masks of different size: {a.size} and {b.size}.")
    if a.is_empty and b.is_empty:
        return 1.0
    return float(coco_mask.iou([_raw(a)], [_raw(b)], [0])[0][0])


def merge(rles: list[Rle], intersect: bool = False) -> Rle:
    """Union (or intersection) of masks of one size."""
    merged = coco_mask.merge([_raw(r) for r in rles], intersect=intersect)
    return Rle((int(merged["size"][0]), int(merged["size"][1])), bytes(merged["counts"]))


def to_coco(rle: Rle) -> dict[str, Any]:
    """JSON-ready ``{"size": [H, W], "counts": "..."}``."""
    return {"size": [int(rle.size[0]), int(rle.size[1])], "counts": rle.counts.decode("ascii")}


def from_coco(value: Mapping[str, Any], expected_size: tuple[int, int] | None = None) -> Rle:
    """Validate an untrusted COCO RLE (compressed text or a list of runs) and return it.

    The runs are checked in Python before pycocotools sees them, because its C decoder writes past the end of
    its buffer when they do not add up to height times width.

    Raises:
        MaskError: not an RLE, wrong size, or runs that do not fill the mask exactly.
    """
    try:
        height, width = (int(v) for v in value["size"])
        counts = value["counts"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise MaskError("A mask is not a COCO RLE with 'size' and 'counts'.") from error
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise MaskError(f"A mask has the impossible size {height} x {width}.")
    if expected_size is not None and (height, width) != expected_size:
        raise MaskError(
            f"A mask is {width} x {height} pixels, but the video is {expected_size[1]} x {expected_size[0]}."
        )
    if isinstance(counts, list):
        runs = counts
        if not all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in runs):
            raise MaskError("A mask's run lengths must be whole numbers from 0.")
        if sum(runs) != height * width:
            raise MaskError("A mask's run lengths do not fill its size.")
        raw = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
        return Rle((height, width), bytes(raw["counts"]))
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError as error:
            raise MaskError("A mask's compressed runs are not ASCII text.") from error
    if not isinstance(counts, bytes):
        raise MaskError("A mask's 'counts' is neither text nor a list.")
    if sum(decompress_counts(counts)) != height * width:
        raise MaskError("A mask's run lengths do not fill its size.")
    return Rle((height, width), counts)


def decompress_counts(counts: bytes) -> list[int]:
    """Run lengths of COCO's compressed text (5 bits a character, differences to the run before last).

    Raises:
        MaskError: the text is cut off or holds a negative run.
    """
    chunks = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not chunks.size:
        return []
    if chunks.min() < 0 or chunks.max() > 63:
        raise MaskError("A mask's compressed runs hold an impossible character.")
    ends = np.flatnonzero((chunks & 0x20) == 0)
    if not ends.size or ends[-1] != chunks.size - 1:
        raise MaskError("A mask's compressed runs are cut off.")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHUNKS:
        raise MaskError("A mask's compressed runs hold an impossible number.")
    shifts = 5 * (np.arange(chunks.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((chunks & 0x1F) << shifts, starts)
    values -= ((chunks[ends] & 0x10) > 0).astype(np.int64) << (5 * lengths)
    # From the fourth on, each is the difference to the run before last: two interleaved running sums.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise MaskError("A mask's compressed runs hold a negative length.")
    runs: list[int] = values.tolist()
    return runs
