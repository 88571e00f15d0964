#!/usr/bin/env python3
"""Render resources/icons/qminisam2.svg to the files that installers want: PNG, ICO and ICNS.

Run it after a change of the drawing: ``.venv/bin/python packaging/render_icons.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QGuiApplication, QImage, QPainter
from PySide6.QtSvg import QSvgRenderer

ICONS = Path(__file__).resolve().parent.parent / "resources" / "icons"
ICO_SIZES = (16, 24, 32, 48, 64, 128, 256)
ICNS_SIZES = (16, 32, 64, 128, 256, 512)


def rendered(renderer: QSvgRenderer, side: int) -> Image.Image:
    """The drawing at one size, drawn anew and not scaled down."""
    image = QImage(side, side, QImage.Format.Format_RGBA8888)
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    renderer.render(painter, QRectF(0, 0, side, side))
    painter.end()
    return Image.frombytes("RGBA", (side, side), bytes(image.constBits()))


def main() -> None:
    application = QGuiApplication([])
    renderer = QSvgRenderer(str(ICONS / "qminisam2.svg"))
    sizes = {side: rendered(renderer, side) for side in sorted({*ICO_SIZES, *ICNS_SIZES, 1024})}
    sizes[512].save(ICONS / "qminisam2-512.png", optimize=True)
    sizes[256].save(
        ICONS / "qminisam2.ico",
        sizes=[(side, side) for side in ICO_SIZES],
        append_images=[sizes[side] for side in ICO_SIZES],
    )
    sizes[1024].save(ICONS / "qminisam2.icns", append_images=[sizes[side] for side in ICNS_SIZES])
    application.quit()


if __name__ == "__main__":
    main()
