"""Tracking from the user's side: what would be tracked and how long it takes, live masks, stop, repair."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QObject, QTimer, Signal

from app.engine.engine import Engine
from app.engine.plan import ObjectFrames, TrackPlan, plan_missing, plan_tracking
from app.engine.records import ModelPhase, Phase, TaskState
from app.engine.repair import plan_repair
from app.engine.workbench import Condition, Key, Timing
from app.project.errors import ProjectError
from app.project.model import AUTOMATIC_EPSILON, Provenance
from app.project.propagation import PropagationPass
from app.ui.document import Document
from app.ui.i18n import duration_phrase, frames_phrase, masks_phrase, objects_phrase, tr
from app.ui.mutual_kv_panel import mutual_kv_choice
from app.ui.navigation import attention
from app.ui.prompt_controller import conditions_of
from app.ui.settings import Settings
from app.ui.state import Workspace
from app.ui.undo import PassCommand
from qcore import __version__
from qcore.masks import Rle
from qcore.tracking.types import Direction, MaskResult

log = logging.getLogger(__name__)

REFRESH_MS = 120


@dataclass(slots=True)
class _Running:
    task: int
    results: PropagationPass
    plan: TrackPlan
    title: str
    command: PassCommand | None = None
    stored: int = 0
    frame: int = -1
    """The frame whose objects are coming in."""
    is_repair: bool = False
    written: tuple[int, int] | None = None
    """Lowest and highest frame that got a mask."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the primary button says."""

    text: str
    enabled: bool
    tip: str = ""
    short: str = ""
    """Where that does not fit; empty: the same."""


def estimate_s(plan: TrackPlan, timing: Timing, encoded: npt.NDArray[np.bool_] | None) -> float | None:
    """Seconds a plan will take by what frames cost so far; None while nothing was measured."""
    if timing.encode_s is None:
        return None
    visited = plan.visited(max(plan.high + 1, 0 if encoded is None else len(encoded)))
    missing = int(visited.sum())
    if encoded is not None:
        missing -= int((visited[: len(encoded)] & encoded).sum())
    # before anything was tracked: tracking one object costs about as much as encoding
    track_s = timing.encode_s if timing.track_s is None else timing.track_s
    return missing * timing.encode_s + plan.writes * track_s


class PropagationController(QObject):
    """Plans, starts and receives propagations; at most one runs."""

    offer_changed = Signal(object)
    """`Offer` for the primary button."""
    failed = Signal(str)
    finished = Signal(str)
    """A propagation ended well or was stopped: one sentence."""
    frame_tracked = Signal(int)
    """A frame of the running propagation is done, for following it; not of a repair, whose user stays."""

    def __init__(
        self,
        document: Document,
        workspace: Workspace,
        engine: Engine,
        settings: Settings,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._document = document
        self._workspace = workspace
        self._engine = engine
        self._settings = settings
        self._running: _Running | None = None
        self._encoded: npt.NDArray[np.bool_] | None = None
        self._refresh = QTimer(self)
        self._refresh.setSingleShot(True)
        self._refresh.setInterval(REFRESH_MS)
        self._refresh.timeout.connect(self.refresh)
        engine.masks_tracked.connect(self._store)
        engine.task_changed.connect(self._task_changed)
        engine.encoded_changed.connect(self._encoded_changed)
        engine.model_changed.connect(lambda _state: self.refresh())
        document.changed.connect(lambda _change: self._refresh_soon())
        document.opened.connect(self.refresh)
        document.closing.connect(self.stop)
        document.closed.connect(self.refresh)
        workspace.frame_changed.connect(lambda _frame: self._refresh_soon())
        workspace.selection_changed.connect(self._refresh_soon)
        workspace.range_changed.connect(self._refresh_soon)

    @property
    def is_running(self) -> bool:
        """True between start and end of a propagation."""
        return self._running is not None

    # ---- planning --------------------------------------------------------------------------------------

    def _object_frames(self, object_ids: list[int]) -> list[ObjectFrames]:
        document = self._document
        return [
            ObjectFrames(
                i, document.keyframes(i), document.masked_frames(i), document.need().index(i).frames()
            )
            for i in object_ids
        ]

    def plan(self, direction: Direction, frame_limit: int | None = None) -> TrackPlan:
        """What tracking in a direction would do from the current frame.

        Several selected objects are tracked and no others. With one selected, it is tracked together with
        every other object that has frames without a mask there.
        """
        low, high = self._workspace.span
        current = self._workspace.frame
        if frame_limit is not None:
            if direction is Direction.BACKWARD:
                low = max(low, current - frame_limit)
            else:
                high = min(high, current + frame_limit)
        chosen = self._document.trackable()
        selection = self._workspace.selection
        if len(selection) > 1:
            chosen = [i for i in chosen if i in selection]
        whole = plan_tracking(self._object_frames(chosen), direction, current, low, high)
        if len(selection) > 1 or not whole.runs:
            return whole
        active = self._workspace.active
        wanted = [i for i in whole.object_ids if i == active or self._has_gap(i, whole)]
        if not wanted:
            wanted = list(whole.object_ids)
        return plan_tracking(self._object_frames(wanted), direction, current, low, high)

    def _has_gap(self, object_id: int, plan: TrackPlan) -> bool:
        source = self._document.need().index(object_id).source
        return any(
            bool((source[run.low : run.high + 1] == 0).any())
            for run in plan.runs
            if object_id in run.object_ids
        )

    def _repair_to_offer(self) -> TrackPlan | None:
        """A repair, where everything is tracked and this frame was corrected."""
        if self._is_new(self.primary_plan()) or not self._is_correction():
            return None
        plan = self._repair_plan()
        return None if plan.is_empty else plan

    def primary_plan(self) -> TrackPlan:
        """What the primary button does: on a keyframe forward from it, if that finds new masks; else fill
        what is missing; else forward once more."""
        forward = self.plan(Direction.FORWARD)
        keyframes = (self._document.keyframes(i) for i in forward.object_ids)
        if any(self._workspace.frame in frames for frames in keyframes) and self._is_new(forward):
            return forward
        selection = self._workspace.selection
        chosen = self._document.trackable(list(selection) if len(selection) > 1 else None)
        missing = plan_missing(self._object_frames(chosen), *self._workspace.span)
        return forward if missing.is_empty else missing

    def _is_new(self, plan: TrackPlan) -> bool:
        """True when it finds masks where there are none yet."""
        return any(self._has_gap(object_id, plan) for object_id in plan.object_ids)

    def _repair_plan(self) -> TrackPlan:
        """What a repair does; without a selection it is meant for the objects corrected on this frame."""
        frame, selection = self._workspace.frame, self._workspace.selection
        chosen = self._document.trackable(list(selection) if selection else None)
        if not selection:
            chosen = [i for i in chosen if frame in self._document.keyframes(i)] or chosen
        return plan_repair(self._repair_frames(chosen), frame, self._workspace.frame_count)

    def _repair_title(self, plan: TrackPlan) -> str:
        objects = objects_phrase(len(plan.object_ids))
        return tr("Repair {0} around frame {1}").format(objects, self._workspace.frame)

    def _is_correction(self) -> bool:
        """True on a keyframe of the active object, of any object without one, that is not its only one."""
        active = self._workspace.active
        ids = self._document.trackable(None if active is None else [active])
        keyframes = [self._document.keyframes(object_id) for object_id in ids]
        return any(self._workspace.frame in frames and len(frames) > 1 for frames in keyframes)

    def offer(self) -> Offer:
        """The primary button's words at this moment."""
        if self._running is not None:
            return Offer(tr("Stop tracking"), True, tr("The masks found so far stay"))
        if not self._document.is_open:
            return Offer(tr("Track"), False)
        phase = self._engine.model.phase
        if phase is ModelPhase.FAILED:
            return Offer(tr("Track"), False, self._engine.model.message)
        if not self._document.trackable():
            return Offer(tr("Track"), False, tr("First click or drag a box on something that is not locked"))
        ready = phase is ModelPhase.READY
        loading = tr("The model is still loading")
        repair = self._repair_to_offer()
        if repair is not None:
            tip = tr("R: from here outward, until the masks agree with those that were good")
            return Offer(self._repair_title(repair), ready, tip if ready else loading)
        plan = self.primary_plan()
        if plan.is_empty:
            return Offer(
                tr("Everything is tracked"),
                False,
                tr("Correct a frame, then R repairs what is bad around it"),
            )
        text = _describe(plan, "" if self._is_new(plan) else tr("Track again:"))
        seconds = estimate_s(plan, self._engine.timing, self._encoded)
        if not ready:
            return Offer(text, False, loading)
        tip = tr("T: forward, Shift+T: backward, Ctrl+T: both ways")
        if seconds is None:
            return Offer(text, True, tip)
        return Offer(tr("{0}, about {1}").format(text, duration_phrase(seconds)), True, tip, text)

    def refresh(self) -> None:
        """Work the primary button's words out again."""
        self._refresh.stop()
        self.offer_changed.emit(self.offer())

    def _refresh_soon(self) -> None:
        if not self._refresh.isActive():
            self._refresh.start()

    def _encoded_changed(self, flags: npt.NDArray[np.bool_] | None) -> None:
        self._encoded = flags
        self._refresh_soon()

    # ---- starting --------------------------------------------------------------------------------------

    def primary(self) -> None:
        """The primary button was pressed."""
        if self._running is not None:
            self.stop()
        elif self._document.is_open:
            repair = self._repair_to_offer()
            if repair is not None:
                self._start(repair, self._repair_title(repair))
            else:
                self._start(self.primary_plan())

    def track(self, direction: Direction, frame_limit: int | None = None) -> None:
        """Track in a direction, at most some frames far."""
        if self._document.is_open and self._may_start():
            self._start(self.plan(direction, frame_limit))

    def repair(self) -> None:
        """Track the bad span around the current frame again, and nothing else."""
        if not self._document.is_open or not self._may_start():
            return
        plan = self._repair_plan()
        if plan.is_empty:
            self.failed.emit(tr("There is nothing to repair: correct the object on this frame first."))
            return
        self._start(plan, self._repair_title(plan))

    def _repair_frames(self, object_ids: list[int]) -> list[ObjectFrames]:
        project = self._document.need()
        threshold = float(self._settings.value("review.threshold"))
        return [
            replace(
                item,
                doubtful=np.flatnonzero(attention(project.lane(item.object_id), threshold)),
            )
            for item in self._object_frames(object_ids)
        ]

    def _may_start(self) -> bool:
        if self._running is not None:
            self.failed.emit(tr("Tracking is running already."))
            return False
        return True

    def _start(self, plan: TrackPlan, repair_title: str = "") -> None:
        if self._engine.model.phase is ModelPhase.FAILED:
            self.failed.emit(self._engine.model.message)
            return
        if plan.is_empty:
            if not self._document.trackable():
                self.failed.emit(tr("Nothing to track yet: click or drag a box on something first."))
            else:
                self.failed.emit(tr("Nothing to track that way: everything there is a keyframe, or outside."))
            return
        project = self._document.need()
        title = repair_title or _describe(plan)
        conditions, anchors = self.known_about(plan)
        try:
            self.note_provenance()
        except ProjectError as error:
            self.failed.emit(str(error))
            return

        def recall(frame: int, object_id: int) -> Rle | None:
            mask = project.mask(frame, object_id)
            return None if mask is None else mask.rle

        task = self._engine.track(title, plan, conditions, anchors, recall)
        self._running = _Running(
            task, PropagationPass(project, title), plan, title, is_repair=bool(repair_title)
        )
        self.refresh()

    def known_about(self, plan: TrackPlan) -> tuple[dict[Key, Condition], dict[Key, Rle]]:
        """What a plan starts from: its objects' conditions, and masks that are no keyframes."""
        project = self._document.need()
        conditions: dict[Key, Condition] = {}
        for object_id in plan.object_ids:
            conditions.update(conditions_of(self._document, object_id))
        anchors: dict[Key, Rle] = {}
        for object_id, frame in plan.anchors:
            mask = project.mask(frame, object_id)
            if mask is not None:
                anchors[(object_id, frame)] = mask.rle
        return conditions, anchors

    def note_provenance(self) -> None:
        """Keep with the project which model makes its masks, and how.

        Raises:
            ProjectError: it could not be written.
        """
        model = self._engine.model
        self._document.need().record_provenance(
            Provenance(model.model_id, model.precision, self._epsilon(), __version__)
        )

    def _epsilon(self) -> float | str | None:
        choice = mutual_kv_choice(self._settings)
        if not choice.enabled:
            return None
        if choice.epsilon is not None:
            return choice.epsilon
        return self._engine.model.mutual_kv_epsilon or AUTOMATIC_EPSILON

    def set_paused(self, paused: bool) -> None:
        """Hold the propagation, or let it go on."""
        if self._running is not None:
            self._engine.set_paused(self._running.task, paused)

    def toggle_pause(self) -> None:
        """Hold the propagation if it runs, let it go on if it is held."""
        if self._running is not None:
            states = {s.task_id: s for s in self._engine.running_tasks}
            state = states.get(self._running.task)
            if state is not None:
                self.set_paused(state.phase is not Phase.PAUSED)

    def stop(self) -> None:
        """End the propagation now; what was found stays."""
        running = self._running
        if running is not None:
            self._engine.cancel(running.task)
            self._end(running, tr("Stopped: {0} kept.").format(masks_phrase(running.stored)))

    # ---- results ---------------------------------------------------------------------------------------

    def _store(self, task: int, results: tuple[MaskResult, ...]) -> None:
        running = self._running
        if running is None or running.task != task:
            return  # it was stopped; what still arrives is not wanted
        fresh = [r for r in results if (r.object_id, r.frame_index) not in running.plan.anchors]
        try:
            part = running.results.store(fresh)
        except ProjectError as error:
            self._engine.cancel(task)
            self._end(running, "")
            self.failed.emit(str(error))
            return
        if not part.is_empty and running.command is None:
            running.command = PassCommand(
                self._document.need(), running.results, running.title, self.stop, self._document.refuse
            )
            self._document.undo_stack.push(running.command)
        running.stored += len(part)
        if part.frames:
            low, high = running.written or (min(part.frames), max(part.frames))
            running.written = (min(low, *part.frames), max(high, *part.frames))
        for result in results:
            # a frame is done when the next one begins: until then some of its objects are missing
            if result.frame_index != running.frame:
                self._tell_frame(running)
                running.frame = result.frame_index

    def _tell_frame(self, running: _Running) -> None:
        if running.frame >= 0 and not running.is_repair:
            self.frame_tracked.emit(running.frame)

    def _task_changed(self, state: TaskState) -> None:
        running = self._running
        if running is None or state.task_id != running.task or not state.phase.is_over:
            return
        if state.phase is Phase.FAILED:
            self._end(running, "")
            self.failed.emit(state.message)
        elif state.phase is Phase.CANCELLED:
            self._end(running, tr("Stopped: {0} kept.").format(masks_phrase(running.stored)))
        else:
            self._end(running, _done_text(running))

    def _end(self, running: _Running, text: str) -> None:
        self._running = None
        self._tell_frame(running)
        try:
            running.results.finish()
        except ProjectError as error:
            self.failed.emit(str(error))
            text = ""
        self.refresh()
        if text:
            self.finished.emit(text)


def _describe(plan: TrackPlan, verb: str = "") -> str:
    return tr("{0} {1}, {2}").format(
        verb or tr("Track"), objects_phrase(len(plan.object_ids)), frames_phrase(plan.low, plan.high)
    )


def _done_text(running: _Running) -> str:
    if not running.is_repair:
        return _describe(running.plan, tr("Tracked")) + "."
    if running.written is None:
        return tr("Repair: the masks around here were right already.")
    return tr("Repaired {0}.").format(frames_phrase(*running.written))
