"""The open document as the window sees it: a project with its undo stack, and the signals of its changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QUndoStack

from app.project.changes import Change
from app.project.errors import ProjectError
from app.project.project import Project
from app.ui.undo import ChangeCommand, Step

log = logging.getLogger(__name__)


class Document(QObject):
    """At most one open project. Every edit of the window goes through `do`."""

    opened = Signal()
    closing = Signal()
    """The project is still there."""
    closed = Signal()
    changed = Signal(object)
    """The `Change` that just happened, also from undo, redo and propagation."""
    stepped = Signal(int)
    """Undo or redo changed this one frame: the user should see it."""
    failed = Signal(str)
    """A change could not be saved: one sentence."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._project: Project | None = None
        self.undo_stack = QUndoStack(self)

    @property
    def project(self) -> Project | None:
        """The open project."""
        return self._project

    @property
    def is_open(self) -> bool:
        """True while a project is open."""
        return self._project is not None

    def need(self) -> Project:
        """The open project; for slots that only run while there is one."""
        if self._project is None:
            raise ProjectError("No project is open.")
        return self._project

    def set_project(self, project: Project) -> None:
        """Show a project; the previous one is closed, with everything on the disk."""
        self.close()
        self._project = project
        project.subscribe(self._on_change)
        self.opened.emit()

    def close(self) -> None:
        """Close the project."""
        project = self._project
        if project is None:
            return
        self.closing.emit()
        self.undo_stack.clear()
        self._project = None
        try:
            project.close()
        except ProjectError as error:
            self.failed.emit(str(error))
        self.closed.emit()

    def do(self, change: Change) -> ChangeCommand | None:
        """Carry out a change as one undo step; None when it does nothing or could not be saved."""
        if change.is_empty or self._project is None:
            return None
        command = ChangeCommand(self._project, change, self.refuse)
        self.undo_stack.push(command)
        return command if command.is_applied else None

    def undo(self) -> None:
        """Take the last step back."""
        frame = self._frame_of_step(self.undo_stack.index() - 1)
        self.undo_stack.undo()
        self._show(frame)

    def redo(self) -> None:
        """Do the last undone step again."""
        frame = self._frame_of_step(self.undo_stack.index())
        self.undo_stack.redo()
        self._show(frame)

    def _frame_of_step(self, number: int) -> int | None:
        step = self.undo_stack.command(number)
        return step.frame if isinstance(step, Step) else None

    def _show(self, frame: int | None) -> None:
        if frame is not None and self._project is not None:
            self.stepped.emit(frame)

    def refuse(self, error: ProjectError) -> None:
        """Tell the user that something could not be saved; nothing of it is left in memory either."""
        log.warning("a change was refused: %s", error)
        self.failed.emit(str(error))

    def _on_change(self, change: Change) -> None:
        self.changed.emit(change)

    # ---- questions the controllers ask ------------------------------------------------------------------

    def keyframes(self, object_id: int) -> list[int]:
        """Frames of an object that condition the tracker: prompted or protected, ascending."""
        index = self.need().index(object_id)
        found: list[int] = np.flatnonzero(index.prompted | index.protected()).tolist()
        return found

    def masked_frames(self, object_id: int) -> npt.NDArray[np.int64]:
        """Frames on which the object has a mask that is not empty, ascending."""
        return np.flatnonzero(self.need().index(object_id).area)

    def trackable(self, object_ids: Sequence[int] | None = None) -> list[int]:
        """Objects that are not locked and have something to start from."""
        project = self.need()
        chosen = list(project.objects) if object_ids is None else object_ids
        return [
            object_id
            for object_id in chosen
            if object_id in project.objects
            and not project.objects[object_id].locked
            and (self.keyframes(object_id) or len(self.masked_frames(object_id)))
        ]
