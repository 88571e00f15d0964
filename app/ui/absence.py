"""Objects that are not in view: said for one frame, then offered for the doubtful frames around it."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from app.project.edits import mark_absent
from app.project.errors import ProjectError
from app.ui.document import Document
from app.ui.i18n import frames_phrase, tr
from app.ui.navigation import attention, run_around
from app.ui.settings import Settings
from app.ui.state import Workspace


class Absence(QObject):
    """A tracker that lost its object follows something else: a key and a click take all of that out."""

    failed = Signal(str)
    offered = Signal(str, str, object)
    """A fact, what can be done about it, and the call that does it."""

    def __init__(
        self, document: Document, workspace: Workspace, settings: Settings, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._document = document
        self._workspace = workspace
        self._settings = settings

    def mark(self) -> None:
        """Say that the selected objects are not in view on the current frame."""
        frame, chosen = self._workspace.frame, self._workspace.selection
        if not chosen:
            return
        more = self._frames_around(frame, chosen)
        if self._mark(chosen, [frame]) and more:
            self.offered.emit(
                tr("Marked as not in view on this frame."),
                tr("Also {0}").format(frames_phrase(more[0], more[-1])),
                lambda: self._mark(chosen, more),
            )

    def _frames_around(self, frame: int, chosen: tuple[int, ...]) -> list[int]:
        """The other frames that are likely meant: those between the markers, or, for one object, the stretch
        that needs attention; never one that a person settled."""
        project = self._document.need()
        low, high = self._workspace.span
        if self._workspace.marks == (None, None) or not low <= frame <= high:
            if len(chosen) > 1:
                return []
            threshold = float(self._settings.value("review.threshold"))
            run = run_around(attention(project.lane(chosen[0]), threshold), frame)
            if run is None:
                return []
            low, high = run
        indices = [project.index(object_id) for object_id in chosen]
        return [
            f
            for f in range(low, high + 1)
            if f != frame and not any(index.is_kept(f) or index.prompted[f] for index in indices)
        ]

    def _mark(self, chosen: tuple[int, ...], frames: list[int]) -> bool:
        project = self._document.project
        if project is None or any(object_id not in project.objects for object_id in chosen):
            return False
        try:
            self._document.do(mark_absent(project, chosen, frames))
        except ProjectError as error:
            self.failed.emit(str(error))
            return False
        return True
