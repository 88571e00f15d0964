"""What Mutual-KV changes on the user's own frames: the same span tracked without and with it."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from app.engine.engine import Engine
from app.engine.records import Phase, TaskState
from app.ui.document import Document
from app.ui.i18n import frames_phrase, tr
from app.ui.mutual_kv_panel import MutualKvPanel
from app.ui.propagation_controller import PropagationController
from app.ui.state import Workspace
from qcore.tracking.types import Direction

COMPARED_FRAMES = 20


class MutualKvController(QObject):
    """Wires the panel to the engine; at most one comparison runs."""

    failed = Signal(str)

    def __init__(
        self,
        panel: MutualKvPanel,
        engine: Engine,
        document: Document,
        workspace: Workspace,
        tracking: PropagationController,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._panel = panel
        self._engine = engine
        self._document = document
        self._tracking = tracking
        self._task: int | None = None
        panel.chosen.connect(engine.set_mutual_kv)
        panel.compare_wanted.connect(self.compare)
        panel.frame_wanted.connect(workspace.go_to)
        engine.mutual_kv_changed.connect(panel.show_facts)
        engine.mutual_kv_compared.connect(panel.show_comparison)
        engine.model_changed.connect(lambda state: panel.set_calibrated(state.mutual_kv_epsilon))
        engine.task_changed.connect(self._task_changed)

    def owns(self, task: int) -> bool:
        """True for the comparison that runs."""
        return task == self._task

    def compare(self) -> None:
        """Compare on the frames from the current one on, or before it where there are none."""
        if self._task is not None:
            return
        if not self._document.is_open or not self._engine.model.is_ready:
            self.failed.emit(tr("Comparing needs a video and a model that is ready."))
            return
        if self._tracking.is_running:
            self.failed.emit(tr("Tracking is running: compare when it is done."))
            return
        for direction in (Direction.FORWARD, Direction.BACKWARD):
            plan = self._tracking.plan(direction, COMPARED_FRAMES)
            if not plan.is_empty:
                break
        else:
            self.failed.emit(tr("Nothing to compare here: first click or drag a box on something."))
            return
        title = tr("Compare Mutual-KV, {0}").format(frames_phrase(plan.low, plan.high))
        conditions, anchors = self._tracking.known_about(plan)
        self._panel.show_comparing(True)
        self._task = self._engine.compare_mutual_kv(title, plan, conditions, anchors)

    def _task_changed(self, state: TaskState) -> None:
        if state.task_id != self._task or not state.phase.is_over:
            return
        self._task = None
        self._panel.show_comparing(False)
        if state.phase is Phase.FAILED:
            self.failed.emit(state.message)
