"""Masks turned into polygons, with the loss added up and told."""

from __future__ import annotations

from typing import Any

from app.formats.base import Loss
from app.formats.polygons import Polygon, rasterize, trace
from qcore import masks
from qcore.masks import Rle


class PolygonLoss:
    """Traces masks and measures each against what a reader will make of the polygons."""

    def __init__(self, size_hw: tuple[int, int], tolerance_px: float) -> None:
        self._size_hw = size_hw
        self._tolerance_px = tolerance_px
        self._ious: list[float] = []
        self._holes = 0

    def polygons_of(self, rle: Rle) -> list[Polygon]:
        """The polygons of one mask."""
        outline = trace(masks.decode(rle), self._tolerance_px)
        self._holes += outline.holes
        self._ious.append(masks.iou(rasterize(outline.polygons, self._size_hw), rle))
        return outline.polygons

    def details(self) -> dict[str, Any]:
        """Mean and smallest IoU of the polygons with their masks, and the holes dropped."""
        if not self._ious:
            return {"holes": 0}
        mean = sum(self._ious) / len(self._ious)
        return {"polygon_iou_mean": mean, "polygon_iou_min": min(self._ious), "holes": self._holes}

    def losses(self) -> tuple[Loss, ...]:
        """The same in words; nothing where nothing is lost."""
        found = []
        if self._holes:
            noun = "hole" if self._holes == 1 else "holes"
            text = f"{self._holes:,} {noun} in masks filled, because polygons have none."
            found.append(Loss("holes", self._holes, text))
        changed = sum(iou < 1.0 for iou in self._ious)
        if changed:
            mean = sum(self._ious) / len(self._ious)
            text = (
                f"{changed:,} of {len(self._ious):,} masks changed as polygons: "
                f"IoU {mean:.4f} on average, {min(self._ious):.4f} at worst."
            )
            found.append(Loss("polygon_iou", changed, text))
        return tuple(found)
