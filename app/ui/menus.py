"""Menu bar and tool bar, made from the action table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QActionGroup
from PySide6.QtWidgets import QMainWindow, QMenu, QToolBar, QToolButton

from app.ui.i18n import tr
from app.ui.settings import Settings
from app.ui.shortcuts import ActionRegistry

MENUS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "&File",
        ("file.open", "file.open_folder", "file.sample", "recent", "", "file.import", "file.export", "",
         "file.relink", "file.close", "", "file.quit"),
    ),
    (
        "&Edit",
        ("edit.undo", "edit.redo", "", "edit.copy", "edit.paste", "",
         "edit.clear", "edit.clear_frame", "edit.clear_tracked", "", "review.accept", "", "edit.settings"),
    ),
    (
        "&View",
        ("view.fit", "view.actual", "view.zoom_in", "view.zoom_out", "",
         "view.hide_masks", "view.changes", "",
         "play.toggle", "play.previous", "play.next", "play.previous_10", "play.next_10", "play.first",
         "play.last", "", "play.previous_key", "play.next_key", "review.previous", "review.next"),
    ),
    (
        "&Object",
        ("object.finish", "object.rename", "object.visible", "object.lock", "object.absent",
         "object.remove", "",
         "object.next", "object.previous", "object.all"),
    ),
    (
        "&Track",
        ("track.forward", "track.backward", "track.both", "track.frames", "track.repair", "",
         "track.pause", "track.cancel", "", "track.in", "track.out", "track.clear_range"),
    ),
    (
        "T&ools",
        ("tool.point", "tool.box", "tool.brush", "tool.eraser", "tool.pan", "", "model.manage",
         "model.previous", "model.calibrate"),
    ),
    ("&Help", ("help.keys", "help.palette", "help.log", "", "help.about")),
)  # fmt: skip

TOOLS = ("tool.point", "tool.box", "tool.brush", "tool.eraser", "tool.pan")


def build_menus(window: QMainWindow, actions: ActionRegistry) -> dict[str, QMenu]:
    """Fill the menu bar; returns the menus by their plain titles, and the recent menu as "recent"."""
    bar = window.menuBar()
    menus: dict[str, QMenu] = {}
    for title, entries in MENUS:
        menu = bar.addMenu(tr(title))
        menus[title.replace("&", "")] = menu
        for entry in entries:
            if entry == "":
                menu.addSeparator()
            elif entry == "recent":
                menus["recent"] = menu.addMenu(tr("Open recent"))
            else:
                menu.addAction(actions[entry])
    search = QToolButton(bar)
    search.setDefaultAction(actions["help.palette"])
    search.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    search.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    search.setIconSize(QSize(14, 14))
    search.setStyleSheet("padding: 1px 8px")
    bar.setCornerWidget(search)
    search.show()
    return menus


def build_tool_bar(window: QMainWindow, actions: ActionRegistry) -> QToolBar:
    """The vertical bar on the left."""
    bar = QToolBar(tr("Tools"))
    bar.setObjectName("tools")
    bar.setOrientation(Qt.Orientation.Vertical)
    bar.setMovable(False)
    bar.setFloatable(False)
    bar.setIconSize(QSize(20, 20))
    bar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
    group = QActionGroup(window)
    group.setExclusive(True)
    for action_id in TOOLS:
        group.addAction(actions[action_id])
        bar.addAction(actions[action_id])
    bar.addSeparator()
    for action_id in ("view.fit", "view.hide_masks"):
        bar.addAction(actions[action_id])
    bar.addSeparator()
    for action_id in ("edit.undo", "edit.redo"):
        bar.addAction(actions[action_id])
    for button in bar.findChildren(QToolButton):
        button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    window.addToolBar(Qt.ToolBarArea.LeftToolBarArea, bar)
    return bar


def fill_recent(menu: QMenu, settings: Settings, open_path: Callable[[str], None]) -> None:
    """Show the recent files."""
    menu.clear()
    for path in settings.recent:
        action = menu.addAction(recent_title(path))
        action.setToolTip(path)
        action.setStatusTip(path)
        action.triggered.connect(lambda _checked=False, chosen=path: open_path(chosen))
    menu.setEnabled(bool(settings.recent))


def recent_title(path: str) -> str:
    """A recent file in few words: its name and folder."""
    file = Path(path)
    folder = file.parent.name
    return f"{file.stem}  —  {folder}" if folder else file.stem
