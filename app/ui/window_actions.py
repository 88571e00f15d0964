"""Connects the action table to what the controllers do: one line an action."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from app.ui.canvas.view_model import Tool
from app.ui.i18n import tr
from qcore.tracking.types import Direction

if TYPE_CHECKING:
    from app.ui.main_window import MainWindow


def connect_actions(window: MainWindow) -> None:
    """Give every action of the table its meaning in this window."""
    on = window.actions_table.on
    document, canvas, workspace = window.document, window.canvas, window.workspace
    objects, tracking, navigation, dialogs = (
        window.objects, window.tracking, window.navigation, window.dialogs,
    )  # fmt: skip
    on("file.open", dialogs.choose_file)
    on("file.open_folder", dialogs.choose_folder)
    on("file.sample", window.documents.open_sample)
    on("file.import", dialogs.choose_import)
    on("file.export", dialogs.show_export)
    on("file.relink", dialogs.relink)
    on("file.close", window.documents.close)
    on("file.quit", window.close)
    on("edit.undo", document.undo)
    on("edit.redo", document.redo)
    on("edit.clear", objects.clear)
    on("edit.clear_frame", objects.clear_frame)
    on("edit.clear_tracked", objects.clear_tracked)
    on("edit.settings", dialogs.show_settings)
    on("view.fit", canvas.fit)
    on("view.actual", canvas.zoom_actual)
    on("view.zoom_in", lambda: canvas.zoom_by(1.25))
    on("view.zoom_out", lambda: canvas.zoom_by(0.8))
    hide = window.actions_table["view.hide_masks"]
    on("view.hide_masks", lambda: canvas.set_overlay_hidden(hide.isChecked()))
    changes = window.actions_table["view.changes"]
    on("view.changes", lambda: window.presenter.set_highlight_changes(changes.isChecked()))
    for tool in (Tool.POINT, Tool.BOX, Tool.BRUSH, Tool.ERASER, Tool.PAN):
        on(f"tool.{tool.value}", partial(canvas.set_tool, tool))
    canvas.tool_changed.connect(lambda tool: window.actions_table[f"tool.{tool.value}"].setChecked(True))
    window.actions_table["tool.point"].setChecked(True)
    on("tool.smaller", lambda: canvas.resize_brush(-1))
    on("tool.larger", lambda: canvas.resize_brush(1))
    on("tool.cancel", lambda: None if canvas.cancel_gesture() else canvas.set_tool(Tool.POINT))
    on("object.finish", objects.deselect)
    on("object.next", lambda: objects.select_next(1))
    on("object.previous", lambda: objects.select_next(-1))
    on("object.rename", objects.rename)
    on("object.visible", objects.toggle_visible)
    on("object.lock", objects.toggle_lock)
    on("object.absent", window.absence.mark)
    on("object.remove", objects.remove)
    on("object.all", objects.select_all)
    on("edit.copy", objects.copy_mask)
    on("edit.paste", objects.paste_mask)
    for number in range(1, 10):
        on(f"object.select_{number}", partial(objects.select_number, number))
        on(f"object.class_{number}", partial(objects.set_class_number, number))
    on("play.toggle", navigation.toggle_play)
    on("play.next", lambda: navigation.step(1))
    on("play.previous", lambda: navigation.step(-1))
    on("play.next_10", lambda: navigation.step(10))
    on("play.previous_10", lambda: navigation.step(-10))
    on("play.first", lambda: navigation.to_end(False))
    on("play.last", lambda: navigation.to_end(True))
    on("play.next_key", lambda: navigation.to_keyframe(True))
    on("play.previous_key", lambda: navigation.to_keyframe(False))
    on("track.forward", lambda: tracking.track(Direction.FORWARD))
    on("track.backward", lambda: tracking.track(Direction.BACKWARD))
    on("track.both", lambda: tracking.track(Direction.BOTH))
    on(
        "track.frames",
        lambda: tracking.track(Direction.FORWARD, int(window.settings.value("tracking.frames"))),
    )
    on("track.repair", tracking.repair)
    on("track.pause", tracking.toggle_pause)
    on("track.cancel", tracking.stop)
    on("track.in", navigation.set_in)
    on("track.out", navigation.set_out)
    on("track.clear_range", navigation.clear_range)
    on("review.accept", objects.accept)
    on("review.next", lambda: navigation.to_attention(True))
    on("review.previous", lambda: navigation.to_attention(False))
    on("model.manage", dialogs.show_models)
    on("model.previous", dialogs.use_previous_model)
    on("model.calibrate", dialogs.show_calibration)
    on("help.keys", dialogs.show_keys)
    on("help.palette", dialogs.show_palette)
    on("help.log", dialogs.open_log_folder)
    on("help.about", dialogs.show_about)
    undo, redo = window.actions_table["edit.undo"], window.actions_table["edit.redo"]
    stack = document.undo_stack
    stack.canUndoChanged.connect(undo.setEnabled)
    stack.canRedoChanged.connect(redo.setEnabled)
    stack.undoTextChanged.connect(lambda text: undo.setText(tr("Undo {0}").format(text).rstrip()))
    stack.redoTextChanged.connect(lambda text: redo.setText(tr("Redo {0}").format(text).rstrip()))
    undo.setEnabled(False)
    redo.setEnabled(False)
    workspace.selection_changed.connect(lambda: _enable_for_selection(window))
    _enable_for_selection(window)


def _enable_for_selection(window: MainWindow) -> None:
    chosen = bool(window.workspace.selection)
    for action_id in (
        "edit.copy", "edit.clear", "edit.clear_tracked", "object.absent", "object.rename", "object.visible",
        "object.lock", "object.remove",
    ):  # fmt: skip
        window.actions_table[action_id].setEnabled(chosen and window.document.is_open)
