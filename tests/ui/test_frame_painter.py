"""The reduced picture, against the mean over what every pixel covers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PySide6.QtGui import QImage, QPainter

from app.ui.canvas.frame_painter import FramePainter
from app.ui.canvas.view_transform import ViewTransform


def painted(frame_hwc: np.ndarray, zoom: float) -> np.ndarray:
    painter = FramePainter()
    painter.set_frame(frame_hwc)
    width, height = round(frame_hwc.shape[1] * zoom), round(frame_hwc.shape[0] * zoom)
    image = QImage(width, height, QImage.Format.Format_RGB32)
    image.fill(0)
    on = QPainter(image)
    painter.paint(on, ViewTransform(zoom, 0.0, 0.0), (float(width), float(height)), 1.0)
    on.end()
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(height, image.bytesPerLine() // 4, 4)
    return rows[:, :width, 2::-1].astype(int)


@pytest.mark.parametrize("zoom", [0.93, 0.6, 0.5, 0.31, 0.07])
def test_every_pixel_is_the_mean_of_what_it_covers(zoom):
    noise = np.random.default_rng(0).integers(0, 256, (180, 320, 3), np.uint8)
    frame = cv2.GaussianBlur(noise, (0, 0), 1)
    got = painted(frame, zoom)
    wanted = cv2.resize(frame, got.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(got - wanted).mean() < 1.0
    assert np.abs(got - wanted).max() <= 6


@pytest.mark.parametrize("zoom", [0.5, 0.4, 0.2])
def test_fine_patterns_do_not_shimmer_from_afar(zoom):
    checkers = (np.indices((200, 300)).sum(0) % 2 * 255).astype(np.uint8)
    inside = painted(np.dstack([checkers] * 3), zoom)[4:-4, 4:-4]
    assert np.abs(inside - 127.5).max() < 8
