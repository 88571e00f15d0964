"""Keeps the timeline equal to the document, often enough to look live and seldom enough to cost nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QElapsedTimer, QObject, QTimer

from app.engine.engine import Engine
from app.project.changes import Change, Kind
from app.ui.document import Document
from app.ui.settings import Settings
from app.ui.state import Workspace
from app.ui.timeline.timeline import Timeline
from app.ui.timeline.view_model import Cell, Lane

REFRESH_MS = 100
AGAIN_MS = 400
"""Between one refresh and the next where masks and encoded frames arrive all the time, as while tracking."""


class TimelinePresenter(QObject):
    """Feeds the timeline and passes on what the user does to it."""

    def __init__(
        self,
        timeline: Timeline,
        document: Document,
        workspace: Workspace,
        engine: Engine,
        settings: Settings,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._timeline = timeline
        self._document = document
        self._workspace = workspace
        self._settings = settings
        self._lanes: dict[int, Lane] = {}
        self._stale: set[int] | None = None
        """Objects whose arrays must be read again; None = all."""
        self._encoded: npt.NDArray[np.bool_] | None = None
        self._last_refresh = QElapsedTimer()
        self._refresh = QTimer(self)
        self._refresh.setSingleShot(True)
        self._refresh.timeout.connect(self.refresh)
        workspace.clip_changed.connect(self._clip_changed)
        workspace.frame_changed.connect(timeline.set_current)
        workspace.selection_changed.connect(self._soon)
        workspace.range_changed.connect(lambda: timeline.set_range(*workspace.marks))
        document.changed.connect(self._changed)
        document.opened.connect(self._all)
        document.closed.connect(self._all)
        settings.changed.connect(lambda _key, _value: self._all())
        engine.encoded_changed.connect(self._encoded_changed)
        timeline.frame_requested.connect(workspace.go_to)
        timeline.range_changed.connect(workspace.set_range)
        timeline.object_selected.connect(lambda object_id: workspace.select([object_id]))

    def _clip_changed(self) -> None:
        self._timeline.set_clip(self._workspace.frame_count, self._workspace.fps)
        self._all()

    def _encoded_changed(self, flags: npt.NDArray[np.bool_] | None) -> None:
        self._encoded = flags
        self._in_turn()

    def _changed(self, change: Change) -> None:
        if self._stale is not None:
            self._stale |= change.object_ids
        if change.kinds == {Kind.MASK}:
            self._in_turn()
        else:
            self._soon()

    def _all(self) -> None:
        self._stale = None
        self._soon()

    def _soon(self) -> None:
        self._refresh_in(REFRESH_MS)

    def _in_turn(self) -> None:
        last = self._last_refresh
        since_ms = last.elapsed() if last.isValid() else AGAIN_MS
        self._refresh_in(max(REFRESH_MS, AGAIN_MS - since_ms))

    def _refresh_in(self, milliseconds: int) -> None:
        if not self._refresh.isActive() or self._refresh.remainingTime() > milliseconds:
            self._refresh.start(milliseconds)

    def refresh(self) -> None:
        """Read what changed and show it."""
        self._refresh.stop()
        self._last_refresh.start()
        if self._encoded is not None and len(self._encoded) == self._workspace.frame_count:
            self._timeline.set_encoded(self._encoded)
        project = self._document.project
        if project is None:
            self._lanes.clear()
            self._stale = set()
            self._timeline.set_lanes([])
            return
        by_class = self._settings.value("appearance.color_by_class")
        lanes: dict[int, Lane] = {}
        for track in sorted(project.objects.values(), key=lambda t: t.object_id):
            known = self._lanes.get(track.object_id)
            if known is None or self._stale is None or track.object_id in self._stale:
                arrays = project.lane(track.object_id)
                cells, confidence, reviewed = arrays.cells, arrays.confidence, arrays.reviewed
                gone = (cells == Cell.EDITED) & (arrays.area == 0)
            else:
                cells, confidence, reviewed, gone = known.cells, known.confidence, known.reviewed, known.gone
            label = project.classes.get(track.class_id) if track.class_id is not None else None
            lanes[track.object_id] = Lane(
                track.object_id,
                track.name,
                label.color if by_class and label is not None else track.color,
                cells,
                confidence,
                reviewed,
                track.object_id in self._workspace.selection,
                track.visible,
                gone,
            )
        self._lanes = lanes
        self._stale = set()
        self._timeline.set_lanes(list(lanes.values()))
