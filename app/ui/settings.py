"""One schema of all settings: the dialog, the file and the validation come from it. Changes apply at once.

The file holds only what differs from the defaults, so that better defaults reach all who left them alone.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import platformdirs
from PySide6.QtCore import QObject, Signal

from app.ui.i18n import tr

log = logging.getLogger(__name__)

APP_NAME = "qminisam2"
RECENT_LIMIT = 10


class Kind(StrEnum):
    """How a setting is edited and checked."""

    SWITCH = "switch"
    WHOLE = "whole"
    NUMBER = "number"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting; ``title`` and ``help`` are source strings for `tr`."""

    key: str
    section: str
    title: str
    help: str
    kind: Kind
    default: Any
    choices: tuple[tuple[str, str], ...] = ()
    """(value, title) pairs of a choice."""
    minimum: float = 0
    maximum: float = 100
    step: float = 1
    suffix: str = ""

    def check(self, value: Any) -> Any:
        """The value in its own type and range; the default for anything that is not one."""
        if self.kind is Kind.SWITCH:
            return value if isinstance(value, bool) else self.default
        if self.kind is Kind.CHOICE:
            # the choices of the model grow while the program runs: any text is kept there
            known = not self.choices or value in [v for v, _ in self.choices]
            return value if isinstance(value, str) and known else self.default
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return self.default
        clipped = min(max(value, self.minimum), self.maximum)
        return int(clipped) if self.kind is Kind.WHOLE else float(clipped)


SCHEMA: tuple[Setting, ...] = (
    Setting(
        "appearance.theme", "Appearance", "Theme", "Light, dark, or as the system is.", Kind.CHOICE, "system",
        (("system", "As the system"), ("light", "Light"), ("dark", "Dark")),
    ),
    Setting(
        "appearance.palette", "Appearance", "Colours of new objects",
        "The DAVIS order, or colours that stay apart for colour-blind eyes.", Kind.CHOICE, "davis",
        (("davis", "DAVIS"), ("color-blind-safe", "Colour-blind safe")),
    ),
    Setting(
        "appearance.color_by_class", "Appearance", "Colour by class",
        "Draw every object in the colour of its class instead of its own.", Kind.SWITCH, False,
    ),
    Setting(
        "canvas.hover_preview", "Canvas", "Preview the next click",
        "Show the mask that a click under the pointer would give.", Kind.SWITCH, True,
    ),
    Setting(
        "canvas.wheel_zooms", "Canvas", "The wheel zooms",
        "Zoom with the wheel alone; otherwise it scrolls and Ctrl+wheel zooms.", Kind.SWITCH, True,
    ),
    Setting(
        "playback.loop", "Playback", "Loop",
        "Start again at the end of the clip or range.", Kind.SWITCH, True,
    ),
    Setting(
        "tracking.model", "Tracking", "Model",
        "Which model finds and tracks objects.", Kind.CHOICE, "embedded",
    ),
    Setting(
        "tracking.device", "Tracking", "Device", "Where the model runs.", Kind.CHOICE, "auto",
        (("auto", "Fastest available"), ("cpu", "CPU"), ("cuda", "NVIDIA GPU"), ("mps", "Apple GPU")),
    ),
    Setting(
        "tracking.follow", "Tracking", "Follow the tracked frame",
        "Show each frame as it is tracked, until you go elsewhere.", Kind.SWITCH, True,
    ),
    Setting(
        "tracking.frames", "Tracking", "Length of “Track next frames”",
        "How many frames that command tracks.", Kind.WHOLE, 30, minimum=1, maximum=100000, suffix=" frames",
    ),
    Setting(
        "tracking.mutual_kv", "Tracking", "Mutual-KV",
        "Memory frames that look alike share their keys and values: less work, nearly the same masks.",
        Kind.SWITCH, False,
    ),
    Setting(
        "tracking.mutual_kv_epsilon", "Tracking", "Mutual-KV likeness",
        "How alike memory frames must be to share; lower shares more.", Kind.NUMBER, 0.94,
        minimum=0.5, maximum=1.0, step=0.005,
    ),
    Setting(
        "tracking.mutual_kv_auto", "Tracking", "Mutual-KV likeness by itself",
        "The value that the model was calibrated with, else one chosen while tracking.", Kind.SWITCH, False,
    ),
    Setting(
        "review.threshold", "Review", "Needs attention below",
        "Frames with less confidence than this are what N jumps to.", Kind.NUMBER, 0.6,
        minimum=0.0, maximum=1.0, step=0.05,
    ),
    Setting(
        "review.unreviewed", "Review", "Jump to unreviewed frames too",
        "When no frame needs attention, N goes on to frames that nobody has accepted.", Kind.SWITCH, False,
    ),
)  # fmt: skip
_BY_KEY = {setting.key: setting for setting in SCHEMA}


def config_path() -> Path:
    """The settings file."""
    return Path(platformdirs.user_config_dir(APP_NAME, appauthor=False)) / "settings.json"


class Settings(QObject):
    """Values of the schema, recently opened files, changed shortcuts and the window's shape."""

    changed = Signal(str, object)
    """Key and new value."""
    recent_changed = Signal()
    shortcuts_changed = Signal()

    def __init__(self, path: Path | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._path = path if path is not None else config_path()
        stored = _read(self._path)
        values = stored.get("values")
        self._values: dict[str, Any] = {}
        for key, value in (values if isinstance(values, dict) else {}).items():
            if key in _BY_KEY:
                self._values[key] = _BY_KEY[key].check(value)
        recent = stored.get("recent")
        self._recent = [str(p) for p in recent if isinstance(p, str)] if isinstance(recent, list) else []
        self._shortcuts = _key_lists(stored.get("shortcuts"))
        window = stored.get("window")
        self._window: dict[str, str] = (
            {str(k): str(v) for k, v in window.items()} if isinstance(window, dict) else {}
        )

    def value(self, key: str) -> Any:
        """The present value of a setting."""
        return self._values.get(key, _BY_KEY[key].default)

    def set(self, key: str, value: Any) -> None:
        """Check, store and announce a value."""
        checked = _BY_KEY[key].check(value)
        if checked == self.value(key):
            return
        if checked == _BY_KEY[key].default:
            self._values.pop(key, None)
        else:
            self._values[key] = checked
        self._write()
        self.changed.emit(key, checked)

    def reset(self) -> None:
        """Put every setting of the schema back to its default."""
        for key in list(self._values):
            self.set(key, _BY_KEY[key].default)

    @property
    def recent(self) -> Sequence[str]:
        """Recently opened projects and videos, newest first."""
        return tuple(self._recent)

    def add_recent(self, path: str) -> None:
        """Put a path on top of the list."""
        self._recent = [path, *(p for p in self._recent if p != path)][:RECENT_LIMIT]
        self._write()
        self.recent_changed.emit()

    def forget_recent(self, path: str) -> None:
        """Take a path that is gone off the list."""
        if path in self._recent:
            self._recent.remove(path)
            self._write()
            self.recent_changed.emit()

    @property
    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """Keys that the user gave to actions in place of the defaults."""
        return dict(self._shortcuts)

    def set_shortcut(self, action_id: str, keys: Sequence[str] | None) -> None:
        """Give an action other keys; None returns it to its defaults."""
        if keys is None:
            self._shortcuts.pop(action_id, None)
        else:
            self._shortcuts[action_id] = list(keys)
        self._write()
        self.shortcuts_changed.emit()

    def window_state(self, name: str) -> str:
        """A stored piece of the window's shape, empty when there is none."""
        return self._window.get(name, "")

    def set_window_state(self, name: str, value: str) -> None:
        """Store a piece of the window's shape."""
        if self._window.get(name) != value:
            self._window[name] = value
            self._write()

    def _write(self) -> None:
        content = {
            "values": self._values,
            "recent": self._recent,
            "shortcuts": self._shortcuts,
            "window": self._window,
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".part")
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
            os.replace(partial, self._path)  # noqa: PTH105 - atomic, and says so
        except OSError as error:
            log.warning("settings were not written: %s", error)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("settings at %s were not readable and are ignored: %s", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _key_lists(value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        return {}
    return {str(action): [str(k) for k in keys] for action, keys in value.items() if isinstance(keys, list)}


def section_titles() -> list[str]:
    """Sections of the schema in order, translated."""
    return [tr(s) for s in dict.fromkeys(setting.section for setting in SCHEMA)]
