"""What the user says about objects: clicks, boxes, strokes, previews, and the model's answers to them.

A prompt is in the project at once; its mask joins the same undo step when the model has answered. An answer
to a prompt that was changed meanwhile is dropped.

What the user waits for comes first: the model is asked before the prompt is written, and its mask is on the
screen before it is.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from PySide6.QtCore import QObject, QTimer, Signal

from app.engine.engine import Engine
from app.engine.records import ModelPhase
from app.engine.workbench import Condition, Key
from app.project import edits
from app.project.changes import Change
from app.project.errors import ProjectError
from app.project.model import MaskSource
from app.ui.canvas.view_model import BrushStroke, Tool
from app.ui.document import Document
from app.ui.i18n import tr
from app.ui.settings import Settings
from app.ui.state import Workspace
from app.ui.undo import ChangeCommand
from qcore.masks import decode
from qcore.tracking.types import MaskResult, Prompt

log = logging.getLogger(__name__)

PREVIEW_DELAY_MS = 40
"""The pointer rests so long before a preview is asked for."""


def conditions_of(document: Document, object_id: int) -> dict[Key, Condition]:
    """Everything certain about an object: its prompts and protected masks."""
    project = document.need()
    found: dict[Key, Condition] = {}
    for frame in document.keyframes(object_id):
        mask = project.mask(frame, object_id)
        found[(object_id, frame)] = Condition(
            frame, object_id, project.prompt(frame, object_id), None if mask is None else mask.rle
        )
    return found


class PromptController(QObject):
    """Turns the canvas's reports into changes of the document and questions to the engine."""

    failed = Signal(str)
    preview_changed = Signal(object)
    """uint8 (H, W) mask of the next click, or None."""
    waiting_changed = Signal(bool)
    """True while a prompt waits for its mask."""
    asked = Signal()
    """A prompt of the current frame is in the project, and the model is at work on it."""
    answered = Signal(object)
    """The model's `MaskResult` for a prompt, to be shown now; the project has it when the slots are done."""

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
        self._waiting: dict[int, tuple[Prompt, ChangeCommand | None]] = {}
        self._preview_request = 0
        self._hover: tuple[float, float] | None = None
        self._preview_timer = QTimer(self)
        self._preview_timer.setSingleShot(True)
        self._preview_timer.setInterval(PREVIEW_DELAY_MS)
        self._preview_timer.timeout.connect(self._ask_preview)
        self.previews_allowed = True
        engine.mask_ready.connect(self._answer)
        engine.request_failed.connect(self._no_answer)
        engine.preview_ready.connect(self._preview_ready)
        engine.model_changed.connect(self._model_changed)
        document.closed.connect(self._forget)

    @property
    def is_waiting(self) -> bool:
        """True while a prompt waits for its mask."""
        return bool(self._waiting)

    # ---- clicks and boxes ------------------------------------------------------------------------------

    def add_point(self, x: float, y: float, label: int) -> None:
        """A click on the current frame, in video pixels."""
        if label == 0 and self._active_prompt() is None and not self._has_mask():
            self.failed.emit(tr("First show what belongs to the object: left click or drag a box."))
            return
        before = self._base_prompt()
        if before is not None:
            self._say(replace(before, points_xy=(*before.points_xy, (x, y)), labels=(*before.labels, label)))

    def set_box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A box on the current frame; clicks already there stay."""
        before = self._base_prompt()
        if before is not None:
            self._say(replace(before, box_xyxy=(x0, y0, x1, y1)))

    def remove_point(self, object_id: int, position: int) -> None:
        """Take one click of the current frame back."""
        project = self._document.project
        prompt = project.prompt(self._workspace.frame, object_id) if project is not None else None
        if prompt is None or not 0 <= position < len(prompt.points_xy):
            return
        points = prompt.points_xy[:position] + prompt.points_xy[position + 1 :]
        labels = prompt.labels[:position] + prompt.labels[position + 1 :]
        left = replace(prompt, points_xy=points, labels=labels)
        if left.is_empty or (left.box_xyxy is None and 1 not in left.labels and not points):
            self._do(lambda: edits.clear_prompts(self._document.need(), object_id, prompt.frame_index))
            return
        self._say(left)

    def _base_prompt(self) -> Prompt | None:
        """The active object's prompt on this frame without a mask; makes an object where none is active."""
        project = self._document.project
        if project is None:
            return None
        object_id = self._workspace.active
        if object_id is None or object_id not in project.objects:
            return Prompt(self._workspace.frame, project.next_object_id)
        if project.objects[object_id].locked:
            self.failed.emit(tr("{0} is locked.").format(project.objects[object_id].name))
            return None
        before = project.prompt(self._workspace.frame, object_id)
        if before is None or before.mask is not None:
            return Prompt(self._workspace.frame, object_id)
        return before

    def _active_prompt(self) -> Prompt | None:
        project, active = self._document.project, self._workspace.active
        return None if project is None or active is None else project.prompt(self._workspace.frame, active)

    def _has_mask(self) -> bool:
        project, active = self._document.project, self._workspace.active
        return (
            project is not None
            and active is not None
            and project.mask(self._workspace.frame, active) is not None
        )

    def new_object(self) -> ChangeCommand | None:
        """Add an object and make it the active one."""
        return self._add(self._addition())

    def _addition(self, prompt: Prompt | None = None) -> Change:
        project = self._document.need()
        safe = self._settings.value("appearance.palette") == "color-blind-safe"
        classes = [o.class_id for o in project.objects.values() if o.class_id in project.classes]
        class_id = classes[0] if len(set(classes)) == 1 and len(classes) == len(project.objects) else None
        return edits.add_object(project, class_id=class_id, colorblind_safe=safe, prompt=prompt)

    def _add(self, change: Change) -> ChangeCommand | None:
        command = self._document.do(change)
        if command is not None:
            self._workspace.select([edits.added_id(change)])
        return command

    def _say(self, prompt: Prompt) -> None:
        try:
            project = self._document.need()
            is_new = prompt.object_id not in project.objects
            change = self._addition(prompt) if is_new else edits.set_prompt(project, prompt)
        except ProjectError as error:
            self.failed.emit(str(error))
            return
        self.preview_changed.emit(None)
        request = self._ask(prompt)
        # if this is refused, the project does not hold the prompt, and the answer will be dropped
        self._waiting[request] = prompt, self._add(change) if is_new else self._document.do(change)
        self.asked.emit()

    def _ask(self, prompt: Prompt) -> int:
        project = self._document.need()
        conditions = conditions_of(self._document, prompt.object_id)
        mask = project.mask(prompt.frame_index, prompt.object_id)
        by_hand = mask is not None and mask.source in (MaskSource.EDITED, MaskSource.IMPORTED)
        prior = None if mask is None or mask.rle.is_empty else mask.rle
        if prompt.box_xyxy is not None and not prompt.points_xy:
            prior = None  # a box alone says it all: it replaces what was there
        request = self._engine.click(prompt, conditions, prior, by_hand)
        self._waiting[request] = prompt, None
        self.waiting_changed.emit(True)
        return request

    def _answer(self, request: int, result: MaskResult) -> None:
        prompt, command = self._waiting.pop(request, (None, None))
        project = self._document.project
        # else it was undone or changed meanwhile
        if prompt is not None and project is not None and self._stands(prompt):
            self.answered.emit(result)
            try:
                change = edits.set_prompt(project, prompt, result)
                if command is not None and command.is_applied:
                    command.extend(change)
                else:
                    project.apply(change)
            except ProjectError as error:
                self.failed.emit(str(error))
        self.waiting_changed.emit(bool(self._waiting))

    def _stands(self, prompt: Prompt) -> bool:
        """Whether a prompt is what the project holds."""
        return self._document.need().prompt(prompt.frame_index, prompt.object_id) == prompt

    def _no_answer(self, request: int, text: str) -> None:
        if self._waiting.pop(request, None) is not None:
            self.waiting_changed.emit(bool(self._waiting))
            self.failed.emit(text)

    def _model_changed(self, state: object) -> None:
        if self._engine.model.phase is ModelPhase.READY:
            self.answer_missing()

    def answer_missing(self) -> None:
        """Ask for the masks of prompts that never got one, e.g. because the program was killed."""
        project = self._document.project
        if project is None or self._engine.model.phase is not ModelPhase.READY:
            return
        asked = {prompt for prompt, _ in self._waiting.values()}
        for object_id in project.objects:
            for prompt in project.prompts(object_id):
                if prompt not in asked and not project.index(object_id).has_mask(prompt.frame_index):
                    self._ask(prompt)

    def _forget(self) -> None:
        self._waiting.clear()
        self.waiting_changed.emit(False)
        self.leave()

    # ---- brush -----------------------------------------------------------------------------------------

    def paint(self, stroke: BrushStroke) -> None:
        """A finished stroke on the current frame."""
        project = self._document.project
        if project is None:
            return
        command: ChangeCommand | None = None
        if self._workspace.active is None:
            if stroke.erase:
                self.failed.emit(tr("Select the object to erase from."))
                return
            command = self.new_object()
        active = self._workspace.active
        if active is None:
            return
        try:
            change = edits.paint(
                project, self._workspace.frame, active, stroke.patch_xyxy, stroke.patch_hw, stroke.erase
            )
            if command is None:
                self._document.do(change)
            else:
                command.extend(change)
        except ProjectError as error:
            self.failed.emit(str(error))

    def _do(self, make: object) -> None:
        try:
            self._document.do(make())  # type: ignore[operator]
        except ProjectError as error:
            self.failed.emit(str(error))

    # ---- preview ---------------------------------------------------------------------------------------

    def hover_with(self, tool: Tool, x: float, y: float) -> None:
        """The pointer is here, with a tool; only points have a preview."""
        if tool is not Tool.POINT:
            return
        self._hover = (x, y)
        self._preview_timer.start()

    def leave(self) -> None:
        """The pointer is gone, or something else is going on."""
        self._hover = None
        self._preview_timer.stop()
        self._preview_request = 0
        self._engine.drop_preview()
        self.preview_changed.emit(None)

    def _ask_preview(self) -> None:
        if (
            self._hover is None
            or not self.previews_allowed
            or not self._settings.value("canvas.hover_preview")
            or self._engine.model.phase is not ModelPhase.READY
            or self._waiting
        ):
            return
        project = self._document.project
        if project is None:
            return
        active = self._workspace.active
        if active is not None and active in project.objects and project.objects[active].locked:
            return
        before = self._base_prompt()
        if before is None:
            return
        prompt = replace(before, points_xy=(*before.points_xy, self._hover), labels=(*before.labels, 1))
        self._preview_request = self._engine.preview(prompt)

    def _preview_ready(self, request: int, result: MaskResult) -> None:
        if request != self._preview_request or self._hover is None:
            return
        shown = None
        if result.frame_index == self._workspace.frame and not result.rle.is_empty:
            mask_hw = decode(result.rle)
            # a guess that leaves out the very spot under the pointer would only confuse
            if mask_hw[int(self._hover[1]), int(self._hover[0])]:
                shown = mask_hw
        self.preview_changed.emit(shown)
