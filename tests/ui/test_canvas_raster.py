"""Coverage of outlines, against areas and distances that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from app.ui.canvas.raster import Raster, blend


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def on_screen(raster: Raster, coverage: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Coverage 0..1 at its place on a screen of (width, height)."""
    screen = np.zeros((size[1], size[0]))
    patch = raster.patch
    screen[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width] = coverage / 255
    return screen


def test_a_pixel_is_filled_as_far_as_it_lies_inside():
    raster = Raster([box(10, 20, 30.5, 40)], (100, 60), 2)
    screen = on_screen(raster, raster.fill(), (100, 60))
    assert (screen[21:39, 11:29] == 1).all()
    assert screen[30, 30] == pytest.approx(0.5, abs=0.26)
    assert (screen[:19] == 0).all() and (screen[:, 32:] == 0).all()
    assert screen.sum() == pytest.approx(20.5 * 20, rel=0.03)


def test_a_ring_within_a_ring_is_a_hole():
    raster = Raster([box(10, 10, 50, 50), box(20, 20, 40, 40)], (60, 60), 2)
    screen = on_screen(raster, raster.fill(), (60, 60))
    assert screen[30, 30] == 0 and screen[15, 30] == 1


@pytest.mark.parametrize("width", [1.5, 3.0])
def test_a_line_is_as_wide_as_asked_for(width):
    raster = Raster([box(20, 20, 80, 80)], (100, 100), width / 2)
    screen = on_screen(raster, raster.line(width), (100, 100))
    assert screen[50, 10:40].sum() == pytest.approx(width, abs=0.3)
    assert screen[50, 17] == screen[50, 23] == 0


def test_dashes_leave_gaps_of_the_pattern():
    raster = Raster([box(20, 20, 140, 80)], (160, 100), 1)
    top = on_screen(raster, raster.dashes(1.0, 6.0, 4.0), (160, 100))[19:21, 20:140].max(axis=0)
    assert 0.5 < (top > 0.3).mean() < 0.85
    assert (np.diff((top > 0.3).astype(int)) == 1).sum() == pytest.approx(12, abs=1)


def test_only_what_is_on_the_screen_is_drawn():
    raster = Raster([box(-1e6, -1e6, 1e6, 30)], (100, 60), 1)
    assert (raster.patch.left, raster.patch.top, raster.patch.width) == (0, 0, 100)
    screen = on_screen(raster, raster.fill(), (100, 60))
    assert (screen[:29] == 1).all() and (screen[31:] == 0).all()
    assert not Raster([box(200, 10, 300, 20)], (100, 60), 1).is_visible
    assert not Raster([], (100, 60), 1).is_visible


def test_layers_cover_each_other_by_their_opacity():
    full, left = np.full((2, 4), 255, np.uint8), np.zeros((2, 4), np.uint8)
    left[:, :2] = 255
    pixels = blend([(full, (255, 0, 0), 0.4), (left, (0, 0, 200), 0.5)]).astype(int)
    assert pixels[0, 3].tolist() == pytest.approx([0, 0, 102, 102], abs=1)
    assert pixels[0, 0].tolist() == pytest.approx([100, 0, 51, 179], abs=1)
    assert (pixels[..., :3].max(axis=-1) <= pixels[..., 3]).all()
