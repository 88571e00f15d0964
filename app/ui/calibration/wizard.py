"""The calibration wizard: clips, quality and size, run, report, use. Beside the window, never in its way."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.engine.calibration_job import CalibrationJob, create_job
from app.engine.calibration_process import CalibrationProcess
from app.engine.engine import sentence
from app.ui.background import Background
from app.ui.calibration.charts import LossChart
from app.ui.calibration.clips_page import ClipsPage, ProjectClip
from app.ui.calibration.controller import CalibrationController, on_battery
from app.ui.calibration.quality_page import QualityPage
from app.ui.calibration.report_page import ReportPage
from app.ui.i18n import duration_phrase, tr
from app.ui.theme import GRID
from qcore.models.install import import_model
from qcore.quant.clip_list import read_clip_list
from qcore.quant.clip_selection import ClipRequest
from qcore.quant.report import CalibrationReport

CLIPS, QUALITY, RUN, REPORT = range(4)
TITLES = ("Clips", "Quality and size", "Run", "Report and use")


class CalibrationWizard(QDialog):
    """Four pages and the way between them."""

    activated = Signal(str, bool)
    """The id of the new model, which the user wants to use; True: in the open project alone."""

    def __init__(
        self,
        controller: CalibrationController,
        background: Background,
        project: ProjectClip | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._controller = controller
        self._background = background
        self._requests: list[ClipRequest] = []
        self._estimator: CalibrationProcess | None = None
        self._estimate_again = False
        self._scratch = tempfile.TemporaryDirectory(prefix="qminisam2-")
        self.setWindowTitle(tr("Calibrate for my videos"))
        self.resize(820, 640)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2 * GRID, 2 * GRID, 2 * GRID, 2 * GRID)
        layout.setSpacing(2 * GRID)
        self.heading = QLabel()
        self.heading.setTextFormat(Qt.TextFormat.RichText)
        layout.addWidget(self.heading)
        self.clips = ClipsPage(background)
        self.quality = QualityPage()
        self.report = ReportPage()
        self.pages = QStackedWidget()
        for page in (self.clips, self.quality, self._run_page(), self.report):
            self.pages.addWidget(page)
        layout.addWidget(self.pages, 1)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setProperty("warning", True)
        layout.addWidget(self.message)
        row = QHBoxLayout()
        self.back = self._button(row, tr("Back"), self._back)
        self.pause = self._button(row, tr("Pause"), self._pause)
        self.export = self._button(row, tr("Export…"), self.report.export)
        row.addStretch(1)
        self.own = QCheckBox(tr("Only in this project"))
        self.own.setToolTip(tr("Other projects keep the model of the settings"))
        row.addWidget(self.own)
        self._has_project = project is not None
        self.close_button = self._button(row, tr("Close"), self.close)
        self.next = self._button(row, tr("Next"), self._next)
        self.next.setProperty("primary", True)
        layout.addLayout(row)
        self.clips.changed.connect(self._show_page)
        controller.progressed.connect(self._progressed)
        controller.finished.connect(self._finished)
        controller.failed.connect(self._failed)
        controller.stopped.connect(self._stopped)
        controller.paused_changed.connect(lambda _p: self._show_page())
        self.report.keep_wanted.connect(self._run_again)
        for box in (self.quality.bits, self.quality.budget, self.quality.method, self.quality.model):
            box.currentIndexChanged.connect(lambda _i: self._estimate())
        if project is not None:
            self.clips.add_project(project)
        waiting = [] if controller.is_running else controller.unfinished()
        if controller.is_running:
            self.pages.setCurrentIndex(RUN)
        elif waiting:
            self.resume = self._button(row, tr("Go on with “{0}”").format(waiting[0].recipe.name),
                                       lambda: self._resume(waiting[0]))  # fmt: skip
        self._show_page()

    def _run_page(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        self.stage = QLabel(tr("Starting…"))
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.left = QLabel()
        self.left.setProperty("muted", True)
        self.chart = LossChart()
        for widget in (self.stage, self.bar, self.left):
            column.addWidget(widget)
        column.addWidget(self.chart, 1)
        hint = QLabel(tr("You can close this and go on annotating; the task strip shows how far it is."))
        hint.setProperty("muted", True)
        column.addWidget(hint)
        return page

    def _button(self, row: QHBoxLayout, title: str, slot: Any) -> QPushButton:
        button = QPushButton(title)
        button.setAutoDefault(False)
        button.clicked.connect(lambda _=False: slot())
        row.addWidget(button)
        return button

    # ---- the way ---------------------------------------------------------------------------------------

    def _show_page(self) -> None:
        page, running = self.pages.currentIndex(), self._controller.is_running
        steps = [
            f"<b>{i + 1}  {tr(t)}</b>" if i == page else f"{i + 1}  {tr(t)}" for i, t in enumerate(TITLES)
        ]
        self.heading.setText("&nbsp;&nbsp;›&nbsp;&nbsp;".join(steps))
        self.back.setVisible(page == QUALITY or (page == RUN and not running))
        self.pause.setVisible(page == RUN and running)
        self.pause.setText(tr("Go on") if self._controller.is_paused else tr("Pause"))
        self.export.setVisible(page == REPORT)
        self.own.setVisible(page == REPORT and self._has_project)
        titles = (
            tr("Next"),
            tr("Calibrate"),
            tr("Stop") if running else tr("Try again"),
            tr("Use this model"),
        )
        self.next.setText(titles[page])
        self.next.setEnabled(page != CLIPS or bool(self.clips.requests()))

    def _back(self) -> None:
        self.pages.setCurrentIndex(CLIPS if self.pages.currentIndex() == QUALITY else QUALITY)
        self._show_page()

    def _next(self) -> None:
        page = self.pages.currentIndex()
        self.message.clear()
        if page == CLIPS:
            self._requests = self.clips.requests()
            self.pages.setCurrentIndex(QUALITY)
            self._estimate()
        elif page == QUALITY:
            self._begin(())
        elif page == RUN and self._controller.is_running:
            self._controller.cancel()
        elif page == RUN and self._controller.job is not None:
            self._resume(self._controller.job)
        elif page == REPORT:
            self._use()
        self._show_page()

    def _estimate(self) -> None:
        """Measure a few steps of what is chosen, beside the window."""
        if self._estimator is not None or self._controller.is_running:
            self._estimate_again = True
            return
        self._estimate_again = False
        recipe = self.quality.recipe(self.clips.clips.value(), self.clips.frames.value())
        try:
            job = create_job(Path(self._scratch.name), recipe, self._requests)
        except OSError as error:
            self.message.setText(sentence(error))
            return
        self.quality.estimate.setText(tr("Measuring how long it takes here…"))
        estimator = self._estimator = CalibrationProcess(self)
        estimator.told.connect(self._estimated)
        estimator.ended.connect(lambda _ok: self._estimate_ended())
        estimator.start(job.arguments(estimate=True))

    def _estimated(self, event: dict[str, Any]) -> None:
        if event["event"] == "estimate":
            self.quality.show_estimate(float(event["seconds"]), int(event["memory_bytes"]))
            free, needed = shutil.disk_usage(self._scratch.name).free, int(event["disk_bytes"])
            if free < needed:
                text = tr("The disk is too full: {0} MB are needed, {1} MB are free.")
                self.message.setText(text.format(round(needed / 1e6), round(free / 1e6)))
        elif event["event"] == "error":
            self.quality.estimate.setText(str(event.get("message", "")))

    def _estimate_ended(self) -> None:
        if self._estimator is not None:
            self._estimator.deleteLater()
            self._estimator = None
        if self._estimate_again and self.pages.currentIndex() == QUALITY:
            self._estimate()

    def closeEvent(self, event: QCloseEvent) -> None:
        """The calibration goes on; only measuring stops."""
        self._estimate_again = False
        if self._estimator is not None:
            self._estimator.kill()
        self._scratch.cleanup()
        super().closeEvent(event)

    def _begin(self, keep: tuple[str, ...]) -> None:
        self._start_page()
        recipe = self.quality.recipe(self.clips.clips.value(), self.clips.frames.value(), keep)
        self._controller.begin(recipe, self._requests)
        self._show_page()

    def _resume(self, job: CalibrationJob) -> None:
        self._start_page()
        self._controller.resume(job)
        self._show_page()

    def _start_page(self) -> None:
        self.chart.clear()
        self.bar.setValue(0)
        self.stage.setText(tr("Starting…"))
        self.message.setText(tr("This laptop is on battery: plug it in, or pause.") if on_battery() else "")
        self.pages.setCurrentIndex(RUN)

    def _run_again(self, patterns: tuple[str, ...]) -> None:
        job = self._controller.job
        if job is not None:
            self._requests = read_clip_list(job.folder / "clips.json")
            self._begin((*job.recipe.keep, *patterns))

    def _pause(self) -> None:
        self._controller.set_paused(not self._controller.is_paused)

    # ---- what the work says ----------------------------------------------------------------------------

    def _progressed(self, event: dict[str, Any]) -> None:
        stage = {
            "observe": tr("Watching the model on your clips"), "reconstruct": tr("Fitting"),
            "compare": tr("Comparing with the original"), "parts": tr("Finding what hurts"),
            "speed": tr("Measuring speed and memory"),
        }.get(str(event["stage"]), tr("Preparing"))  # fmt: skip
        if event["units"]:
            stage = tr("{0}: part {1} of {2}, {3}").format(
                stage, event["unit"], event["units"], event["module"]
            )
        self.stage.setText(stage)
        self.bar.setValue(round(1000 * event["done"]))
        eta_s = event.get("eta_s")
        self.left.setText("" if eta_s is None else tr("{0} left").format(duration_phrase(eta_s)))
        if event.get("loss") is not None:
            self.chart.add(str(event["module"]), float(event["loss"]))

    def _finished(self, job: CalibrationJob) -> None:
        try:
            value = json.loads(job.report.read_text(encoding="utf-8"))
            self.report.show_report(CalibrationReport.from_json(value))
        except (OSError, ValueError) as error:
            self._failed(sentence(error))
            return
        self.pages.setCurrentIndex(REPORT)
        self._show_page()

    def _failed(self, text: str) -> None:
        self.message.setText(text)
        self._show_page()

    def _stopped(self) -> None:
        self.message.setText(tr("Stopped. What is finished is kept: try again goes on from there."))
        self._show_page()

    def _use(self) -> None:
        job = self._controller.job
        if job is None:
            return
        bundle: Path = job.bundle
        self.next.setEnabled(False)

        def done(spec: Any) -> None:
            self.activated.emit(spec.id, self.own.isChecked())
            self.close()

        def failed(error: Exception) -> None:
            self._failed(sentence(error))

        self._background.run(lambda: import_model(bundle), done, failed, "use model")
