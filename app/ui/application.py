"""Starts the program: application object, log, theme, window."""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import sys
import threading
from pathlib import Path
from types import TracebackType

import platformdirs
from PySide6.QtCore import QLibraryInfo, QLocale, QTimer, QTranslator
from PySide6.QtWidgets import QApplication

from app.ui import icons, theme
from app.ui.main_window import MainWindow
from app.ui.settings import APP_NAME, Settings
from qcore import __version__

log = logging.getLogger(__name__)


def log_folder() -> Path:
    """Where the log files lie."""
    return Path(platformdirs.user_log_dir(APP_NAME, appauthor=False))


def run(path: str | None = None) -> int:
    """Show the window until it is closed; ``path`` is a video, a frame folder or a project to open."""
    _start_log()
    app = QApplication.instance()
    if not isinstance(app, QApplication):
        app = QApplication(sys.argv[:1])
    app.setApplicationName("Q-MiniSAM2 Annotator")
    app.setApplicationVersion(__version__)
    app.setOrganizationName(APP_NAME)
    app.setDesktopFileName("qminisam2")
    app.setWindowIcon(icons.app_icon())
    _install_translation(app)
    settings = Settings()
    theme.manager().install(app, theme.ThemeMode(settings.value("appearance.theme")))
    window = MainWindow(settings)
    window.show()
    # the first picture of the window comes before torch is imported on the engine's thread
    QTimer.singleShot(0, lambda: window.start(path))
    code = app.exec()
    log.info("ended with %d", code)
    return code


def _install_translation(app: QApplication) -> None:
    locale = QLocale()
    folder = QLibraryInfo.path(QLibraryInfo.LibraryPath.TranslationsPath)
    for name, place in (("qtbase", folder), (APP_NAME, str(Path(__file__).parent / "translations"))):
        translator = QTranslator(app)
        if translator.load(locale, name, "_", place):
            app.installTranslator(translator)


def _start_log() -> None:
    root = logging.getLogger()
    if any(isinstance(handler, logging.handlers.RotatingFileHandler) for handler in root.handlers):
        return
    try:
        log_folder().mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = logging.handlers.RotatingFileHandler(
            log_folder() / "qminisam2.log", maxBytes=1 << 20, backupCount=3, encoding="utf-8"
        )
    except OSError:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    sys.excepthook = _log_exception
    threading.excepthook = _log_thread_exception
    if sys.stderr is not None:
        faulthandler.enable()
    log.info("Q-MiniSAM2 Annotator %s", __version__)


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("an error nobody handled", exc_info=(kind, error, trace))
    sys.__excepthook__(kind, error, trace)


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        log.critical("an error nobody handled in a thread", exc_info=args.exc_value)
