"""Opening and closing: videos, frame folders and project files, moved videos, recent files, the sample clip.

A video that has a project opens it again; one that has none gets one at once, so there is nothing to save.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
from PySide6.QtCore import QObject, Signal

from app.engine.engine import Engine, sentence
from app.engine.frames import FrameLoader, OpenedVideo
from app.project.errors import ProjectError
from app.project.project import Project
from app.project.video_link import (
    SUFFIX,
    VideoMatch,
    compare_video,
    default_project_path,
    describe_video,
    find_video,
    projects_of,
)
from app.ui.background import Background
from app.ui.document import Document
from app.ui.i18n import tr
from app.ui.settings import APP_NAME, Settings
from app.ui.state import Workspace
from resources import resource_path

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv")
SAMPLE_FOLDER = "sample"


def sample_clip() -> Path | None:
    """The clip that comes with the program."""
    try:
        folder = resource_path(SAMPLE_FOLDER)
    except FileNotFoundError:
        return None
    return next(iter(sorted(folder.glob("*.mp4"))), None)


class DocumentController(QObject):
    """The way from a path to an open document, step by step off the GUI thread."""

    failed = Signal(str)
    noticed = Signal(str)
    busy_changed = Signal(bool)
    video_missing = Signal(str)
    """A project's video is not where it was: the remembered path. Answer with `relink` or `give_up`."""

    def __init__(
        self,
        document: Document,
        workspace: Workspace,
        engine: Engine,
        loader: FrameLoader,
        background: Background,
        settings: Settings,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._document = document
        self._workspace = workspace
        self._engine = engine
        self._loader = loader
        self._background = background
        self._settings = settings
        self._pending: Project | None = None
        """A project that waits for its video."""
        self._relinking = False
        self._request = 0
        self._then: Callable[[OpenedVideo], None] | None = None
        self._on_fail: Callable[[str], None] | None = None
        loader.opened.connect(self._video_opened)
        loader.open_failed.connect(self._video_failed)

    # ---- opening ---------------------------------------------------------------------------------------

    def open(self, path: str) -> None:
        """Open a video, a frame folder or a project."""
        target = Path(path).expanduser()
        if not target.exists():
            self._settings.forget_recent(path)
            self.failed.emit(tr("“{0}” is not there any more.").format(target.name))
            return
        if self._is_open(target):
            self.noticed.emit(tr("“{0}” is open already.").format(target.name))
            return
        self._drop_pending()
        self.busy_changed.emit(True)
        if target.suffix.lower() == SUFFIX:
            self._background.run(
                lambda: Project.open(target), self._project_opened, self._fail, "open project"
            )
        else:
            self._load(target, lambda video: self._match(target, video))

    def open_sample(self) -> None:
        """Open the clip that comes with the program, from a copy in the user's own folder."""
        source = sample_clip()
        if source is None:
            self.failed.emit(tr("This installation has no sample clip."))
            return
        folder = Path(platformdirs.user_data_dir(APP_NAME, appauthor=False)) / "sample"
        target = folder / source.name
        try:
            if not target.exists() or target.stat().st_size != source.stat().st_size:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        except OSError as error:
            log.warning("the sample clip was not copied: %s", error)
            target = source
        self.open(str(target))

    def _is_open(self, target: Path) -> bool:
        project = self._document.project
        if project is None:
            return False
        absolute = target.resolve()
        return absolute in (project.path.resolve(), Path(project.video.path).resolve())

    def _load(
        self, path: Path, then: Callable[[OpenedVideo], None], on_fail: Callable[[str], None] | None = None
    ) -> None:
        self._then, self._on_fail = then, on_fail
        self._request = self._loader.open(str(path))

    def _video_opened(self, request: int, video: OpenedVideo) -> None:
        if request != self._request or self._then is None:
            video.engine_source.close()
            return
        then, self._then = self._then, None
        then(video)

    def _video_failed(self, request: int, text: str) -> None:
        if request != self._request:
            return
        on_fail = self._on_fail
        self._then = self._on_fail = None
        if on_fail is not None:
            on_fail(text)
            return
        self.busy_changed.emit(False)
        self.failed.emit(text)

    def _match(self, target: Path, video: OpenedVideo) -> None:
        """Find or make the project of a video that was opened by itself."""
        source = video.engine_source

        def work() -> Project:
            for path in projects_of(target):
                try:
                    project = Project.open(path)
                except ProjectError as error:
                    log.info("not the project of this video: %s", error)
                    continue
                if compare_video(project, source) is VideoMatch.SAME:
                    return project
                project.close()
            path = default_project_path(target)
            return Project.create(path, describe_video(source, path), video.timestamps_s)

        def fail(error: Exception) -> None:
            source.close()
            self._close_all()
            self._fail(error)

        self._background.run(work, lambda project: self._show(project, video), fail, "match project")

    def _project_opened(self, project: Project) -> None:
        self._pending = project
        where = find_video(project)
        if where is None:
            self.busy_changed.emit(False)
            self.video_missing.emit(project.video.path)
            return
        self._load(where, self._link, self._link_failed)

    def _link_failed(self, text: str) -> None:
        self.busy_changed.emit(False)
        self.failed.emit(text)
        if self._pending is not None:
            self.video_missing.emit(self._pending.video.path)

    def _link(self, video: OpenedVideo) -> None:
        """Put a project and its video together."""
        project = self._pending
        if project is None:
            video.engine_source.close()
            return
        source = video.engine_source
        match = compare_video(project, source)
        try:
            if match is VideoMatch.UNFIT:
                project.relink(describe_video(source, project.path), video.timestamps_s)  # says why it cannot
            described = describe_video(source, project.path)
            if described != project.video:
                project.relink(described, video.timestamps_s)
        except ProjectError as error:
            source.close()
            self.busy_changed.emit(False)
            self.failed.emit(str(error))
            self._drop_pending()
            self._close_all()
            return
        self._pending = None
        self._show(project, video)
        if match is VideoMatch.CHANGED:
            self.noticed.emit(tr("The video is not the one these masks were made on: check them."))

    # ---- moved videos ----------------------------------------------------------------------------------

    @property
    def is_waiting_for_video(self) -> bool:
        """True while a project waits for `relink` or `give_up`."""
        return self._pending is not None

    def relink(self, path: str) -> None:
        """Here is the video of the waiting (or of the open) project."""
        if self._pending is None:
            project = self._document.project
            if project is None:
                return
            target = project.path
            self.close()
            self.busy_changed.emit(True)

            def waiting(opened: Project) -> None:
                self._pending = opened
                self._load(Path(path), self._link, self._link_failed)

            self._background.run(lambda: Project.open(target), waiting, self._fail, "open project")
            return
        self.busy_changed.emit(True)
        self._load(Path(path), self._link, self._link_failed)

    def give_up(self) -> None:
        """The video is nowhere: close the waiting project."""
        self._drop_pending()

    def _drop_pending(self) -> None:
        if self._pending is not None:
            self._pending.close()
            self._pending = None

    # ---- showing and closing ---------------------------------------------------------------------------

    def _show(self, project: Project, video: OpenedVideo) -> None:
        self._engine.cancel_all()
        self._document.close()
        self._workspace.set_clip(video.timestamps_s, video.info.fps)
        self._engine.set_frames(video.engine_source, video.info.frame_count)
        self._document.set_project(project)
        self._settings.add_recent(str(project.path))
        try:
            frame = int(project.meta("frame", "0"))
        except ValueError:
            frame = 0
        self._workspace.go_to(frame)
        self.busy_changed.emit(False)

    def remember_place(self) -> None:
        """Keep the shown frame with the project."""
        project = self._document.project
        if project is None:
            return
        frame = str(self._workspace.frame)
        if project.meta("frame", "0") != frame:
            try:
                project.set_meta("frame", frame)
            except ProjectError as error:
                log.warning("the place was not kept: %s", error)

    def close(self) -> None:
        """Close the document and its video."""
        self.remember_place()
        self._drop_pending()
        self._close_all()

    def _close_all(self) -> None:
        self._engine.cancel_all()
        self._document.close()
        self._engine.set_frames(None)
        self._loader.close_video()
        self._workspace.set_clip(self._workspace.timestamps_s[:0], 0.0)

    def _fail(self, error: Exception) -> None:
        self.busy_changed.emit(False)
        self.failed.emit(sentence(error))
