"""The switch behind the status bar's model: models, device, for this project or for all, and the way back."""

from __future__ import annotations

from PySide6.QtGui import QActionGroup
from PySide6.QtWidgets import QMenu, QWidget

from app.engine.records import ModelState
from app.ui import icons
from app.ui.i18n import tr
from app.ui.model_choice import ModelChoice
from app.ui.models import precision_phrase
from app.ui.settings import SCHEMA, Settings
from qcore.models.registry import model_statuses

DEVICE = "tracking.device"


def build_model_menu(
    parent: QWidget, choice: ModelChoice, settings: Settings, state: ModelState, has_project: bool
) -> QMenu:
    """A menu as things are now; it is made anew each time."""
    menu = QMenu(parent)
    menu.setToolTipsVisible(True)
    models = QActionGroup(menu)
    for row in model_statuses():
        if not row.installed:
            continue
        size = "" if row.size_bytes is None else f", {row.size_bytes / 1e6:.0f} MB"
        action = menu.addAction(f"{row.title}, {precision_phrase(row.precision)}{size}")
        action.setObjectName(f"model:{row.id}")
        action.setToolTip(row.licence)
        action.setCheckable(True)
        action.setChecked(row.id == choice.current)
        action.triggered.connect(lambda _on=False, i=row.id: choice.choose(i))
        models.addAction(action)
    menu.addSeparator()
    previous = choice.previous
    if previous:
        back = menu.addAction(icons.icon("undo"), tr("Back to {0}").format(previous))
        back.setObjectName("back")
        back.triggered.connect(lambda _on=False: choice.back())
    own = menu.addAction(tr("Only in this project"))
    own.setObjectName("own")
    own.setCheckable(True)
    own.setChecked(bool(choice.project_model))
    own.setEnabled(has_project)
    own.setToolTip(tr("Other projects keep the model of the settings"))
    own.triggered.connect(choice.set_for_project)
    menu.addSeparator()
    devices = menu.addMenu(icons.icon("device"), tr("Device"))
    group = QActionGroup(devices)
    (schema,) = (setting for setting in SCHEMA if setting.key == DEVICE)
    for value, title in schema.choices:
        if value != "auto" and state.devices and value not in state.devices:
            continue
        action = devices.addAction(tr(title))
        action.setCheckable(True)
        action.setChecked(value == settings.value(DEVICE))
        action.triggered.connect(lambda _on=False, v=value: settings.set(DEVICE, v))
        group.addAction(action)
    return menu
