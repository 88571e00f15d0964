"""The main window. It only builds the parts and wires them; what they do is in their own modules."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QByteArray, QEvent, QObject, Qt, QTimer
from PySide6.QtGui import QAction, QCloseEvent, QKeyEvent
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFrame,
    QKeySequenceEdit,
    QLineEdit,
    QMainWindow,
    QMenu,
    QPlainTextEdit,
    QSplitter,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)

from app.engine.backend import Backend
from app.engine.engine import Engine
from app.engine.frames import FrameLoader
from app.project.errors import ProjectError
from app.ui import icons, theme
from app.ui.absence import Absence
from app.ui.background import Background
from app.ui.calibration.controller import CalibrationController
from app.ui.calibration.offers import CalibrationOffers
from app.ui.canvas.canvas import Canvas
from app.ui.canvas.empty_state import EmptyState
from app.ui.canvas_presenter import CanvasPresenter
from app.ui.document import Document
from app.ui.document_controller import DocumentController, sample_clip
from app.ui.following import Following
from app.ui.frame_panel import FramePanel
from app.ui.i18n import tr
from app.ui.menus import build_menus, build_tool_bar, fill_recent, recent_title
from app.ui.model_choice import ModelChoice
from app.ui.model_controller import ModelController
from app.ui.mutual_kv_controller import MutualKvController
from app.ui.mutual_kv_panel import MutualKvPanel
from app.ui.navigation_controller import NavigationController
from app.ui.object_controller import ObjectController
from app.ui.objects_panel import ObjectsPanel
from app.ui.prompt_controller import PromptController
from app.ui.propagation_controller import Offer, PropagationController
from app.ui.settings import Settings
from app.ui.shortcuts import ActionRegistry
from app.ui.sizes import open_at
from app.ui.state import Workspace
from app.ui.status_bar import StatusBar
from app.ui.task_router import TaskRouter
from app.ui.task_strip import TaskStrip
from app.ui.timeline.timeline import Timeline
from app.ui.timeline_presenter import TimelinePresenter
from app.ui.toasts import Toasts, Tone
from app.ui.transfer_controller import TransferController
from app.ui.transport_bar import TransportBar
from app.ui.window_actions import connect_actions
from app.ui.window_dialogs import WindowDialogs

REMEMBER_MS = 800


class MainWindow(QMainWindow):
    """Tools left, canvas in the middle, objects right, timeline below, facts at the bottom."""

    def __init__(self, settings: Settings, backend: Backend | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.setObjectName("main")
        self.setWindowIcon(icons.app_icon())
        self.setMinimumSize(900, 600)
        open_at(self, 1440, 900)
        self._build_services(backend)
        self._build_widgets()
        self._build_controllers()
        self._wire()
        connect_actions(self)
        self._restore_shape()
        self._update_open()
        app = QApplication.instance()
        if app is not None:
            app.installEventFilter(self)

    # ---- building --------------------------------------------------------------------------------------

    def _build_services(self, backend: Backend | None) -> None:
        self.engine = Engine(backend, self)
        self.loader = FrameLoader(parent=self)
        self.background = Background(self)
        self.document = Document(self)
        self.workspace = Workspace(self)
        self.actions_table = ActionRegistry(self.settings, self)

    def _build_widgets(self) -> None:
        actions = self.actions_table
        self.canvas = Canvas()
        self.timeline = Timeline()
        self.objects_panel = ObjectsPanel(actions)
        self.frame_panel = FramePanel(actions)
        self.mutual_kv_panel = MutualKvPanel(self.settings)
        self.transport = TransportBar(actions)
        self.task_strip = TaskStrip()
        self.status = StatusBar()
        self.menus = build_menus(self, actions)
        self.tool_bar = build_tool_bar(self, actions)
        self.side = QWidget()
        self.side.setMinimumWidth(232)
        side = QVBoxLayout(self.side)
        side.setContentsMargins(0, 0, 0, 0)
        side.setSpacing(0)
        side.addWidget(self.objects_panel, 1)
        side.addWidget(_line())
        side.addWidget(self.frame_panel)
        side.addWidget(_line())
        side.addWidget(self.mutual_kv_panel)
        self.across = QSplitter(Qt.Orientation.Horizontal)
        self.across.addWidget(self.canvas)
        self.across.addWidget(self.side)
        self.across.setStretchFactor(0, 1)
        self.across.setStretchFactor(1, 0)
        self.across.setChildrenCollapsible(False)
        self.across.setSizes([1120, 272])
        bottom = QWidget()
        below = QVBoxLayout(bottom)
        below.setContentsMargins(0, 0, 0, 0)
        below.setSpacing(0)
        below.addWidget(self.transport)
        below.addWidget(_line())
        below.addWidget(self.timeline, 1)
        below.addWidget(self.task_strip)  # takes its place from the timeline: the picture does not move
        self.bottom = bottom
        self.down = QSplitter(Qt.Orientation.Vertical)
        self.down.addWidget(self.across)
        self.down.addWidget(bottom)
        self.down.setStretchFactor(0, 1)
        self.down.setStretchFactor(1, 0)
        self.down.setChildrenCollapsible(False)
        self.down.setSizes([640, 236])
        centre = QWidget()
        column = QVBoxLayout(centre)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.down, 1)
        column.addWidget(_line())
        column.addWidget(self.status)
        self.setCentralWidget(centre)
        self.toasts = Toasts(self.canvas)

    def _build_controllers(self) -> None:
        document, workspace, settings = self.document, self.workspace, self.settings
        self.presenter = CanvasPresenter(
            self.canvas, self.objects_panel, self.frame_panel, document, workspace, self.loader,
            self.engine, settings, self,
        )  # fmt: skip
        self.timeline_presenter = TimelinePresenter(
            self.timeline, document, workspace, self.engine, settings, self
        )
        self.documents = DocumentController(
            document, workspace, self.engine, self.loader, self.background, settings, self
        )
        self.navigation = NavigationController(
            self.transport, self.actions_table, document, workspace, settings, self
        )
        self.prompts = PromptController(document, workspace, self.engine, settings, self)
        self.tracking = PropagationController(document, workspace, self.engine, settings, self)
        self.following = Following(workspace, settings, self.navigation.playback, self)
        self.mutual_kv = MutualKvController(
            self.mutual_kv_panel, self.engine, document, workspace, self.tracking, self
        )
        self.objects = ObjectController(self.objects_panel, self.actions_table, document, workspace, self)
        self.absence = Absence(document, workspace, settings, self)
        self.transfers = TransferController(document, self.background, self)
        self.models = ModelController(self.background, parent=self)
        self.model_choice = ModelChoice(settings, document, self)
        self.calibration = CalibrationController(parent=self)
        self.router = TaskRouter(
            self.task_strip, self.engine, self.tracking, self.transfers, self.models, self.calibration,
            self.mutual_kv, self,
        )  # fmt: skip
        self.dialogs = WindowDialogs(self)
        self.calibration_offers = CalibrationOffers(
            self.calibration, document, self.transfers, settings, self.toasts, self.dialogs.show_calibration,
            lambda: self.dialogs.is_calibration_open, self.isVisible, self,
        )  # fmt: skip
        self._remember = QTimer(self)
        self._remember.setSingleShot(True)
        self._remember.setInterval(REMEMBER_MS)
        self._remember.timeout.connect(self.documents.remember_place)
        self._saved = QTimer(self)
        self._saved.setSingleShot(True)
        self._saved.setInterval(600)
        self._saved.timeout.connect(self._show_saved)

    def _wire(self) -> None:
        canvas, engine, prompts, tracking = self.canvas, self.engine, self.prompts, self.tracking
        canvas.point_added.connect(self._on_still(prompts.add_point))
        canvas.point_removed.connect(self._on_still(prompts.remove_point))
        canvas.box_drawn.connect(self._on_still(prompts.set_box))
        canvas.stroke_finished.connect(self._on_still(prompts.paint))
        canvas.hovered.connect(self._hovered)
        canvas.hover_left.connect(self._hover_left)
        canvas.gesture_changed.connect(lambda active: prompts.leave() if active else None)
        canvas.object_picked.connect(self.objects.pick)
        canvas.menu_requested.connect(self._canvas_menu)
        canvas.files_dropped.connect(self._dropped)
        canvas.space_tapped.connect(self.navigation.toggle_play)
        canvas.set_wheel_zooms(bool(self.settings.value("canvas.wheel_zooms")))
        prompts.preview_changed.connect(lambda mask: canvas.set_preview(mask))
        prompts.waiting_changed.connect(self._show_waiting)
        prompts.waiting_changed.connect(self.presenter.set_waiting)
        prompts.asked.connect(self.presenter.show_prompts)
        prompts.answered.connect(self.presenter.show_answer)
        self.timeline.menu_requested.connect(lambda i, place: self.objects.show_menu(place, i))
        self.presenter.frame_shown.connect(self._frame_shown)
        self.workspace.frame_changed.connect(self._frame_changed)
        self.workspace.clip_changed.connect(self._clip_changed)
        tracking.offer_changed.connect(self._show_offer)
        tracking.frame_tracked.connect(self.following.tracked)
        tracking.finished.connect(lambda text: self.toasts.show(text, Tone.SUCCESS))
        transfers = self.transfers
        self.models.installed.connect(
            lambda i: self.toasts.show(tr("{0} is installed.").format(i), Tone.SUCCESS)
        )
        self.models.verified.connect(lambda i: self.toasts.show(tr("{0} is intact.").format(i), Tone.SUCCESS))
        transfers.exported.connect(self.dialogs.tell_exported)
        transfers.imported.connect(lambda text: self.toasts.show(text, Tone.SUCCESS))
        self.transport.primary_clicked.connect(tracking.primary)
        engine.model_changed.connect(self._model_changed)
        engine.timing_changed.connect(self.status.set_timing)
        engine.failed.connect(self._fail)
        for part in (
            self.documents, self.objects, prompts, tracking, self.document, transfers, self.models,
            self.mutual_kv, self.model_choice, self.absence,
        ):  # fmt: skip
            part.failed.connect(self._fail)
        for notice in (self.documents, self.objects, self.navigation, self.model_choice):
            notice.noticed.connect(lambda text: self.toasts.show(text, topic="notice"))
        self.absence.offered.connect(
            lambda text, action, call: self.toasts.show(text, Tone.INFO, action, call, topic="notice")
        )
        self.documents.video_missing.connect(self.dialogs.ask_for_video)
        self.documents.busy_changed.connect(self._show_opening)
        self.document.stepped.connect(self.navigation.jump)
        self.document.opened.connect(self._update_open)
        self.document.opened.connect(prompts.answer_missing)
        self.document.closed.connect(self._update_open)
        self.document.changed.connect(lambda _change: None if self._saved.isActive() else self._saved.start())
        self.settings.changed.connect(self._setting_changed)
        self.settings.recent_changed.connect(self._update_recent)
        self.status.model_clicked.connect(self.dialogs.show_model_menu)
        self.model_choice.changed.connect(lambda _id: self._load_model())
        engine.mask_ready.connect(lambda _request, _mask: self._note_provenance())

    def _on_still(self, slot: object) -> object:
        """A slot for edits: playback stops first, so that they land on the frame the user looks at."""

        def call(*args: object) -> None:
            if self.document.is_open:
                self.following.leave()
                if self.navigation.playback.is_playing or self.presenter.shown_frame != self.workspace.frame:
                    self.navigation.jump(max(0, self.presenter.shown_frame))
                slot(*args)  # type: ignore[operator]

        return call

    # ---- reactions that concern several parts ----------------------------------------------------------

    def start(self, path: str | None) -> None:
        """Load the model, open what the command line named."""
        self._load_model()
        self.engine.set_mutual_kv(self.mutual_kv_panel.choice())
        self.calibration_offers.at_start()
        if path:
            self.documents.open(path)

    def _dropped(self, paths: list[str]) -> None:
        """Annotations come into the open project, anything else is opened."""
        if paths[0].lower().endswith(".json") and self.document.is_open:
            self.transfers.import_file(Path(paths[0]))
        else:
            self.documents.open(paths[0])

    def _load_model(self) -> None:
        self.engine.load_model(self.model_choice.current, str(self.settings.value("tracking.device")))

    def _note_provenance(self) -> None:
        if self.document.is_open:
            try:
                self.tracking.note_provenance()
            except ProjectError as error:
                self._fail(str(error))

    def _model_changed(self, state: object) -> None:
        self.status.set_model(self.engine.model)
        if self.engine.model.message:
            self.toasts.show(self.engine.model.message, Tone.ERROR, tr("Models…"), self.dialogs.show_models)

    def _setting_changed(self, key: str, value: object) -> None:
        if key == "appearance.theme":
            theme.manager().set_mode(theme.ThemeMode(str(value)))
        elif key == "tracking.device":
            self._load_model()
        elif key == "canvas.wheel_zooms":
            self.canvas.set_wheel_zooms(bool(value))
        elif key == "review.threshold":
            self.timeline.set_low_confidence(float(str(value)))

    def _fail(self, text: str) -> None:
        self.toasts.show(text, Tone.WARNING)

    def _frame_changed(self, frame: int) -> None:
        self.prompts.leave()
        self._remember.start()

    def _frame_shown(self, frame: int) -> None:
        self.navigation.playback.frame_shown()
        if not self.navigation.playback.is_playing:
            self.engine.set_focus(frame)

    def _show_offer(self, offer: Offer) -> None:
        self.transport.set_primary(offer.text, offer.enabled, offer.tip, offer.short)
        running = self.tracking.is_running
        self.transport.primary.setIcon(icons.icon("stop" if running else "track", "on_accent"))
        for action_id in ("track.pause", "track.cancel"):
            self.actions_table[action_id].setEnabled(running)
        self.following.set_running(running)
        self.prompts.previews_allowed = not running

    def _hovered(self, x: float, y: float) -> None:
        self.status.set_pointer(x, y)
        if not self.canvas.is_gesture_active and not self.navigation.playback.is_playing:
            self.prompts.hover_with(self.canvas.tool, x, y)

    def _hover_left(self) -> None:
        self.status.set_pointer(None, None)
        self.prompts.leave()

    def _canvas_menu(self, place: object, x: float, y: float) -> None:
        object_id = self.objects.pick(x, y)
        if object_id is not None:
            self.objects.show_menu(place, object_id)  # type: ignore[arg-type]

    def _show_waiting(self, waiting: bool) -> None:
        loading = waiting and not self.engine.model.is_ready
        self.canvas.set_hint(tr("The model is loading; your prompt is next.") if loading else "")

    def _show_opening(self, busy: bool) -> None:
        self.canvas.set_hint(tr("Opening…") if busy else "")

    # ---- open or not -----------------------------------------------------------------------------------

    def _update_open(self) -> None:
        is_open = self.document.is_open
        project = self.document.project
        for spec in self.actions_table.specs:
            if spec.section in ("Object", "Play", "Track", "Review", "View", "Tool") or spec.action_id in (
                "edit.copy", "edit.paste", "edit.clear", "edit.clear_frame", "edit.clear_tracked",
                "file.import", "file.export", "file.close", "file.relink",
            ):  # fmt: skip
                self.actions_table[spec.action_id].setEnabled(is_open)
        self.canvas.set_empty_state(None if is_open else self._welcome())
        self.bottom.setVisible(is_open)
        self.side.setVisible(is_open)
        self.tool_bar.setVisible(is_open)
        self.setWindowTitle(
            f"{project.name} — Q-MiniSAM2 Annotator" if project is not None else "Q-MiniSAM2 Annotator"
        )
        self.status.set_project("" if project is None else str(project.path))
        self._update_recent()
        self._show_saved()
        self.tracking.refresh()
        if is_open:
            self.canvas.setFocus()

    def _clip_changed(self) -> None:
        self.following.clear()
        count = self.workspace.frame_count
        self.status.set_clip(
            tr("{0} frames, {1:g} fps").format(count, round(self.workspace.fps, 2)) if count else ""
        )

    def _welcome(self) -> EmptyState:
        actions = [self.actions_table["file.open"], self.actions_table["file.open_folder"]]
        if sample_clip() is not None:
            actions.append(self.actions_table["file.sample"])
        recent: list[QAction] = []
        for path in self.settings.recent[:5]:
            action = QAction(recent_title(path), self)
            action.setToolTip(path)
            action.triggered.connect(lambda _checked=False, chosen=path: self.documents.open(chosen))
            recent.append(action)
        return EmptyState(
            tr("Drop a video here"),
            tr("or a folder of frames, or a project. Everything you do is saved as you go."),
            "video",
            tuple(actions),
            tr("Recent") if recent else "",
            tuple(recent),
        )

    def _update_recent(self) -> None:
        fill_recent(self.menus["recent"], self.settings, self.documents.open)
        if not self.document.is_open:
            self.canvas.set_empty_state(self._welcome())

    def _show_saved(self) -> None:
        project = self.document.project
        if project is not None:
            self.status.set_saved(project.saved_at)

    # ---- Qt --------------------------------------------------------------------------------------------

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Letters typed into a field are no shortcuts; Alt held hides the masks."""
        kind = event.type()
        if kind == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            if _is_text_field(QApplication.focusWidget()) and not (
                event.modifiers() & (Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier)
            ):
                event.accept()
                return True
        elif kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease) and isinstance(event, QKeyEvent):
            if event.key() == Qt.Key.Key_Alt and self.document.is_open and self.isActiveWindow():
                if not event.isAutoRepeat():
                    hidden = kind == QEvent.Type.KeyPress or self.actions_table["view.hide_masks"].isChecked()
                    self.canvas.set_overlay_hidden(hidden)
                return watched is not self.canvas and not isinstance(watched, QMenu)
        elif kind == QEvent.Type.ApplicationDeactivate:
            self.canvas.set_overlay_hidden(self.actions_table["view.hide_masks"].isChecked())
        return False

    def _restore_shape(self) -> None:
        for name, restore in (
            ("geometry", self.restoreGeometry),
            ("across", self.across.restoreState),
            ("down", self.down.restoreState),
        ):
            stored = self.settings.window_state(name)
            if stored:
                restore(QByteArray.fromBase64(stored.encode("ascii")))

    def closeEvent(self, event: QCloseEvent) -> None:
        """Everything is on the disk already: only stop the threads."""
        app = QApplication.instance()
        if app is not None:
            app.removeEventFilter(self)
        if self.document.is_open:
            for name, state in (
                ("geometry", self.saveGeometry()),
                ("across", self.across.saveState()),
                ("down", self.down.saveState()),
            ):
                self.settings.set_window_state(name, state.toBase64().toStdString())
        self.hide()
        self.navigation.playback.stop()
        self.tracking.stop()
        self.dialogs.stop()
        self.transfers.stop()
        self.models.stop()
        self.calibration.shutdown()
        self.documents.close()
        self.background.shutdown()
        self.loader.shutdown()
        self.engine.shutdown()
        event.accept()


def _line() -> QFrame:
    line = QFrame()
    line.setFrameShape(QFrame.Shape.NoFrame)
    line.setFixedHeight(1)
    line.setObjectName("separator")
    line.setAutoFillBackground(True)
    line.setBackgroundRole(line.palette().ColorRole.Mid)
    return line


def _is_text_field(widget: QWidget | None) -> bool:
    if isinstance(widget, QComboBox):
        return widget.isEditable()
    return isinstance(widget, QLineEdit | QAbstractSpinBox | QTextEdit | QPlainTextEdit | QKeySequenceEdit)
