"""Unlimited undo and redo: every change of the document is one command on a QUndoStack."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtGui import QUndoCommand

from app.project.changes import Change
from app.project.errors import ProjectError
from app.project.project import Project
from app.project.propagation import PropagationPass

Refused = Callable[[ProjectError], None]


class Step(QUndoCommand):
    """Applies changes; one that the disk refuses makes the command obsolete, so the stack drops it.

    Qt calls these methods from C++, where an exception would be lost.
    """

    def __init__(self, project: Project, title: str, refused: Refused) -> None:
        super().__init__(title)
        self._project = project
        self._refused = refused

    @property
    def frame(self) -> int | None:
        """The one frame it concerns; None when it concerns several or none."""
        return None

    def _apply(self, change: Change) -> bool:
        try:
            self._project.apply(change)
        except ProjectError as error:
            self.setObsolete(True)
            self._refused(error)
            return False
        return True


class ChangeCommand(Step):
    """One change of the user's.

    A prompt is on the disk before the model has answered; `extend` then adds the answer to the same step.
    """

    def __init__(self, project: Project, change: Change, refused: Refused) -> None:
        super().__init__(project, change.title, refused)
        self._change = change
        self.is_applied = False

    @property
    def frame(self) -> int | None:
        """See above."""
        frames = self._change.frames
        return frames.pop() if len(frames) == 1 else None

    def redo(self) -> None:
        """Apply it; also called when it is pushed."""
        self.is_applied = self._apply(self._change)

    def undo(self) -> None:
        """Take it back."""
        if self._apply(self._change.inverted()):
            self.is_applied = False

    def extend(self, change: Change) -> None:
        """Apply a consequence of this change and make it part of the step."""
        if self._apply(change):
            self._change = self._change.followed_by(change)


class PassCommand(Step):
    """A propagation, applied bit by bit while it runs; pushed with its first masks."""

    def __init__(
        self,
        project: Project,
        running: PropagationPass,
        title: str,
        stop: Callable[[], None],
        refused: Refused,
    ) -> None:
        super().__init__(project, title, refused)
        self._pass = running
        self._stop = stop
        self._first = True

    def redo(self) -> None:
        """Apply it again; its first application happened while it ran."""
        if self._first:
            self._first = False
            return
        self._apply(self._pass.change)

    def undo(self) -> None:
        """Take the whole pass back; one that still runs is stopped first."""
        self._stop()
        self._apply(self._pass.change.inverted())
