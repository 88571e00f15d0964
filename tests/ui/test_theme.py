"""Themes, object colours, icons and the application's own icon."""

from __future__ import annotations

import pytest
from PIL import Image
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QColor, QIcon, QPalette
from PySide6.QtWidgets import QApplication, QLabel

from app.ui import icons, theme
from app.ui.theme import DARK, LIGHT, Theme, ThemeManager, ThemeMode
from resources import resource_path


def contrast(first: str, second: str) -> float:
    """Contrast ratio after WCAG 2, 1..21."""

    def luminance(color):
        channels = [QColor(color).redF(), QColor(color).greenF(), QColor(color).blueF()]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
class TestColours:
    def test_text_is_readable_on_every_ground(self, colors: Theme):
        for ground in (colors.window, colors.surface, colors.raised, colors.accent_soft):
            assert contrast(colors.text, ground) >= 7
            assert contrast(colors.text_muted, ground) >= 4

    def test_buttons_and_signals_are_readable(self, colors: Theme):
        assert contrast(colors.on_accent, colors.accent_fill) >= 4.5
        for signal in (colors.accent, colors.positive, colors.negative, colors.warning):
            assert contrast(signal, colors.window) >= 3

    def test_greys_are_neutral(self, colors: Theme):
        for grey in (colors.canvas, colors.window, colors.surface, colors.raised, colors.border):
            value = QColor(grey)
            channels = (value.red(), value.green(), value.blue())
            assert max(channels) - min(channels) <= 8

    def test_the_style_sheet_leaves_no_placeholder(self, colors: Theme):
        sheet = theme.style_sheet(colors)
        assert "$" not in sheet and colors.accent in sheet
        assert sheet.count("{") == sheet.count("}")

    def test_the_palette_has_the_themes_colours(self, colors: Theme):
        palette = theme.palette(colors)
        assert palette.color(QPalette.ColorRole.Window) == QColor(colors.window)
        assert palette.color(QPalette.ColorGroup.Disabled, QPalette.ColorRole.Text) == QColor(
            colors.text_disabled
        )


class TestManager:
    @pytest.fixture
    def application(self, qapp: QApplication):
        style, palette, sheet = qapp.style().objectName(), qapp.palette(), qapp.styleSheet()
        yield qapp
        qapp.styleHints().setColorScheme(Qt.ColorScheme.Unknown)
        qapp.setStyle(style)
        qapp.setPalette(palette)
        qapp.setStyleSheet(sheet)

    def test_a_chosen_mode_styles_the_application_and_is_announced(self, application, qtbot):
        manager = ThemeManager()
        manager.install(application, ThemeMode.LIGHT)
        with qtbot.waitSignal(manager.changed, timeout=1000):
            manager.set_mode(ThemeMode.DARK)
        assert manager.theme is DARK and manager.mode is ThemeMode.DARK
        assert application.palette().color(QPalette.ColorRole.Window) == QColor(DARK.window)
        assert DARK.window in application.styleSheet()

    def test_it_follows_the_system_live_only_when_told_to(self, application, monkeypatch):
        manager = ThemeManager()
        manager.install(application, ThemeMode.SYSTEM)

        class Hints:
            scheme = Qt.ColorScheme.Dark

            def colorScheme(self):
                return self.scheme

        hints = Hints()
        monkeypatch.setattr(manager, "_application", application)
        monkeypatch.setattr(type(application), "styleHints", lambda *_: hints)
        application_scheme_changed = manager._refresh
        application_scheme_changed()
        assert manager.theme is DARK
        hints.scheme = Qt.ColorScheme.Light
        application_scheme_changed()
        assert manager.theme is LIGHT
        monkeypatch.undo()
        manager.set_mode(ThemeMode.DARK)
        manager._refresh()
        assert manager.theme is DARK


class TestObjectColours:
    def test_the_palette_is_that_of_davis(self):
        expected = ["#000000", "#800000", "#008000", "#808000", "#000080", "#800080", "#008080", "#808080"]
        assert [theme.davis_color(index) for index in range(8)] == expected
        assert theme.davis_color(22) == "#00c080" and theme.davis_color(255) == "#e0e0c0"
        assert len({theme.davis_color(index) for index in range(256)}) == 256

    def test_objects_are_counted_from_one_and_never_run_out(self):
        assert theme.object_color(1) == "#800000"
        assert theme.object_color(255) == theme.object_color(1)
        safe = theme.ObjectPalette.COLOR_BLIND_SAFE
        assert theme.object_color(1, safe) == theme.object_color(15, safe)

    def test_shown_colours_are_bright_and_stay_apart(self):
        shown = [QColor(theme.display_color(theme.object_color(number))) for number in range(1, 17)]
        assert all(color.lightnessF() > 0.3 for color in shown)
        for index, first in enumerate(shown):
            for second in shown[index + 1 :]:
                apart = (
                    (first.red(), first.green(), first.blue()),
                    (
                        second.red(),
                        second.green(),
                        second.blue(),
                    ),
                )
                assert sum(abs(a - b) for a, b in zip(*apart)) >= 20

    def test_a_colour_of_ones_own_is_shown_as_it_is(self):
        assert theme.display_color("#123456") == "#123456"


class TestIcons:
    @pytest.mark.parametrize("name", icons.GLYPHS)
    def test_every_icon_draws_something(self, qapp, name):
        image = icons.icon(name).pixmap(QSize(24, 24), 1.0).toImage()
        assert any(image.pixelColor(x, y).alpha() > 100 for x in range(24) for y in range(24))

    def test_an_unknown_name_is_refused(self, qapp):
        with pytest.raises(KeyError):
            icons.icon("no such icon")

    def test_an_icon_changes_its_colour_with_the_theme(self, qapp, monkeypatch):
        icon = icons.icon("play")

        def shade(mode=QIcon.Mode.Normal):
            image = icon.pixmap(QSize(24, 24), 1.0, mode).toImage()
            solid = [image.pixelColor(x, y) for x in range(24) for y in range(24)]
            return max(solid, key=lambda color: color.alpha()).name()

        for colors in (LIGHT, DARK):
            monkeypatch.setattr(theme.manager(), "_theme", colors)
            assert shade() == colors.text
            assert shade(QIcon.Mode.Disabled) == colors.text_disabled

    def test_icons_use_all_pixels_of_a_dense_screen(self, qapp):
        pixmap = icons.icon("brush").pixmap(QSize(20, 20), 2.0)
        assert (pixmap.width(), pixmap.devicePixelRatio()) == (40, 2.0)

    def test_the_application_icon_comes_in_all_sizes(self, qapp):
        sizes = {size.width() for size in icons.app_icon().availableSizes()}
        assert sizes == set(icons.APP_ICON_SIZES)

    def test_the_installers_icon_files_hold_the_usual_sizes(self):
        ico = Image.open(resource_path("icons/qminisam2.ico"))
        assert {(16, 16), (32, 32), (48, 48), (256, 256)} <= set(ico.info["sizes"])
        assert Image.open(resource_path("icons/qminisam2-512.png")).size == (512, 512)
        icns = Image.open(resource_path("icons/qminisam2.icns"))
        assert (512, 512, 2) in icns.info["sizes"] or (1024, 1024, 1) in icns.info["sizes"]


def test_a_label_marked_as_an_error_is_red(qapp, qtbot):
    label = QLabel("no")
    label.setProperty("error", True)
    label.setStyleSheet(theme.style_sheet(LIGHT))
    qtbot.addWidget(label)
    label.ensurePolished()
    assert label.palette().color(QPalette.ColorRole.WindowText) == QColor(LIGHT.negative)
