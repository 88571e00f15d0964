"""Colours and the one style sheet: a light and a dark theme that follow the system live.

Everything that paints itself asks `current()` while painting and repaints on `manager().changed`; nothing
else in the program names a colour. Knows nothing of the project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from string import Template

import numpy as np
from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication

from resources import resource_path

GRID = 8
"""Spacing unit in logical pixels: margins and gaps are multiples (or halves) of it."""


class ThemeMode(StrEnum):
    """What the user asked for in the settings."""

    SYSTEM = "system"
    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True, slots=True)
class Theme:
    """One set of colours, each ``#rrggbb``."""

    is_dark: bool
    canvas: str
    """Around the picture."""
    window: str
    surface: str
    """Lists, fields and the timeline."""
    raised: str
    """Buttons, headers and hovered rows."""
    pressed: str
    border: str
    border_strong: str
    text: str
    text_muted: str
    text_disabled: str
    accent: str
    """Lines, focus, the playhead."""
    accent_fill: str
    """Filled areas that carry `on_accent` text."""
    accent_fill_hover: str
    accent_soft: str
    """Selected rows."""
    on_accent: str
    positive: str
    negative: str
    warning: str


DARK = Theme(
    is_dark=True,
    canvas="#141517",
    window="#1d1e21",
    surface="#242529",
    raised="#2e2f34",
    pressed="#393b41",
    border="#34363b",
    border_strong="#4b4e55",
    text="#e8e9ec",
    text_muted="#a0a4ac",
    text_disabled="#62656c",
    accent="#5c9bff",
    accent_fill="#2f6fe0",
    accent_fill_hover="#3d7df0",
    accent_soft="#263754",
    on_accent="#ffffff",
    positive="#3ecf74",
    negative="#ff6159",
    warning="#f5b83d",
)

LIGHT = Theme(
    is_dark=False,
    canvas="#d3d5d9",
    window="#f3f4f6",
    surface="#ffffff",
    raised="#e9ebee",
    pressed="#dcdfe3",
    border="#d9dce0",
    border_strong="#b3b7be",
    text="#1b1d20",
    text_muted="#5d626a",
    text_disabled="#a3a7ae",
    accent="#1f62d6",
    accent_fill="#2563d9",
    accent_fill_hover="#3472e6",
    accent_soft="#dbe7fc",
    on_accent="#ffffff",
    positive="#178a43",
    negative="#d0342c",
    warning="#b26a00",
)


class ThemeManager(QObject):
    """Keeps the application in the theme that the user, or else the system, asks for."""

    changed = Signal()
    """The colours are new: repaint."""

    def __init__(self) -> None:
        super().__init__()
        self._mode = ThemeMode.SYSTEM
        self._theme = LIGHT
        self._application: QApplication | None = None
        self._system_is_dark = False

    @property
    def theme(self) -> Theme:
        """The colours in force."""
        return self._theme

    @property
    def mode(self) -> ThemeMode:
        """What `set_mode` was last told."""
        return self._mode

    def install(self, application: QApplication, mode: ThemeMode = ThemeMode.SYSTEM) -> None:
        """Style the application now and from now on, whenever the system changes."""
        if self._application is not application:
            self._application = application
            # Without a desktop that announces a scheme, the palette it started with tells.
            window = application.palette().color(QPalette.ColorRole.Window)
            self._system_is_dark = window.lightness() < 128
            application.setStyle("Fusion")
            application.styleHints().colorSchemeChanged.connect(self._refresh)
        self.set_mode(mode)

    def set_mode(self, mode: ThemeMode) -> None:
        """Follow the system, or stay light or dark."""
        self._mode = mode
        hints = QGuiApplication.styleHints()
        if self._application is not None and hasattr(
            hints, "setColorScheme"
        ):  # Qt 6.8: title bars follow too
            wanted = {
                ThemeMode.SYSTEM: Qt.ColorScheme.Unknown,
                ThemeMode.LIGHT: Qt.ColorScheme.Light,
                ThemeMode.DARK: Qt.ColorScheme.Dark,
            }[mode]
            hints.setColorScheme(wanted)
        self._refresh()

    def _refresh(self) -> None:
        theme = DARK if self._wants_dark() else LIGHT
        if self._application is not None:
            self._application.setPalette(palette(theme))
            self._application.setStyleSheet(style_sheet(theme))
        self._theme = theme
        self.changed.emit()

    def _wants_dark(self) -> bool:
        if self._mode is not ThemeMode.SYSTEM:
            return self._mode is ThemeMode.DARK
        if self._application is None:
            return False
        scheme = self._application.styleHints().colorScheme()
        if scheme == Qt.ColorScheme.Unknown:
            return self._system_is_dark
        return scheme == Qt.ColorScheme.Dark


@cache
def manager() -> ThemeManager:
    """The one theme manager of this process."""
    return ThemeManager()


def current() -> Theme:
    """The colours in force."""
    return manager().theme


def mix(first: str | QColor, second: str | QColor, share: float) -> QColor:
    """``first`` with ``share`` (0..1) of ``second`` in it, opaque."""
    a, b = QColor(first), QColor(second)
    return QColor(
        round(a.red() + (b.red() - a.red()) * share),
        round(a.green() + (b.green() - a.green()) * share),
        round(a.blue() + (b.blue() - a.blue()) * share),
    )


def with_alpha(color: str | QColor, alpha: float) -> QColor:
    """The colour at an opacity of 0..1."""
    result = QColor(color)
    result.setAlphaF(alpha)
    return result


# --- object colours -------------------------------------------------------------------------------


class ObjectPalette(StrEnum):
    """How new objects get their colours."""

    DAVIS = "davis"
    COLOR_BLIND_SAFE = "color-blind-safe"


_SAFE_COLORS = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",  # Okabe and Ito
    "#88ccee", "#882255", "#ddcc77", "#332288", "#44aa99", "#aa4499", "#999933",  # Tol, muted
)  # fmt: skip


def davis_color(index: int) -> str:
    """Colour of an index (0 = background, 1..255) in the palette of DAVIS and VOC, as ``#rrggbb``."""
    channels = [0, 0, 0]
    bits = index
    for position in range(7, -1, -1):
        for channel in range(3):
            channels[channel] |= ((bits >> channel) & 1) << position
        bits >>= 3
    return "#{:02x}{:02x}{:02x}".format(*channels)


def object_color(number: int, kind: ObjectPalette = ObjectPalette.DAVIS) -> str:
    """Colour of the ``number``-th object, counted from 1; repeats when the palette is used up."""
    if kind is ObjectPalette.COLOR_BLIND_SAFE:
        return _SAFE_COLORS[(number - 1) % len(_SAFE_COLORS)]
    return davis_color((number - 1) % 254 + 1)


@cache
def _davis_colors() -> frozenset[str]:
    return frozenset(davis_color(index) for index in range(1, 256))


@cache
def display_color(color: str) -> str:
    """How an object's colour is shown, as ``#rrggbb``.

    DAVIS colours are made for index files and too dark over a picture: they are lifted, keeping their hue and
    staying apart. Any other colour, one the user chose above all, is shown as it is.
    """
    if color.lower() not in _davis_colors():
        return color
    value = QColor(color)
    channels = np.array([value.red(), value.green(), value.blue()], np.float64) / 255
    channels = 0.15 + 0.85 * channels**0.33
    weights = np.array([0.2126, 0.7152, 0.0722])
    luminance = float(weights @ channels**2.2)
    if luminance < 0.2:  # the blues: as bright as the others only with some white
        channels += (1 - channels) * min((0.2 - luminance) * 2.2, 0.5)
    red, green, blue = (round(255 * c) for c in np.clip(channels, 0, 1))
    return f"#{red:02x}{green:02x}{blue:02x}"


# --- palette and style sheet ----------------------------------------------------------------------


def palette(theme: Theme) -> QPalette:
    """The Qt palette of a theme; the Fusion style draws from it."""
    result = QPalette()
    roles: Sequence[tuple[QPalette.ColorRole, str]] = (
        (QPalette.ColorRole.Window, theme.window),
        (QPalette.ColorRole.WindowText, theme.text),
        (QPalette.ColorRole.Base, theme.surface),
        (QPalette.ColorRole.AlternateBase, theme.window),
        (QPalette.ColorRole.Text, theme.text),
        (QPalette.ColorRole.PlaceholderText, theme.text_muted),
        (QPalette.ColorRole.Button, theme.raised),
        (QPalette.ColorRole.ButtonText, theme.text),
        (QPalette.ColorRole.BrightText, theme.negative),
        (QPalette.ColorRole.ToolTipBase, theme.raised),
        (QPalette.ColorRole.ToolTipText, theme.text),
        (QPalette.ColorRole.Highlight, theme.accent_fill),
        (QPalette.ColorRole.HighlightedText, theme.on_accent),
        (QPalette.ColorRole.Link, theme.accent),
        (QPalette.ColorRole.LinkVisited, theme.accent),
        (QPalette.ColorRole.Light, theme.raised),
        (QPalette.ColorRole.Midlight, theme.raised),
        (QPalette.ColorRole.Mid, theme.border),
        (QPalette.ColorRole.Dark, theme.border_strong),
        (QPalette.ColorRole.Shadow, theme.border_strong),
        (QPalette.ColorRole.Accent, theme.accent),
    )
    for role, color in roles:
        result.setColor(role, QColor(color))
    for role in (
        QPalette.ColorRole.WindowText,
        QPalette.ColorRole.Text,
        QPalette.ColorRole.ButtonText,
        QPalette.ColorRole.HighlightedText,
    ):
        result.setColor(QPalette.ColorGroup.Disabled, role, QColor(theme.text_disabled))
    result.setColor(QPalette.ColorGroup.Disabled, QPalette.ColorRole.Highlight, QColor(theme.pressed))
    return result


def style_sheet(theme: Theme) -> str:
    """The style sheet of the whole program: what Fusion draws with gradients or frames made flat.

    A button with the dynamic property ``primary`` is the one main action of its window; ``flat`` has no face.
    A label with ``muted`` is secondary text, with ``heading`` a panel's title.
    """
    values = {name: getattr(theme, name) for name in Theme.__dataclass_fields__}
    icons = {
        name: resource_path(f"icons/{name}.svg").as_posix()
        for name in ("chevron-down", "chevron-up", "check", "dash")
    }
    template = Template(resource_path("theme.qss").read_text(encoding="utf-8"))
    return template.substitute(values, **{name.replace("-", "_"): path for name, path in icons.items()})
