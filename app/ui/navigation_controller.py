"""Moving through the clip: steps, playback, keyframes, frames that need attention, the range."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from app.ui.document import Document
from app.ui.i18n import tr
from app.ui.navigation import attention_frames, next_in, starts_of_runs, unreviewed_frames
from app.ui.playback import Playback
from app.ui.settings import Settings
from app.ui.shortcuts import ActionRegistry
from app.ui.state import Workspace
from app.ui.transport_bar import TransportBar


class NavigationController(QObject):
    """Transport bar, playback and the jump keys."""

    noticed = Signal(str)

    def __init__(
        self,
        bar: TransportBar,
        actions: ActionRegistry,
        document: Document,
        workspace: Workspace,
        settings: Settings,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._bar = bar
        self._actions = actions
        self._document = document
        self._workspace = workspace
        self._settings = settings
        self.playback = Playback(self)
        self.playback.frame_due.connect(workspace.go_to)
        self.playback.playing_changed.connect(bar.set_playing)
        self.playback.set_loop(bool(settings.value("playback.loop")))
        bar.frame_entered.connect(self.jump)
        bar.speed_chosen.connect(self._set_speed)
        workspace.clip_changed.connect(self._clip_changed)
        workspace.frame_changed.connect(self._frame_changed)
        workspace.range_changed.connect(self._range_changed)
        settings.changed.connect(self._setting_changed)

    def _clip_changed(self) -> None:
        self.playback.set_clip(self._workspace.timestamps_s)
        self._bar.set_clip(self._workspace.frame_count)

    def _frame_changed(self, frame: int) -> None:
        self._bar.set_position(frame, self._workspace.seconds(frame))

    def _range_changed(self) -> None:
        low, high = self._workspace.span
        first, last = self._workspace.marks
        if self._workspace.has_clip:
            self.playback.set_range(low, high)
        self._bar.set_range_text(
            "" if first is None and last is None else tr("Range {0}–{1}").format(low, high)
        )

    def _setting_changed(self, key: str, value: object) -> None:
        if key == "playback.loop":
            self.playback.set_loop(bool(value))

    def _set_speed(self, speed: float) -> None:
        self.playback.set_speed(speed)
        self._bar.set_speed(speed)

    # ---- moving ----------------------------------------------------------------------------------------

    def toggle_play(self) -> None:
        """Play from here, or hold."""
        if self.playback.is_playing:
            self.playback.stop()
        elif self._workspace.has_clip:
            self.playback.start(self._workspace.frame)

    def jump(self, frame: int) -> None:
        """Go to a frame and stay there."""
        self.playback.stop()
        self._workspace.go_to(frame)

    def step(self, frames: int) -> None:
        """Go some frames on, or back."""
        self.jump(self._workspace.frame + frames)

    def to_end(self, last: bool) -> None:
        """Go to the first or last frame."""
        self.jump(self._workspace.frame_count - 1 if last else 0)

    def _reviewed_objects(self) -> list[int]:
        project = self._document.project
        if project is None:
            return []
        selection = [i for i in self._workspace.selection if i in project.objects]
        return selection if len(selection) > 1 else list(project.objects)

    def to_keyframe(self, forward: bool) -> None:
        """Go to the next keyframe of the active object, of any object without one."""
        project = self._document.project
        if project is None:
            return
        active = self._workspace.active
        ids = [active] if active in project.objects and active is not None else list(project.objects)
        frames = sorted({f for i in ids for f in self._document.keyframes(i)})
        found = next_in(frames, self._workspace.frame, forward)
        if found is None:
            self.noticed.emit(
                tr("No keyframe after this one.") if forward else tr("No keyframe before this one.")
            )
        else:
            self.jump(found)

    def to_attention(self, forward: bool) -> None:
        """Go to the next stretch of frames that needs a look."""
        project = self._document.project
        if project is None:
            return
        lanes = [project.lane(i) for i in self._reviewed_objects()]
        frames = starts_of_runs(attention_frames(lanes, float(self._settings.value("review.threshold"))))
        found = next_in(frames, self._workspace.frame, forward)
        if found is None and self._settings.value("review.unreviewed"):
            found = next_in(unreviewed_frames(lanes), self._workspace.frame, forward)
        if found is None:
            self.noticed.emit(self._all_well(bool(frames), forward))
            return
        self.jump(found)
        if found in frames:
            position = frames.index(found) + 1
            self.noticed.emit(tr("Needs attention: {0} of {1}").format(position, len(frames)))

    def _all_well(self, elsewhere: bool, forward: bool) -> str:
        """Nothing that way; where to look instead."""
        if not elsewhere:
            return tr("Nothing needs attention.")
        if forward:
            text, action_id = (
                tr("Nothing needs attention after this frame; {0} goes back."),
                "review.previous",
            )
        else:
            text, action_id = tr("Nothing needs attention before this frame; {0} goes on."), "review.next"
        keys = self._actions.key_text(action_id)
        return text.format(keys or tr("the Track menu"))

    # ---- range -----------------------------------------------------------------------------------------

    def set_in(self) -> None:
        """The range begins at the current frame."""
        if self._workspace.has_clip:
            self._workspace.set_range(self._workspace.frame, self._workspace.marks[1])

    def set_out(self) -> None:
        """The range ends at the current frame."""
        if self._workspace.has_clip:
            self._workspace.set_range(self._workspace.marks[0], self._workspace.frame)

    def clear_range(self) -> None:
        """No range: the whole clip."""
        self._workspace.set_range(None, None)
