"""All actions with their keys: menus, tool tips, the cheat-sheet and the palette come from this one table.

Keys can be changed; two actions with the same key are reported, never silently overridden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QWidget

from app.ui import icons
from app.ui.i18n import tr
from app.ui.settings import Settings


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """One action; ``title`` and ``section`` are source strings for `tr`, keys are portable texts."""

    action_id: str
    section: str
    title: str
    keys: tuple[str, ...] = ()
    icon: str = ""
    checkable: bool = False
    hint: str = ""
    """Shown behind the title in the tool tip."""
    repeat: bool = False
    """True where holding the key repeats the action."""


def _spec(action_id: str, title: str, keys: str = "", icon: str = "", **rest: object) -> ActionSpec:
    section = action_id.partition(".")[0].capitalize()
    split = tuple(k for k in keys.split(" ") if k)
    return ActionSpec(action_id, section, title, split, icon, **rest)  # type: ignore[arg-type]


ACTIONS: tuple[ActionSpec, ...] = (
    _spec("file.open", "Open…", "Ctrl+O", "open"),
    _spec("file.open_folder", "Open frame folder…", "Ctrl+Shift+O", "image"),
    _spec("file.sample", "Open the sample clip", "", "sample"),
    _spec("file.import", "Import annotations…", "Ctrl+Shift+I", "import"),
    _spec("file.export", "Export…", "Ctrl+E", "export"),
    _spec("file.relink", "Find the moved video…", "", "video"),
    _spec("file.close", "Close", "Ctrl+W", "close"),
    _spec("file.quit", "Quit", "Ctrl+Q"),
    _spec("edit.undo", "Undo", "Ctrl+Z", "undo", repeat=True),
    _spec("edit.redo", "Redo", "Ctrl+Shift+Z Ctrl+Y", "redo", repeat=True),
    _spec("edit.copy", "Copy the object's mask", "Ctrl+C", "copy"),
    _spec("edit.paste", "Paste the mask here", "Ctrl+V", "paste", hint="tracking then keeps it"),
    _spec("edit.clear", "Clear the object on this frame", "Del", "clear", hint="its prompts and mask"),
    _spec("edit.clear_frame", "Clear this frame", "Ctrl+Del", "", hint="prompts and masks of all objects"),
    _spec("edit.clear_tracked", "Clear the object's tracked masks", "", "", hint="keyframes stay"),
    _spec("edit.settings", "Settings…", "Ctrl+,", "settings"),
    _spec("view.fit", "Fit the frame", "F", "fit"),
    _spec("view.actual", "Actual size", "Ctrl+0", "actual-size"),
    _spec("view.zoom_in", "Zoom in", "Ctrl+=", "zoom-in", repeat=True),
    _spec("view.zoom_out", "Zoom out", "Ctrl+-", "zoom-out", repeat=True),
    _spec("view.hide_masks", "Hide all masks", "", "overlay", checkable=True, hint="or hold Alt"),
    _spec("view.changes", "Highlight what changed", "C", "", checkable=True, hint="against the frame before"),
    _spec("tool.point", "Points", "V", "point", checkable=True, hint="left adds, right excludes"),
    _spec("tool.box", "Box", "B", "box", checkable=True, hint="drag around the object"),
    _spec("tool.brush", "Brush", "P", "brush", checkable=True),
    _spec("tool.eraser", "Eraser", "X", "eraser", checkable=True),
    _spec("tool.pan", "Pan", "G", "pan", checkable=True, hint="or hold Space, or the middle button"),
    _spec("tool.smaller", "Smaller brush", "[", repeat=True),
    _spec("tool.larger", "Larger brush", "]", repeat=True),
    _spec("tool.cancel", "Back to points", "Esc"),
    _spec("object.finish", "Finish, next new object", "Return Enter", "add"),
    _spec("object.next", "Select the next object", "Tab", repeat=True),
    _spec("object.previous", "Select the previous object", "Shift+Tab", repeat=True),
    _spec("object.rename", "Rename the object", "F2", "edit"),
    _spec("object.visible", "Show or hide the object", "H", "visible"),
    _spec("object.lock", "Lock or unlock the object", "L", "locked"),
    _spec("object.absent", "The object is not in view here", "0", hint="an empty mask that tracking keeps"),
    _spec("object.remove", "Delete the object", "Shift+Del", "remove"),
    _spec("object.all", "Select all objects", "Ctrl+A"),
    *(_spec(f"object.select_{n}", f"Select object {n}", str(n)) for n in range(1, 10)),
    *(_spec(f"object.class_{n}", f"Give the object class {n}", f"Shift+{n}") for n in range(1, 10)),
    _spec("play.toggle", "Play or pause", "Space K", "play"),
    _spec("play.next", "Next frame", "Right D", "next", repeat=True),
    _spec("play.previous", "Previous frame", "Left A", "previous", repeat=True),
    _spec("play.next_10", "10 frames on", "Shift+Right", repeat=True),
    _spec("play.previous_10", "10 frames back", "Shift+Left", repeat=True),
    _spec("play.first", "First frame", "Home", "first"),
    _spec("play.last", "Last frame", "End", "last"),
    _spec("play.next_key", "Next keyframe", "PgDown", "next-mark"),
    _spec("play.previous_key", "Previous keyframe", "PgUp", "previous-mark"),
    _spec("track.forward", "Track forward", "T", "track-forward"),
    _spec("track.backward", "Track backward", "Shift+T", "track-backward"),
    _spec("track.both", "Track both ways", "Ctrl+T", "track-both"),
    _spec("track.frames", "Track the next frames", "Alt+T", "track", hint="as many as the settings say"),
    _spec("track.repair", "Repair around this frame", "R", "repair", hint="re-track only the bad span"),
    _spec("track.pause", "Pause or resume tracking", "Ctrl+P", "pause"),
    _spec("track.cancel", "Stop tracking, keep what is done", "Ctrl+.", "stop"),
    _spec("track.in", "Set the range's start here", "I", "range-in"),
    _spec("track.out", "Set the range's end here", "O", "range-out"),
    _spec("track.clear_range", "Clear the range", "Alt+X"),
    _spec("review.accept", "Accept this frame", "Ctrl+Return Ctrl+Enter", "accept"),
    _spec("review.next", "Next frame that needs attention", "N", "attention"),
    _spec("review.previous", "Previous frame that needs attention", "Shift+N"),
    _spec("model.manage", "Models…", "", "model", hint="choose, download, import"),
    _spec("model.previous", "Back to the previous model", ""),
    _spec(
        "model.calibrate", "Calibrate for my videos…", "", "quantize", hint="small and fast, on your clips"
    ),
    _spec("help.keys", "Keys", "F1", "keyboard"),
    _spec("help.palette", "Search actions…", "Ctrl+Shift+P", "search"),
    _spec("help.log", "Open the log folder", ""),
    _spec("help.about", "About", "", "info"),
)

SECTION_TITLES: Mapping[str, str] = {
    "File": "File",
    "Edit": "Edit",
    "View": "View",
    "Tool": "Tools",
    "Object": "Objects",
    "Play": "Moving through the clip",
    "Track": "Tracking",
    "Review": "Review",
    "Model": "Models",
    "Help": "Help",
}

MOUSE_HINTS: tuple[tuple[str, str], ...] = (
    ("Left click", "This belongs to the object"),
    ("Right click", "This does not"),
    ("Drag (box)", "Box around the object"),
    ("Wheel", "Zoom at the pointer"),
    ("Middle or Space + drag", "Pan"),
    ("Q or E (hold)", "Clicks add, or exclude, with either button"),
    ("Ctrl + click", "Select the object there"),
    ("Shift + right click", "Menu of the object there"),
    ("Alt (hold)", "Hide all masks"),
)
"""What the mouse does, for the cheat-sheet."""


def find_conflicts(keys: Mapping[str, Sequence[str]]) -> list[tuple[str, list[str]]]:
    """Keys that several actions claim: (key, action ids) pairs, sorted."""
    owners: dict[str, list[str]] = {}
    for action_id, sequences in keys.items():
        for text in sequences:
            normal = QKeySequence(text).toString(QKeySequence.SequenceFormat.PortableText)
            if normal and action_id not in owners.setdefault(normal, []):
                owners[normal].append(action_id)
    return sorted((key, ids) for key, ids in owners.items() if len(ids) > 1)


class ActionRegistry(QObject):
    """The QActions of the table, with the user's keys."""

    keys_changed = Signal()

    def __init__(self, settings: Settings, window: QWidget, specs: Iterable[ActionSpec] = ACTIONS) -> None:
        super().__init__(window)
        self._settings = settings
        self._specs = {spec.action_id: spec for spec in specs}
        self._actions: dict[str, QAction] = {}
        for spec in self._specs.values():
            action = QAction(tr(spec.title), window)
            action.setObjectName(spec.action_id)
            action.setCheckable(spec.checkable)
            action.setAutoRepeat(spec.repeat)
            action.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
            if spec.icon:
                action.setIcon(icons.icon(spec.icon))
            window.addAction(action)
            self._actions[spec.action_id] = action
        self._apply_keys()
        settings.shortcuts_changed.connect(self._apply_keys)

    def __getitem__(self, action_id: str) -> QAction:
        return self._actions[action_id]

    def __iter__(self) -> Iterable[str]:
        return iter(self._specs)

    @property
    def specs(self) -> Sequence[ActionSpec]:
        """The table in order."""
        return tuple(self._specs.values())

    def on(self, action_id: str, slot: Callable[[], object]) -> QAction:
        """Connect an action to what it does; ``slot`` is called without arguments."""
        action = self._actions[action_id]
        action.triggered.connect(lambda _checked=False: slot())
        return action

    def keys(self, action_id: str) -> tuple[str, ...]:
        """Keys in force, portable texts."""
        custom = self._settings.shortcuts.get(action_id)
        return tuple(custom) if custom is not None else self._specs[action_id].keys

    def key_text(self, action_id: str) -> str:
        """Keys in force as the platform writes them, e.g. "Ctrl+Y"."""
        native = QKeySequence.SequenceFormat.NativeText
        keys = self.keys(action_id)
        # the Enter of the number pad goes without saying
        shown = [k for k in keys if not (k.endswith("Enter") and k.replace("Enter", "Return") in keys)]
        return ", ".join(QKeySequence(k).toString(native) for k in shown)

    def is_custom(self, action_id: str) -> bool:
        """True where the user chose the keys."""
        return action_id in self._settings.shortcuts

    def set_keys(self, action_id: str, keys: Sequence[str] | None) -> None:
        """Give an action other keys (None: the defaults)."""
        self._settings.set_shortcut(action_id, keys)

    def conflicts(self) -> list[tuple[str, list[str]]]:
        """Keys that several actions claim."""
        return find_conflicts({action_id: self.keys(action_id) for action_id in self._specs})

    def _apply_keys(self) -> None:
        taken: set[str] = set()
        for action_id, spec in self._specs.items():
            action = self._actions[action_id]
            sequences = []
            for text in self.keys(action_id):
                sequence = QKeySequence(text)
                # Qt would call neither of two actions with one key: the first of the table keeps it
                if sequence.toString() not in taken:
                    sequences.append(sequence)
                    taken.add(sequence.toString())
            action.setShortcuts(sequences)
            keys = self.key_text(action_id)
            hint = f": {tr(spec.hint)}" if spec.hint else ""
            action.setToolTip(f"{tr(spec.title)}{hint}" + (f"  ({keys})" if keys else ""))
        self.keys_changed.emit()
