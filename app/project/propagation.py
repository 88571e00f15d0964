"""One run of tracking as one step of undo: results stored as they come, undone together."""

from __future__ import annotations

from collections.abc import Iterable

from app.project import edits
from app.project.changes import Change
from app.project.project import Project
from qcore.tracking.types import MaskResult


class PropagationPass:
    """Stores results while tracking runs.

    Put its undo step on the stack when it starts and read `change` when that step is undone: edits made
    meanwhile then come off the stack first.
    """

    def __init__(self, project: Project, title: str = "Track") -> None:
        self._project = project
        self._parts: list[Change] = []
        self._merged = Change(title)

    def store(self, results: Iterable[MaskResult]) -> Change:
        """Apply results, skipping protected masks; on the disk within `project.BATCH_SECONDS`.

        Returns:
            What was applied.

        Raises:
            ProjectError: the disk refused; everything since the last batch was taken back.
        """
        part = edits.store_results(self._project, results, self._merged.title)
        self._project.apply(part, durable=False)
        if not part.is_empty:
            self._parts.append(part)
        return part

    def finish(self) -> Change:
        """Put everything on the disk; returns the whole pass as one applied change."""
        self._project.flush()
        return self.change

    @property
    def change(self) -> Change:
        """Everything stored so far as one change, which is applied already."""
        if self._parts:
            every = [edit for part in (self._merged, *self._parts) for edit in part.edits]
            self._merged = Change(self._merged.title).followed_by(Change("", tuple(every)))
            self._parts.clear()
        return self._merged
