"""Everything of the window that asks: file choosers, settings, keys, models, relinking, about.

Asking is here, doing is in the controllers: none of these methods changes the document itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QPoint, Qt, QUrl
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QDialog, QFileDialog, QMessageBox

from app.clip_requests import request_of, request_of_file
from app.formats import FORMATS, ExportReport
from app.project.video_link import SUFFIX
from app.ui.calibration.clips_page import ProjectClip
from app.ui.calibration.wizard import CalibrationWizard
from app.ui.command_palette import CommandPalette
from app.ui.document_controller import VIDEO_SUFFIXES
from app.ui.export_dialog import ExportDialog
from app.ui.i18n import frame_count_phrase, masks_phrase, tr
from app.ui.keys_dialog import KeysDialog
from app.ui.model_menu import DEVICE, build_model_menu
from app.ui.models import model_choices
from app.ui.models_dialog import ModelsDialog
from app.ui.settings_dialog import SettingsDialog
from app.ui.toasts import Tone
from app.ui.transfer_controller import show_in_folder
from qcore import __version__

if TYPE_CHECKING:
    from app.ui.main_window import MainWindow


class WindowDialogs(QObject):
    """The questions of one main window."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._open: dict[str, QDialog] = {}
        self._palette: CommandPalette | None = None

    # ---- files -----------------------------------------------------------------------------------------

    def _folder(self) -> str:
        project = self._window.document.project
        if project is not None:
            return str(Path(project.video.path).parent)
        recent = self._window.settings.recent
        return str(Path(recent[0]).parent) if recent else str(Path.home())

    def choose_file(self) -> None:
        """Ask for a video or project and open it."""
        patterns = " ".join(f"*{suffix}" for suffix in (*VIDEO_SUFFIXES, SUFFIX))
        path, _ = QFileDialog.getOpenFileName(
            self._window,
            tr("Open a video or project"),
            self._folder(),
            f"{tr('Videos and projects')} ({patterns});;{tr('All files')} (*)",
        )
        if path:
            self._window.documents.open(path)

    def choose_folder(self) -> None:
        """Ask for a folder of frames and open it."""
        path = QFileDialog.getExistingDirectory(self._window, tr("Open a folder of frames"), self._folder())
        if path:
            self._window.documents.open(path)

    def relink(self) -> None:
        """Ask where the open project's video is."""
        project = self._window.document.project
        if project is not None:
            path = self._choose_video(project.video.path)
            if path:
                self._window.documents.relink(path)

    def ask_for_video(self, remembered: str) -> None:
        """A project's video is gone: ask for it, or give up."""
        box = QMessageBox(self._window)
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle(tr("Where is the video?"))
        box.setText(tr("“{0}” is not where it was.").format(Path(remembered).name))
        box.setInformativeText(tr("It was last seen at {0}. The annotations are safe.").format(remembered))
        find_file = box.addButton(tr("Find the file…"), QMessageBox.ButtonRole.AcceptRole)
        find_folder = box.addButton(tr("Find the folder…"), QMessageBox.ButtonRole.AcceptRole)
        box.addButton(tr("Not now"), QMessageBox.ButtonRole.RejectRole)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.setObjectName("relink")

        def answered() -> None:
            clicked = box.clickedButton()
            path = ""
            if clicked is find_file:
                path = self._choose_video(remembered)
            elif clicked is find_folder:
                path = QFileDialog.getExistingDirectory(
                    self._window, tr("Where are the frames?"), str(Path(remembered).parent)
                )
            if path:
                self._window.documents.relink(path)
            else:
                self._window.documents.give_up()

        box.finished.connect(lambda _result: answered())
        box.open()

    def _choose_video(self, remembered: str) -> str:
        name = Path(remembered).name
        path, _ = QFileDialog.getOpenFileName(
            self._window,
            tr("Where is “{0}”?").format(name),
            str(Path(remembered).parent),
            f"{name} ({name});;{tr('All files')} (*)",
        )
        return path

    # ---- windows of their own --------------------------------------------------------------------------

    def _show(self, name: str, dialog: QDialog) -> None:
        """Show a dialog beside the window, at most one of a kind."""
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.destroyed.connect(lambda: self._open.pop(name, None))
        self._open[name] = dialog
        dialog.show()

    def _raise(self, name: str) -> bool:
        dialog = self._open.get(name)
        if dialog is None:
            return False
        dialog.raise_()
        dialog.activateWindow()
        return True

    def show_settings(self, search: str = "") -> None:
        """The settings, narrowed to some words."""
        if not self._raise("settings"):
            dialog = SettingsDialog(self._window.settings, lambda _key: model_choices(), self._window)
            self._show("settings", dialog)
        shown = self._open["settings"]
        if search and isinstance(shown, SettingsDialog):
            shown.search.setText(search)

    def show_models(self) -> None:
        """Which models there are, and which one works."""
        if not self._raise("models"):
            dialog = ModelsDialog(self._window.models, self._window.model_choice, self._window)
            dialog.device = str(self._window.settings.value(DEVICE))
            dialog.settings_wanted.connect(lambda: self.show_settings(tr("Tracking")))
            self._show("models", dialog)

    @property
    def is_calibration_open(self) -> bool:
        """True while the wizard is there."""
        return "calibration" in self._open

    def show_calibration(self, closed: Path | None = None) -> None:
        """Make a small model of the user's own clips; without an open project from a closed one's file."""
        if self._raise("calibration"):
            return
        window = self._window
        project = window.document.project
        clip = None
        if project is not None:
            clip = ProjectClip(project.path, lambda: request_of(project))
        elif closed is not None:
            clip = ProjectClip(closed, lambda: request_of_file(closed))
        wizard = CalibrationWizard(
            window.calibration, window.background, clip, window, has_project=project is not None
        )
        wizard.activated.connect(self._use_model)
        self._show("calibration", wizard)

    def show_model_menu(self) -> None:
        """The switch of model and device, above the status bar's button."""
        window = self._window
        menu = build_model_menu(
            window, window.model_choice, window.settings, window.engine.model, window.document.is_open
        )
        menu.addAction(window.actions_table["model.manage"])
        menu.addAction(window.actions_table["model.calibrate"])
        menu.aboutToHide.connect(menu.deleteLater)
        button = window.status.model
        menu.popup(button.mapToGlobal(QPoint(0, -menu.sizeHint().height())))

    def _use_model(self, model_id: str, for_project: bool) -> None:
        choice = self._window.model_choice
        before = choice.current
        choice.choose(model_id, for_project)
        self._window.toasts.show(
            tr("{0} is the model now.").format(model_id), Tone.SUCCESS,
            tr("Back to {0}").format(before), choice.back,
        )  # fmt: skip

    def use_previous_model(self) -> None:
        """Work with the model before the present one again."""
        choice = self._window.model_choice
        if not choice.previous:
            self._window.toasts.show(tr("There is no other model that worked before this one."))
            return
        choice.back()
        self._window.toasts.show(tr("{0} is the model now.").format(choice.current), Tone.SUCCESS)

    def show_keys(self) -> None:
        """The cheat-sheet."""
        if not self._raise("keys"):
            self._show("keys", KeysDialog(self._window.actions_table, self._window))

    def show_palette(self) -> None:
        """Search actions."""
        if self._palette is None:
            self._palette = CommandPalette(self._window.actions_table, self._window)
        self._palette.open()

    def open_log_folder(self) -> None:
        """Show the log files in the file manager."""
        from app.ui.application import log_folder

        QDesktopServices.openUrl(QUrl.fromLocalFile(str(log_folder())))

    def show_about(self) -> None:
        """Name, version, licence."""
        box = QMessageBox(self._window)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.setWindowTitle(tr("About"))
        box.setIconPixmap(self._window.windowIcon().pixmap(64, 64))
        box.setText(f"<b>Q-MiniSAM2 Annotator</b> {__version__}")
        box.setInformativeText(
            tr("Annotate video with a SAM 2 that is quantized on your own clips.")
            + "\n\n"
            + tr("The program is Apache-2.0, the embedded model CC BY-NC-SA 4.0.")
            + "\n"
            + tr("SAM 2 is by Meta, Apache-2.0.")
        )
        box.open()

    # ---- import and export -----------------------------------------------------------------------------

    def choose_import(self) -> None:
        """Ask for annotations and bring them in."""
        if not self._window.document.is_open:
            return
        path, _ = QFileDialog.getOpenFileName(
            self._window,
            tr("Import annotations"),
            self._folder(),
            f"{tr('SA-V or COCO')} (*.json);;{tr('A PNG of a DAVIS folder')} (*.png);;{tr('All files')} (*)",
        )
        if path:
            chosen = Path(path)
            self._window.transfers.import_file(chosen.parent if chosen.suffix.lower() == ".png" else chosen)

    def show_export(self) -> None:
        """Ask what to write, and where."""
        project = self._window.document.project
        if project is None or self._raise("export"):
            return
        dialog = ExportDialog(
            project, self._window.background, self._window.workspace.selection,
            self._window.workspace.marks, self._window,
        )  # fmt: skip
        dialog.chosen.connect(self._window.transfers.export)
        self._window.document.closing.connect(dialog.close)
        self._show("export", dialog)

    def tell_exported(self, report: ExportReport) -> None:
        """Say what was written and what was lost."""
        title = FORMATS[report.format_id].title
        text = tr("{0}: {1} on {2} written to {3}.").format(
            title,
            masks_phrase(report.mask_count),
            frame_count_phrase(report.frame_count),
            report.path.name,
        )
        lost = " ".join(loss.text for loss in report.losses)
        self._window.toasts.show(
            f"{text} {lost}".strip(),
            Tone.WARNING if report.losses else Tone.SUCCESS,
            tr("Show"),
            lambda: show_in_folder(report.path),
        )

    def stop(self) -> None:
        """The window closes: nothing of this stays open."""
        for dialog in list(self._open.values()):
            dialog.close()
