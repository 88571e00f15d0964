"""One schema for settings, one table for actions: file, dialog, validation, conflicts, cheat-sheet."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given
from PySide6.QtCore import QSize
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import QCheckBox, QComboBox, QWidget

from app.ui.command_palette import CommandPalette, matches
from app.ui.keys_dialog import KeyDialog, KeysDialog
from app.ui.settings import SCHEMA, Kind, Settings
from app.ui.settings_dialog import SettingsDialog
from app.ui.shortcuts import ACTIONS, ActionRegistry, find_conflicts
from app.ui.sizes import first_size

BY_KEY = {s.key: s for s in SCHEMA}

# UX.md section 3, the column "Ours"
WANTED_KEYS = {
    "play.next": ("Right", "D"), "play.previous": ("Left", "A"),
    "play.next_10": ("Shift+Right",), "play.previous_10": ("Shift+Left",),
    "play.first": ("Home",), "play.last": ("End",), "play.toggle": ("Space", "K"),
    "play.next_key": ("PgDown",), "play.previous_key": ("PgUp",),
    "review.next": ("N",), "review.previous": ("Shift+N",), "review.accept": ("Ctrl+Return",),
    "tool.box": ("B",), "tool.brush": ("P",), "tool.eraser": ("X",), "tool.smaller": ("[",),
    "tool.larger": ("]",), "tool.cancel": ("Esc",), "object.finish": ("Return",), "object.next": ("Tab",),
    "object.select_1": ("1",), "object.select_9": ("9",), "object.class_3": ("Shift+3",),
    "track.forward": ("T",), "track.backward": ("Shift+T",), "track.both": ("Ctrl+T",),
    "track.in": ("I",), "track.out": ("O",), "edit.clear": ("Del",), "edit.clear_frame": ("Ctrl+Del",),
    "object.visible": ("H",), "edit.undo": ("Ctrl+Z",), "edit.redo": ("Ctrl+Shift+Z", "Ctrl+Y"),
    "view.fit": ("F",), "view.actual": ("Ctrl+0",), "help.keys": ("F1",), "edit.settings": ("Ctrl+,",),
    "help.palette": ("Ctrl+Shift+P",),
}  # fmt: skip


@pytest.fixture
def registry(qtbot, settings):
    window = QWidget()
    qtbot.addWidget(window)
    yield ActionRegistry(settings, window)  # the window must outlive the actions


def portable(keys):
    return {QKeySequence(k).toString(QKeySequence.SequenceFormat.PortableText) for k in keys}


@pytest.mark.parametrize("action_id", WANTED_KEYS)
def test_every_key_of_the_design_does_what_it_should(action_id, registry):
    assert portable(WANTED_KEYS[action_id]) <= portable(s.toString() for s in registry[action_id].shortcuts())


def test_the_default_keys_do_not_conflict_and_every_key_is_one_that_qt_knows():
    assert find_conflicts({spec.action_id: spec.keys for spec in ACTIONS}) == []
    for spec in ACTIONS:
        for key in spec.keys:
            assert QKeySequence(key).count() == 1 and not QKeySequence(key).isEmpty(), key


def test_a_changed_key_works_at_once_is_remembered_and_its_conflict_is_named(
    qtbot, settings, registry, tmp_path
):
    registry.set_keys("track.forward", ["D"])
    assert registry.conflicts() == [("D", ["play.next", "track.forward"])]
    # Qt calls neither of two actions with one key: the first keeps it
    assert [s.toString() for s in registry["track.forward"].shortcuts()] == []
    registry.set_keys("play.next", ["Right"])
    assert registry.conflicts() == []
    assert [s.toString() for s in registry["track.forward"].shortcuts()] == ["D"]
    again = Settings(tmp_path / "settings" / "settings.json")
    assert again.shortcuts["track.forward"] == ["D"]
    registry.set_keys("track.forward", None)
    assert [s.toString() for s in registry["track.forward"].shortcuts()] == ["T"]


def test_the_cheat_sheet_lists_every_action_with_its_key_and_finds_them(qtbot, registry):
    dialog = KeysDialog(registry)
    qtbot.addWidget(dialog)

    def shown():
        found = {}
        for n in range(dialog.tree.topLevelItemCount()):
            section = dialog.tree.topLevelItem(n)
            for i in range(section.childCount()):
                item = section.child(i)
                if not item.isHidden():
                    found[item.text(0)] = item.text(1)
        return found

    everything = shown()
    for spec in ACTIONS:
        assert any(title.startswith(spec.title) for title in everything), spec.title
    assert everything["Track forward"] == "T"
    dialog.search.setText("brush")
    assert set(shown()) == {"Brush", "Smaller brush", "Larger brush"}
    registry.set_keys("tool.brush", ["X"])
    assert "X" in dialog.warning.text() and "Eraser" in dialog.warning.text()


def test_choosing_a_key_says_who_has_it(qtbot, registry):
    dialog = KeyDialog(registry, "track.forward")
    qtbot.addWidget(dialog)
    dialog.edit.setKeySequence(QKeySequence("B"))
    assert "Box" in dialog.note.text()
    dialog.edit.setKeySequence(QKeySequence("F7"))
    assert dialog.note.text().strip() == ""
    assert dialog.keys() == ["F7"]


def test_the_palette_finds_actions_by_words_in_any_order_and_runs_them(qtbot, registry):
    called = []
    registry.on("track.backward", lambda: called.append("backward"))
    host = QWidget()
    qtbot.addWidget(host)
    host.show()
    palette = CommandPalette(registry, host)
    palette.open()
    palette.line.setText("back track")
    palette.run()
    assert called == ["backward"]
    assert matches("", "anything") and not matches("xyz", "track")


def test_only_what_differs_is_written(settings, tmp_path):
    settings.set("tracking.frames", 77)
    settings.set("playback.loop", False)
    settings.set("playback.loop", True)
    stored = json.loads((tmp_path / "settings" / "settings.json").read_text())
    assert stored["values"] == {"tracking.frames": 77}
    assert Settings(tmp_path / "settings" / "settings.json").value("tracking.frames") == 77


@pytest.mark.parametrize(
    "content", ["", "not json", "[1, 2]", '{"values": 3, "recent": {}, "shortcuts": []}']
)
def test_a_broken_settings_file_means_defaults(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_text(content)
    settings = Settings(path)
    assert all(settings.value(s.key) == s.default for s in SCHEMA)
    assert settings.recent == () and settings.shortcuts == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def test_not_a_number_becomes_the_default():
    numbers = [s for s in SCHEMA if s.kind not in (Kind.SWITCH, Kind.CHOICE)]
    assert [s.check(float("nan")) for s in numbers] == [s.default for s in numbers] != []


@given(st.sampled_from(SCHEMA), json_values)
def test_whatever_a_file_holds_a_setting_has_a_value_of_its_kind(setting, value):
    checked = setting.check(value)
    if setting.kind is Kind.SWITCH:
        assert isinstance(checked, bool)
    elif setting.kind is Kind.CHOICE:
        assert checked in [v for v, _ in setting.choices] or (
            not setting.choices and isinstance(checked, str)
        )
    else:
        assert setting.minimum <= checked <= setting.maximum


def test_the_dialog_applies_at_once_follows_changes_and_searches(qtbot, settings):
    dialog = SettingsDialog(settings, lambda _key: [("embedded", "Embedded"), ("big", "Big")])
    qtbot.addWidget(dialog)
    theme = dialog.editor("appearance.theme")
    assert isinstance(theme, QComboBox)
    theme.setCurrentIndex(theme.findData("dark"))
    assert settings.value("appearance.theme") == "dark"
    loop = dialog.editor("playback.loop")
    assert isinstance(loop, QCheckBox)
    settings.set("playback.loop", False)
    assert not loop.isChecked()
    dialog.search.setText("colour-blind")
    assert dialog.visible_keys() == ["appearance.palette"]
    dialog.search.setText("")
    assert dialog.visible_keys() == [s.key for s in SCHEMA]
    settings.reset()
    assert theme.currentData() == "system"


def test_recent_files_are_newest_first_once_each_and_can_be_forgotten(settings):
    for name in ("a", "b", "a", *(f"n{i}" for i in range(12))):
        settings.add_recent(name)
    assert settings.recent[0] == "n11" and len(settings.recent) == 10
    settings.forget_recent("n11")
    assert "n11" not in settings.recent


def test_a_window_opens_no_larger_than_its_screen():
    assert first_size(QSize(640, 720), QSize(1024, 700)) == QSize(640, 644)
    assert first_size(QSize(1440, 900), QSize(2560, 1440)) == QSize(1440, 900)
