"""Which model works: the open project's own where it has one, else the setting; and the way back."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from app.project.errors import ProjectError
from app.ui.document import Document
from app.ui.i18n import tr
from app.ui.settings import Settings
from qcore.models.errors import ModelError
from qcore.models.registry import installed_path, model_spec

MODEL = "tracking.model"
_META = "model"
"""Where a project keeps the id of its own model."""
_PREVIOUS = "previous_model"


def is_installed(model_id: str) -> bool:
    """True when the model can be loaded."""
    try:
        return installed_path(model_spec(model_id)) is not None
    except ModelError:
        return False


class ModelChoice(QObject):
    """One answer to "which model?", and one place to change it."""

    changed = Signal(str)
    """Id of the model to load."""
    noticed = Signal(str)
    failed = Signal(str)

    def __init__(self, settings: Settings, document: Document, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        self._document = document
        self._known = self.current
        settings.changed.connect(lambda key, _value: self._announce() if key == MODEL else None)
        document.opened.connect(self._opened)
        document.closed.connect(self._announce)

    @property
    def current(self) -> str:
        """The model that should work now."""
        own = self.project_model
        return own if own and is_installed(own) else str(self._settings.value(MODEL))

    @property
    def project_model(self) -> str:
        """The open project's own model, installed or not; empty without one."""
        project = self._document.project
        return "" if project is None else project.meta(_META)

    @property
    def previous(self) -> str:
        """The model that worked before the present one, if it is still there; else empty."""
        known = self._settings.window_state(_PREVIOUS)
        return known if known != self.current and is_installed(known) else ""

    def choose(self, model_id: str, for_project: bool | None = None) -> None:
        """Work with a model.

        Args:
            model_id: an installed model.
            for_project: True for the open project alone, False for all without a model of their own; None
                leaves that as it is.
        """
        if for_project is None:
            for_project = bool(self.project_model)
        if for_project and self._document.is_open:
            self._keep(model_id)
        else:
            if self.project_model:
                self._keep("")
            self._settings.set(MODEL, model_id)
        self._announce()

    def set_for_project(self, own: bool) -> None:
        """Give the open project the present model as its own, or let it follow the setting again."""
        if self._document.is_open:
            self._keep(self.current if own else "")
            self._announce()

    def back(self) -> None:
        """Work with the previous model again."""
        previous = self.previous
        if not previous:
            return
        if self.project_model and previous == self._settings.value(MODEL):
            self._keep("")  # the project follows the setting again, as it did before
            self._announce()
        else:
            self.choose(previous)

    def _keep(self, model_id: str) -> None:
        project = self._document.project
        if project is None or project.meta(_META) == model_id:
            return
        try:
            project.set_meta(_META, model_id)
        except ProjectError as error:
            self.failed.emit(str(error))

    def _opened(self) -> None:
        own = self.project_model
        if own and not is_installed(own):
            text = tr("This project's own model “{0}” is not installed here: {1} works instead.")
            self.noticed.emit(text.format(own, self.current))
        self._announce()

    def _announce(self) -> None:
        current = self.current
        if current != self._known:
            self._settings.set_window_state(_PREVIOUS, self._known)
            self._known = current
            self.changed.emit(current)
