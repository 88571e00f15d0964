"""The program's icons: one family (Phosphor, from QtAwesome), always in the colour of the current theme.

An icon looks its colour up while it is painted, so it follows a change of theme without being set again.
"""

from __future__ import annotations

from functools import lru_cache

import qtawesome
from PySide6.QtCore import QLibraryInfo, QPoint, QRect, QRectF, QSize, Qt, QVersionNumber
from PySide6.QtGui import QIcon, QIconEngine, QImage, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from app.ui import theme
from resources import resource_path

GLYPHS: dict[str, str] = {
    # tools
    "point": "ph.cursor",
    "positive": "ph.plus-circle",
    "negative": "ph.minus-circle",
    "box": "ph.bounding-box",
    "brush": "ph.paint-brush",
    "eraser": "ph.eraser",
    "pan": "ph.hand",
    "polygon": "ph.polygon",
    # transport
    "play": "ph.play-fill",
    "pause": "ph.pause-fill",
    "first": "ph.skip-back",
    "last": "ph.skip-forward",
    "previous": "ph.caret-left",
    "next": "ph.caret-right",
    "previous-mark": "ph.caret-double-left",
    "next-mark": "ph.caret-double-right",
    "speed": "ph.gauge",
    # objects
    "add": "ph.plus",
    "remove": "ph.trash",
    "visible": "ph.eye",
    "hidden": "ph.eye-slash",
    "locked": "ph.lock-simple",
    "unlocked": "ph.lock-simple-open",
    "edit": "ph.pencil-simple",
    "color": "ph.palette",
    "class": "ph.tag",
    "merge": "ph.intersect",
    "copy": "ph.copy",
    "paste": "ph.clipboard",
    "clear": "ph.backspace",
    # tracking
    "track": "ph.path",
    "track-forward": "ph.arrow-line-right",
    "track-backward": "ph.arrow-line-left",
    "track-both": "ph.arrows-left-right",
    "repair": "ph.magic-wand",
    "accept": "ph.check-circle",
    "review": "ph.list-bullets",
    "attention": "ph.warning-circle",
    "protect": "ph.shield-check",
    "range-in": "ph.arrow-line-left",
    "range-out": "ph.arrow-line-right",
    "cancel": "ph.x",
    "stop": "ph.stop-fill",
    # file
    "open": "ph.folder-open",
    "video": "ph.film-strip",
    "sample": "ph.play-circle",
    "recent": "ph.clock-counter-clockwise",
    "save": "ph.floppy-disk",
    "saved": "ph.cloud-check",
    "import": "ph.download-simple",
    "export": "ph.export",
    "image": "ph.image",
    # view
    "fit": "ph.corners-out",
    "actual-size": "ph.frame-corners",
    "zoom-in": "ph.magnifying-glass-plus",
    "zoom-out": "ph.magnifying-glass-minus",
    "overlay": "ph.stack",
    "theme": "ph.moon",
    # program
    "undo": "ph.arrow-u-up-left",
    "redo": "ph.arrow-u-up-right",
    "settings": "ph.gear-six",
    "search": "ph.magnifying-glass",
    "help": "ph.question",
    "keyboard": "ph.keyboard",
    "info": "ph.info",
    "warning": "ph.warning",
    "error": "ph.x-circle",
    "success": "ph.check-circle",
    "close": "ph.x",
    "more": "ph.dots-three",
    "menu": "ph.list",
    "model": "ph.brain",
    "device": "ph.cpu",
    "memory": "ph.hard-drives",
    "speed-test": "ph.lightning",
    "quantize": "ph.sliders-horizontal",
    "download": "ph.download-simple",
    "chart": "ph.chart-line",
    "expand": "ph.caret-down",
    "collapse": "ph.caret-up",
}
"""Names the program uses, and the glyph of each."""

APP_ICON_SIZES = (16, 24, 32, 48, 64, 128, 256)
"""Edge lengths in pixels that the application icon carries."""


# Before Qt 6.8, an icon engine was asked for a size in screen pixels.
_SIZE_IS_LOGICAL = QLibraryInfo.version() >= QVersionNumber(6, 8)


@lru_cache(maxsize=512)
def _glyph(glyph: str, color: str) -> QIcon:
    result: QIcon = qtawesome.icon(glyph, color=color)
    return result


class _GlyphEngine(QIconEngine):
    """Paints one glyph in the colour the theme has at that moment."""

    def __init__(self, glyph: str, role: str) -> None:
        super().__init__()
        self._glyph = glyph
        self._role = role

    def paint(self, painter: QPainter, rect: QRect, mode: QIcon.Mode, state: QIcon.State) -> None:
        """Draw the glyph into the rectangle."""
        colors = theme.current()
        if mode == QIcon.Mode.Disabled:
            color = colors.text_disabled
        elif state == QIcon.State.On and self._role == "text":
            color = colors.accent
        else:
            color = self._role if self._role.startswith("#") else getattr(colors, self._role)
        _glyph(self._glyph, color).paint(painter, rect)

    def pixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State) -> QPixmap:
        """The glyph alone on a transparent ground."""
        return self.scaledPixmap(size, mode, state, 1.0)

    def scaledPixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State, scale: float) -> QPixmap:
        """As `pixmap`, for a screen with ``scale`` pixels to a logical one."""
        if _SIZE_IS_LOGICAL:
            size = QSize(round(size.width() * scale), round(size.height() * scale))
        image = QImage(size, QImage.Format.Format_ARGB32_Premultiplied)
        image.fill(Qt.GlobalColor.transparent)
        painter = QPainter(image)
        self.paint(painter, QRect(QPoint(0, 0), size), mode, state)
        painter.end()
        return QPixmap.fromImage(image)

    def clone(self) -> QIconEngine:
        """A copy for QIcon's own use."""
        return _GlyphEngine(self._glyph, self._role)


def icon(name: str, role: str = "text") -> QIcon:
    """The icon of a name in `GLYPHS`.

    Args:
        name: what it stands for, e.g. ``"brush"``.
        role: field of `theme.Theme` (``"text"``, ``"text_muted"``, ``"accent"``, ...) or a fixed ``#rrggbb``.
            A checked ``"text"`` icon is drawn in the accent colour.

    Raises:
        KeyError: no such icon.
    """
    return QIcon(_GlyphEngine(GLYPHS[name], role))


def app_icon() -> QIcon:
    """The program's own icon, in all usual sizes."""
    renderer = QSvgRenderer(resource_path("icons/qminisam2.svg").as_posix())
    result = QIcon()
    for side in APP_ICON_SIZES:
        image = QImage(side, side, QImage.Format.Format_ARGB32_Premultiplied)
        image.fill(Qt.GlobalColor.transparent)
        painter = QPainter(image)
        renderer.render(painter, QRectF(0, 0, side, side))
        painter.end()
        result.addPixmap(QPixmap.fromImage(image))
    return result
