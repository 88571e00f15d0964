"""Puts the video frame on the canvas at any zoom: sharp pixels close up, no shimmer from afar."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QImage, QPainter

from app.ui.canvas.view_transform import ViewTransform

SHOW_PIXELS_FROM = 4.0
"""From this zoom on, single video pixels are shown as squares instead of being smoothed."""


class FramePainter:
    """Holds one frame in the form Qt draws fastest, and its last reduced copy."""

    def __init__(self) -> None:
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._image = QImage()
        self._reduced = QImage()

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) in video pixels; None without a frame."""
        return None if self._pixels is None else (self._pixels.shape[1], self._pixels.shape[0])

    def set_frame(self, rgb_hwc: npt.NDArray[np.uint8] | None) -> None:
        """Take a uint8 RGB (H, W, 3) frame; it is copied."""
        self._reduced = QImage()
        if rgb_hwc is None:
            self._pixels = None
            self._image = QImage()
            return
        self._pixels = cv2.cvtColor(rgb_hwc, cv2.COLOR_RGB2BGRA).astype(np.uint8, copy=False)
        self._image = _as_image(self._pixels)

    def paint(
        self, painter: QPainter, transform: ViewTransform, view_size: tuple[float, float], ratio: float
    ) -> None:
        """Draw the part in view; ``ratio`` is the device pixel ratio, ``view_size`` (width, height)."""
        if self._pixels is None:
            return
        zoom = transform.scale * ratio
        if zoom < 1.0 - 1e-9:
            reduced = self._reduce(zoom)
            reduced.setDevicePixelRatio(ratio)
            painter.drawImage(QPointF(transform.offset_x, transform.offset_y), reduced)
            return
        height, width = self._pixels.shape[:2]
        left, top = transform.to_video(0, 0)
        right, bottom = transform.to_video(*view_size)
        x0, y0 = max(math.floor(left) - 1, 0), max(math.floor(top) - 1, 0)
        x1, y1 = min(math.ceil(right) + 1, width), min(math.ceil(bottom) + 1, height)
        if x0 >= x1 or y0 >= y1:
            return
        target_x, target_y = transform.to_widget(x0, y0)
        scale = transform.scale
        smooth = 1.0 + 1e-9 < zoom < SHOW_PIXELS_FROM
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, smooth)
        painter.drawImage(
            QRectF(target_x, target_y, (x1 - x0) * scale, (y1 - y0) * scale),
            self._image,
            QRectF(x0, y0, x1 - x0, y1 - y0),
        )

    def _reduce(self, zoom: float) -> QImage:
        assert self._pixels is not None
        height, width = self._pixels.shape[:2]
        size = (max(round(width * zoom), 1), max(round(height * zoom), 1))
        if self._reduced.isNull() or (self._reduced.width(), self._reduced.height()) != size:
            # the mean of what a pixel covers, as OpenCV's area interpolation, in a fifth of its time
            self._reduced = self._image.scaled(
                *size, Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
        return self._reduced


def _as_image(pixels_bgra: npt.NDArray[np.uint8]) -> QImage:
    """An image over the array's memory: the array must live as long."""
    height, width = pixels_bgra.shape[:2]
    return QImage(pixels_bgra.data, width, height, pixels_bgra.strides[0], QImage.Format.Format_RGB32)
