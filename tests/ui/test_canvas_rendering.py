"""What the canvas puts on the screen, pixel by pixel where it matters."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QColor, QImage
from PySide6.QtTest import QTest

from app.ui import theme
from app.ui.canvas import mask_painter, scene
from app.ui.canvas.canvas import Canvas
from app.ui.canvas.view_model import MaskLayer, PromptMark, Tool

RED, GREEN = "#ff0000", "#00ff00"


@pytest.fixture
def canvas(qtbot):
    """A canvas that shows a black frame of 100 x 60 at 4 screen pixels a video pixel."""
    widget = Canvas()
    qtbot.addWidget(widget)
    widget.resize(480, 320)
    widget.show()
    widget.set_frame(np.zeros((60, 100, 3), np.uint8))
    widget.center_on(50, 30, 4.0)
    return widget


def shot(canvas: Canvas) -> QImage:
    return canvas.grab().toImage()


def color_at(canvas: Canvas, image: QImage, x: float, y: float) -> tuple[int, int, int]:
    """Colour in the middle of a video pixel."""
    place = canvas.transform.to_widget(x + 0.5, y + 0.5)
    color = image.pixelColor(round(place[0]), round(place[1]))
    return color.red(), color.green(), color.blue()


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((60, 100), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def test_the_frame_is_shown_in_its_own_colours(canvas):
    frame = np.zeros((60, 100, 3), np.uint8)
    frame[10:20, 30:40] = (200, 100, 50)
    canvas.set_frame(frame)
    image = shot(canvas)
    assert color_at(canvas, image, 35, 15) == (200, 100, 50)
    assert color_at(canvas, image, 45, 15) == (0, 0, 0)


def test_single_pixels_are_squares_close_up(canvas):
    frame = np.zeros((60, 100, 3), np.uint8)
    frame[30, 50] = 255
    canvas.set_frame(frame)
    canvas.center_on(50.5, 30.5, 16.0)
    image = shot(canvas)
    left, top = canvas.transform.to_widget(50, 30)
    assert image.pixelColor(round(left) + 1, round(top) + 1) == QColor("#ffffff")
    assert image.pixelColor(round(left) + 14, round(top) + 14) == QColor("#ffffff")
    assert image.pixelColor(round(left) - 2, round(top) + 8) == QColor("#000000")
    assert image.pixelColor(round(left) + 17, round(top) + 8) == QColor("#000000")


def test_a_mask_is_filled_to_45_percent_and_outlined(canvas):
    canvas.set_layers([MaskLayer(1, square(20, 20, 60, 40), RED)])
    image = shot(canvas)
    red, green, blue = color_at(canvas, image, 40, 30)
    assert red == pytest.approx(0.45 * 255, abs=2) and green == blue == 0
    assert color_at(canvas, image, 70, 30) == (0, 0, 0)
    edge_x, edge_y = canvas.transform.to_widget(20, 30)
    row = [image.pixelColor(round(edge_x) + dx, round(edge_y)).red() for dx in range(-3, 4)]
    assert max(row) > 200 and row[0] == 0


def test_a_hole_in_a_mask_stays_clear(canvas):
    mask = square(20, 10, 60, 50)
    mask[25:35, 35:45] = 0
    canvas.set_layers([MaskLayer(1, mask, RED)])
    assert color_at(canvas, shot(canvas), 40, 30) == (0, 0, 0)


def test_other_objects_are_dimmed_beside_the_selected_one(canvas):
    first, second = square(10, 20, 40, 40), square(60, 20, 90, 40)
    canvas.set_layers([MaskLayer(1, first, RED), MaskLayer(2, second, RED)])
    before = color_at(canvas, shot(canvas), 75, 30)
    canvas.set_layers([MaskLayer(1, first, RED, selected=True), MaskLayer(2, second, RED)])
    image = shot(canvas)
    assert color_at(canvas, image, 25, 30) == before
    assert color_at(canvas, image, 75, 30)[0] < before[0] / 2


def test_a_protected_mask_is_hatched(canvas):
    mask = square(10, 10, 90, 50)

    def shades(protected):
        canvas.set_layers([MaskLayer(1, mask, RED, protected=protected)])
        image = shot(canvas)
        return {color_at(canvas, image, x, 30) for x in range(20, 80)}

    assert len(shades(False)) == 1
    assert len(shades(True)) > 1


def test_hiding_the_overlay_shows_the_bare_frame(canvas):
    canvas.set_layers([MaskLayer(1, square(20, 20, 60, 40), RED)])
    canvas.set_marks([PromptMark(1, RED, ((80.0, 30.0),), (1,))])
    canvas.set_overlay_hidden(True)
    image = shot(canvas)
    assert color_at(canvas, image, 40, 30) == color_at(canvas, image, 80, 30) == (0, 0, 0)
    canvas.set_overlay_hidden(False)
    image = shot(canvas)
    assert color_at(canvas, image, 40, 30) != (0, 0, 0)
    assert color_at(canvas, image, 80, 30) != (0, 0, 0)


def test_clicks_are_green_and_red_discs_with_a_white_rim(canvas):
    canvas.set_marks([PromptMark(1, RED, ((20.0, 30.0), (80.0, 30.0)), (1, 0))])
    image = shot(canvas)
    for x, positive in ((20.0, True), (80.0, False)):
        centre = canvas.transform.to_widget(x, 30)
        inner = image.pixelColor(round(centre[0]) - 3, round(centre[1]) - 3)
        assert (inner.green() > inner.red()) == positive
        rim = [image.pixelColor(round(centre[0]) + dx, round(centre[1])) for dx in range(5, 10)]
        assert max(color.lightness() for color in rim) > 225


def test_a_box_has_white_handles_only_when_it_can_be_dragged(canvas):
    box = PromptMark(1, RED, box_xyxy=(20.0, 10.0, 80.0, 50.0))
    canvas.set_marks([box])
    corner = QPoint(*(round(v) for v in canvas.transform.to_widget(20, 10)))
    assert shot(canvas).pixelColor(corner + QPoint(2, 2)) == QColor("#ffffff")
    canvas.set_active_object(2, GREEN)
    assert shot(canvas).pixelColor(corner + QPoint(2, 2)) != QColor("#ffffff")


def test_painting_is_shown_while_the_button_is_held(canvas):
    canvas.set_layers([MaskLayer(1, square(10, 20, 50, 40), RED, selected=True)])
    canvas.brush_radius = 5
    canvas.set_tool(Tool.BRUSH)

    def paint(*places):
        points = [QPoint(*(round(v) for v in canvas.transform.to_widget(*p))) for p in places]
        QTest.mousePress(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, points[0])
        for point in points[1:]:
            QTest.mouseMove(canvas, point)
        return points[-1]

    end = paint((60, 30), (75, 30), (90, 30))
    image = shot(canvas)
    inside = color_at(canvas, image, 25, 30)
    assert color_at(canvas, image, 70, 30) == inside == (pytest.approx(115, abs=2), 0, 0)
    QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, end)
    assert color_at(canvas, shot(canvas), 70, 30) == inside  # until the new layers come
    canvas.set_layers([MaskLayer(1, square(10, 20, 50, 40), RED, selected=True)])
    assert color_at(canvas, shot(canvas), 70, 30) == (0, 0, 0)

    canvas.set_tool(Tool.ERASER)
    paint((20, 30), (30, 30), (40, 30))
    image = shot(canvas)
    assert color_at(canvas, image, 25, 30) == (0, 0, 0)
    assert color_at(canvas, image, 25, 22) == inside


def test_the_preview_is_lighter_than_a_mask_and_goes_away(canvas):
    canvas.set_preview(square(20, 20, 60, 40), RED)
    assert 0 < color_at(canvas, shot(canvas), 40, 30)[0] < 0.35 * 255
    canvas.set_preview(None)
    assert color_at(canvas, shot(canvas), 40, 30) == (0, 0, 0)


def test_the_reference_lights_up_what_differs(canvas):
    canvas.set_layers([MaskLayer(1, square(20, 20, 60, 40), RED, selected=True)])
    before = shot(canvas)
    canvas.set_reference(square(20, 20, 50, 40))
    image = shot(canvas)
    assert color_at(canvas, image, 30, 30) == color_at(canvas, before, 30, 30)
    assert color_at(canvas, image, 55, 30)[1] > 80  # the warning colour has green in it
    canvas.set_reference(None)
    assert shot(canvas) == before


def test_a_mask_is_traced_once_however_often_it_is_painted(canvas, monkeypatch):
    traced = []
    real = mask_painter.outline
    monkeypatch.setattr(mask_painter, "outline", lambda mask: traced.append(1) or real(mask))
    mask = square(20, 20, 60, 40)
    for selected in (False, True):
        canvas.set_layers([MaskLayer(1, mask, RED, selected=selected)])
        for zoom in (1.0, 3.0, 9.0):
            canvas.center_on(50, 30, zoom)
            shot(canvas)
    assert len(traced) == 1


def test_only_a_mask_that_changed_is_drawn_again(canvas, monkeypatch):
    drawn = []
    real = scene.layer_stamp
    monkeypatch.setattr(
        scene, "layer_stamp", lambda layer, *rest: drawn.append(layer.object_id) or real(layer, *rest)
    )
    others = [MaskLayer(i, square(10 * i, 10, 10 * i + 8, 20), GREEN) for i in (1, 2, 3)]
    first = MaskLayer(4, square(20, 30, 60, 40), RED, selected=True)
    canvas.set_layers([*others, first])
    shot(canvas)
    assert sorted(drawn) == [1, 2, 3, 4]
    drawn.clear()
    canvas.set_layers([*others, MaskLayer(4, square(20, 30, 70, 45), RED, selected=True)])
    image = shot(canvas)
    assert drawn == [4]
    assert color_at(canvas, image, 65, 42)[0] > 100
    assert color_at(canvas, image, 14, 15)[1] > 30
    canvas.move_view(canvas.transform.panned(5, 3))
    shot(canvas)
    assert sorted(drawn[1:]) == [1, 2, 3, 4]


def test_selecting_to_and_fro_draws_nothing_again(canvas, monkeypatch):
    drawn = []
    real = scene.layer_stamp
    monkeypatch.setattr(
        scene, "layer_stamp", lambda layer, *rest: drawn.append(layer.object_id) or real(layer, *rest)
    )
    masks = {i: square(10 * i, 10, 10 * i + 8, 20) for i in (1, 2, 3)}

    def show(selected):
        canvas.set_layers([MaskLayer(i, masks[i], GREEN, selected=i == selected) for i in masks])
        return shot(canvas)

    first = [show(selected) for selected in (None, 1, 2)]
    drawn.clear()
    again = [show(selected) for selected in (None, 1, 2)]
    assert not drawn
    assert first == again and first[1] != first[2]
    show(None)
    masks.clear()
    masks[4] = square(50, 30, 60, 40)
    show(4)
    assert len(canvas._scene._stamps) == 1


def test_the_colours_around_the_picture_follow_the_theme(canvas):
    manager = theme.manager()
    before = manager.mode
    try:
        for mode, colors in ((theme.ThemeMode.DARK, theme.DARK), (theme.ThemeMode.LIGHT, theme.LIGHT)):
            manager.set_mode(mode)
            assert shot(canvas).pixelColor(2, 2) == QColor(colors.canvas)
    finally:
        manager.set_mode(before)


HIDPI_SCRIPT = """
import numpy as np
from PySide6.QtWidgets import QApplication
from app.ui.canvas.canvas import Canvas
from app.ui.canvas.view_model import MaskLayer
application = QApplication([])
canvas = Canvas()
canvas.resize(200, 150)
canvas.show()
noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
canvas.set_frame(noise)
canvas.zoom_actual()
assert canvas.devicePixelRatioF() == 2.0
assert abs(canvas.zoom - 1.0) < 1e-9 and abs(canvas.transform.scale - 0.5) < 1e-9
image = canvas.grab().toImage().convertToFormat(canvas.grab().toImage().Format.Format_RGB888)
assert (image.width(), image.height()) == (400, 300)
pixels = np.frombuffer(image.constBits(), np.uint8).reshape(300, image.bytesPerLine())[:, :1200]
pixels = pixels.reshape(300, 400, 3)
left, top = (round(2 * v) for v in canvas.transform.to_widget(0, 0))
assert (pixels[top : top + 120, left : left + 160] == noise).all(), "not pixel by pixel"
mask = np.zeros((120, 160), np.uint8)
mask[40:80, 40:120] = 1
canvas.set_frame(np.zeros((120, 160, 3), np.uint8))
canvas.set_layers([MaskLayer(1, mask, "#ff0000")])
image = canvas.grab().toImage()
row = [image.pixelColor(left + x, top + 60).red() for x in range(30, 60)]
assert row[0] == 0 and abs(row[-1] - 115) <= 2
bright = [x for x, value in enumerate(row) if value > 135]
assert 2 <= len(bright) <= 4, row  # 1.5 logical pixels are 3 on this screen
print("sharp")
"""


def test_a_screen_of_twice_the_density_is_used_to_the_full():
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "QT_SCALE_FACTOR": "2"}
    result = subprocess.run(
        [sys.executable, "-c", HIDPI_SCRIPT], capture_output=True, text=True, env=environment, timeout=120
    )
    assert result.stdout.strip() == "sharp", result.stderr
