"""Keeps the canvas and the panels of the shown frame equal to the document.

The picture comes from another thread; masks are shown for the picture that is on the screen, never for one
that is still on its way.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
from PySide6.QtCore import QObject, QTimer, Signal

from app.engine.engine import Engine
from app.engine.frames import FrameLoader
from app.project.changes import Change, Kind
from app.project.model import FrameMask, MaskSource, ObjectTrack
from app.ui.canvas.canvas import Canvas
from app.ui.canvas.view_model import MaskLayer, PromptMark
from app.ui.document import Document
from app.ui.frame_panel import FrameFacts, FramePanel
from app.ui.i18n import tr
from app.ui.navigation import attention
from app.ui.objects_panel import ObjectRow, ObjectsPanel
from app.ui.settings import Settings
from app.ui.state import Workspace
from qcore.masks import MaskArray, Rle, decode
from qcore.tracking.types import MaskResult, Prompt

DECODED_MASKS = 24
HOLD_MS = 150
"""What can wait for the model's answer to a click does, but no longer: Python runs one thread at a time, so
whatever happens here meanwhile would delay the answer."""


class CanvasPresenter(QObject):
    """Feeds canvas, objects panel and frame panel."""

    frame_shown = Signal(int)

    def __init__(
        self,
        canvas: Canvas,
        objects: ObjectsPanel,
        frame_panel: FramePanel,
        document: Document,
        workspace: Workspace,
        loader: FrameLoader,
        engine: Engine,
        settings: Settings,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._canvas = canvas
        self._objects = objects
        self._panel = frame_panel
        self._document = document
        self._workspace = workspace
        self._engine = engine
        self._settings = settings
        self._decoded: OrderedDict[tuple[int, int], tuple[Rle, MaskArray]] = OrderedDict()
        self._shown = -1
        self.highlight_changes = False
        self._refresh = QTimer(self)
        self._refresh.setSingleShot(True)
        self._refresh.timeout.connect(self.refresh)
        self._is_answer_near = False
        loader.frame_ready.connect(self._frame_ready)
        workspace.frame_changed.connect(loader.request)
        workspace.selection_changed.connect(self._soon)
        workspace.clip_changed.connect(self._clip_changed)
        document.changed.connect(self._changed)
        document.opened.connect(self._opened)
        document.closed.connect(self._soon)
        settings.changed.connect(lambda _key, _value: self._soon())
        self._loader = loader

    @property
    def shown_frame(self) -> int:
        """The frame on the screen; -1 without one."""
        return self._shown

    def _opened(self) -> None:
        self._loader.request(self._workspace.frame)
        self._soon()

    def _clip_changed(self) -> None:
        self._decoded.clear()
        self._shown = -1
        if not self._workspace.has_clip:
            self._canvas.set_frame(None)
        self._soon()

    def _frame_ready(self, frame: int, rgb: npt.NDArray[np.uint8]) -> None:
        if not self._document.is_open or frame >= self._workspace.frame_count:
            return
        self._shown = frame
        self._canvas.set_frame(rgb)
        self.refresh()
        self.frame_shown.emit(frame)

    def _changed(self, change: Change) -> None:
        concerns_shown = bool({self._shown, self._workspace.frame} & change.frames)
        if concerns_shown or change.kinds - {Kind.MASK}:
            self._soon()

    def _soon(self) -> None:
        if not self._refresh.isActive():
            self._refresh.start(HOLD_MS if self._is_answer_near else 0)

    def set_waiting(self, waiting: bool) -> None:
        """A prompt waits for its mask, or none does."""
        self._is_answer_near = waiting
        if not waiting and self._refresh.isActive():
            self._refresh.start(0)

    def show_prompts(self) -> None:
        """Show the prompts of the frame on the screen, and nothing else that may have changed."""
        if self._document.is_open:
            self._show_marks(max(0, self._shown))

    def show_answer(self, result: MaskResult) -> None:
        """Paint the model's answer to a prompt at once, before it is written and before any list shows it."""
        project = self._document.project
        if project is None or result.frame_index != self._shown:
            return
        masks = {mask.object_id: mask for mask in project.masks_on(self._shown)}
        masks[result.object_id] = FrameMask(
            self._shown, result.object_id, result.rle, result.score, result.presence, MaskSource.PROMPT
        )
        self._show_masks(self._shown, masks)
        self._canvas.repaint()

    def refresh(self) -> None:
        """Show masks, prompts, objects and facts of the frame on the screen."""
        self._refresh.stop()
        project = self._document.project
        if project is None:
            self._canvas.set_layers([])
            self._canvas.set_marks([])
            self._canvas.set_active_object(None)
            self._objects.set_rows([])
            self._panel.show_facts(FrameFacts("", hint=tr("Open a video to begin.")))
            return
        frame = max(0, self._shown)
        masks = {mask.object_id: mask for mask in project.masks_on(frame)}
        self._show_masks(frame, masks)
        active_track = self._show_marks(frame)
        self._canvas.set_reference(self._before(frame, active_track))
        tracks = project.objects.values()
        self._objects.set_rows([self._row(t, self._color(t), masks.get(t.object_id)) for t in tracks])
        self._objects.set_selection(self._workspace.selection, self._workspace.active)
        self._panel.show_facts(self._facts(frame, active_track, masks))

    def _show_masks(self, frame: int, masks: dict[int, FrameMask]) -> None:
        layers: list[MaskLayer] = []
        for track in self._document.need().objects.values():
            mask = masks.get(track.object_id)
            if mask is not None and track.visible:
                is_selected = track.object_id in self._workspace.selection
                decoded, color = self._decode(frame, mask), self._color(track)
                layers.append(MaskLayer(track.object_id, decoded, color, is_selected, mask.is_protected))
        # the topmost object comes first in the project and is painted last
        self._canvas.set_layers(layers[::-1])

    def _show_marks(self, frame: int) -> ObjectTrack | None:
        """Show the prompts, and whose are at hand; the active object."""
        project, active = self._document.need(), self._workspace.active
        marks: list[PromptMark] = []
        for track in project.objects.values():
            prompt = project.prompt(frame, track.object_id)
            if prompt is None or not track.visible:
                continue
            if prompt.points_xy or prompt.box_xyxy is not None:
                marks.append(
                    PromptMark(
                        track.object_id, self._color(track), prompt.points_xy, prompt.labels, prompt.box_xyxy
                    )
                )
        self._canvas.set_marks(marks)
        active_track = project.objects.get(active) if active is not None else None
        if active_track is None:
            self._canvas.set_active_object(None)
        else:
            self._canvas.set_active_object(active, self._color(active_track))
        return active_track

    def _before(self, frame: int, track: ObjectTrack | None) -> MaskArray | None:
        """The active object's mask on the frame before, while changes are highlighted."""
        if not self.highlight_changes or track is None or frame == 0:
            return None
        mask = self._document.need().mask(frame - 1, track.object_id)
        return None if mask is None else self._decode(frame - 1, mask)

    def set_highlight_changes(self, on: bool) -> None:
        """Highlight where the active mask differs from the frame before, so that flicker shows."""
        self.highlight_changes = on
        self.refresh()

    def _color(self, track: ObjectTrack) -> str:
        project = self._document.need()
        label = project.classes.get(track.class_id) if track.class_id is not None else None
        if label is not None and self._settings.value("appearance.color_by_class"):
            return label.color
        return track.color

    def _row(self, track: ObjectTrack, color: str, mask: FrameMask | None) -> ObjectRow:
        label = self._document.need().classes.get(track.class_id) if track.class_id is not None else None
        return ObjectRow(
            track.object_id,
            track.name,
            "" if label is None else label.name,
            color,
            track.visible,
            track.locked,
            mask is not None,
        )

    def _decode(self, frame: int, mask: FrameMask) -> MaskArray:
        key = (frame, mask.object_id)
        known = self._decoded.get(key)
        if known is not None and known[0] == mask.rle:
            self._decoded.move_to_end(key)
            return known[1]
        decoded = decode(mask.rle)
        self._decoded[key] = (mask.rle, decoded)
        while len(self._decoded) > DECODED_MASKS:
            self._decoded.popitem(last=False)
        return decoded

    def _facts(self, frame: int, track: ObjectTrack | None, masks: dict[int, FrameMask]) -> FrameFacts:
        project = self._document.need()
        if track is None:
            if not project.objects:
                return FrameFacts("", hint=tr("Masks get a confidence, and can be accepted, here."))
            return FrameFacts("", hint=tr("Click or drag a box on the next object, or select one above."))
        mask = masks.get(track.object_id)
        if mask is None:
            if project.prompt(frame, track.object_id) is not None:
                return FrameFacts(track.name, hint=tr("Waiting for the model…"))
            if len(self._document.masked_frames(track.object_id)):
                return FrameFacts(track.name, hint=tr("Not tracked on this frame yet: press T."))
            return FrameFacts(track.name, hint=tr("Click it in the picture, or drag a box around it."))
        lane = project.lane(track.object_id)
        threshold = float(self._settings.value("review.threshold"))
        return FrameFacts(
            track.name,
            _source_text(mask, project.prompt(frame, track.object_id)),
            float(lane.confidence[frame]),
            _area_text(mask, project.size),
            mask.reviewed,
            bool(attention(lane, threshold)[frame]),
            not mask.reviewed and not track.locked,
        )


def _source_text(mask: FrameMask, prompt: Prompt | None) -> str:
    if prompt is not None and mask.source in (MaskSource.PROMPT, MaskSource.PROPAGATED):
        text = _prompt_text(prompt)
    elif mask.source is MaskSource.PROMPT:
        text = tr("a prompt")
    elif mask.source is MaskSource.EDITED:
        text = tr("your mark") if mask.rle.is_empty else tr("painted by hand")
    elif mask.source is MaskSource.IMPORTED:
        text = tr("imported")
    else:
        text = tr("tracked")
    return tr("{0}, accepted").format(text) if mask.reviewed else text


def _prompt_text(prompt: Prompt) -> str:
    if not prompt.points_xy:
        return tr("your box")
    if prompt.box_xyxy is not None:
        return tr("your box and clicks") if len(prompt.points_xy) > 1 else tr("your box and click")
    return tr("your clicks") if len(prompt.points_xy) > 1 else tr("your click")


def _area_text(mask: FrameMask, size: tuple[int, int]) -> str:
    area = mask.rle.area
    if area == 0:
        return tr("not in view")
    share = 100 * area / (size[0] * size[1])
    return tr("{0} px, {1} %").format(f"{area:,}".replace(",", "\u202f"), f"{share:.1f}")
