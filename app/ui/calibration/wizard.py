"""The calibration wizard: clips, quality and size, run, report, use. Beside the window, never in its way."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable
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

from app.engine.calibration_job import CalibrationJob, Recipe, create_job
from app.engine.calibration_process import CalibrationProcess
from app.engine.engine import sentence
from app.ui.background import Background
from app.ui.calibration.charts import LossChart
from app.ui.calibration.clips_page import ClipsPage, ProjectClip
from app.ui.calibration.controller import CalibrationController, on_battery
from app.ui.calibration.jobs_list import JobsList
from app.ui.calibration.quality_page import QualityPage
from app.ui.calibration.report_files import ShownReport, read_report, write_report
from app.ui.calibration.report_page import ReportPage
from app.ui.i18n import duration_phrase, tr
from app.ui.sizes import open_at
from app.ui.theme import GRID
from qcore.models.install import import_model
from qcore.quant.clip_list import read_clip_list
from qcore.quant.clip_selection import ClipRequest
from qcore.quant.report import CalibrationReport

BATTERY_S = 20.0
CLIPS, QUALITY, RUN, REPORT = range(4)
TITLES = ("Clips", "Quality and size", "Run", "Report and use")


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


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
        has_project: bool = False,
    ) -> None:
        super().__init__(parent)
        self._controller = controller
        self._background = background
        self._requests: list[ClipRequest] = []
        self._estimator: CalibrationProcess | None = None
        self._estimated_for: object = None
        self._is_closed = False
        self._is_installing = False
        self._battery_checked = 0.0
        self._scratch = tempfile.TemporaryDirectory(prefix="qminisam2-")
        self.setWindowTitle(tr("Calibrate for my videos"))
        open_at(self, 820, 640)
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
        self.jobs = JobsList()
        for page in (self._clips_page(), self.quality, self._run_page(), self.report):
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
        self._has_project = has_project
        self.close_button = self._button(row, tr("Close"), self.close)
        self.next = self._button(row, tr("Next"), self._next)
        self.next.setProperty("primary", True)
        layout.addLayout(row)
        self.clips.changed.connect(self._show_page)
        controller.progressed.connect(self._progressed)
        controller.finished.connect(self._finished)
        controller.failed.connect(self._failed)
        controller.stopped.connect(self._stopped)
        controller.paused_changed.connect(self._paused_changed)
        self.report.keep_wanted.connect(self._run_again)
        self.report.export_wanted.connect(self._export)
        self.quality.changed.connect(self._estimate)
        self.quality.name_changed.connect(self._show_page)
        self.jobs.resumed.connect(self._resume)
        self.jobs.opened.connect(controller.show)
        self.jobs.discarded.connect(self._discard)
        if project is not None:
            self.clips.add_project(project)
        if controller.is_running:
            self.pages.setCurrentIndex(RUN)
        self.jobs.show_jobs(controller.waiting())
        self._show_page()

    def _clips_page(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID)
        column.addWidget(self.jobs)
        column.addWidget(self.clips, 1)
        return page

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
        self.next.setText(tr("Installing…") if self._is_installing else titles[page])
        self._set_primary(self.next, not (page == RUN and running))
        problem = self.quality.name_problem() if page == QUALITY else ""
        if page == QUALITY:
            self.message.setText(problem)
        self.next.setEnabled(
            not problem and not self._is_installing and (page != CLIPS or bool(self.clips.requests()))
        )

    @staticmethod
    def _set_primary(button: QPushButton, primary: bool) -> None:
        """Let the button stand out, or not: stopping is no step forward."""
        if button.property("primary") is not primary:
            button.setProperty("primary", primary)
            button.style().unpolish(button)
            button.style().polish(button)

    def _back(self) -> None:
        self.pages.setCurrentIndex(CLIPS if self.pages.currentIndex() == QUALITY else QUALITY)
        self.jobs.show_jobs(self._controller.waiting())
        self._show_page()

    def _next(self) -> None:
        page = self.pages.currentIndex()
        self.message.clear()
        if page == CLIPS:
            self._requests = self.clips.requests()
            self.pages.setCurrentIndex(QUALITY)
            self._estimate()
        elif page == QUALITY:
            self._begin()
        elif page == RUN and self._controller.is_running:
            self._controller.cancel()
        elif page == RUN and self._controller.job is not None:
            self._resume(self._controller.job)
        elif page == REPORT:
            self._use()
        self._show_page()

    def _estimate(self) -> None:
        """Measure a few steps of what is chosen, beside the window; what was measured before is over."""
        if self._controller.is_running:
            self.quality.estimate.setText(tr("Another calibration is running: let it end first."))
            return
        recipe = self.quality.recipe(self.clips.clips.value(), self.clips.frames.value())
        wanted = (dataclasses.replace(recipe, name=""), tuple(request.path for request in self._requests))
        if wanted == self._estimated_for:
            return
        self._estimated_for = wanted
        self._drop_estimator()
        try:
            job = create_job(Path(self._scratch.name), recipe, self._requests)
        except OSError as error:
            self.message.setText(sentence(error))
            return
        self.quality.estimate.setText(tr("Measuring how long it takes here…"))
        estimator = self._estimator = CalibrationProcess(self)
        estimator.told.connect(lambda event: self._estimated(estimator, event))
        estimator.ended.connect(lambda _ok: self._estimate_ended(estimator))
        estimator.start(job.arguments(estimate=True))

    def _drop_estimator(self) -> None:
        estimator, self._estimator = self._estimator, None
        if estimator is not None:
            estimator.abandon()

    def _estimated(self, estimator: CalibrationProcess, event: dict[str, Any]) -> None:
        if estimator is not self._estimator:
            return
        if event["event"] == "estimate":
            self.quality.show_estimate(float(event["seconds"]), int(event["memory_bytes"]))
            if "smallest_weight_bytes" in event:
                self.quality.set_sizes(
                    int(event["smallest_weight_bytes"]), int(event["largest_weight_bytes"])
                )
            free, needed = free_bytes(self._controller.root), int(event["disk_bytes"])
            if free < needed:
                text = tr("The disk is too full: {0} MB are needed, {1} MB are free.")
                self.message.setText(text.format(round(needed / 1e6), round(free / 1e6)))
        elif event["event"] == "error":
            self.quality.estimate.setText(str(event.get("message", "")))

    def _estimate_ended(self, estimator: CalibrationProcess) -> None:
        if estimator is self._estimator:
            self._estimator = None
        estimator.deleteLater()

    def closeEvent(self, event: QCloseEvent) -> None:
        """The calibration goes on; only measuring stops."""
        self._is_closed = True
        estimator, self._estimator = self._estimator, None
        if estimator is not None:
            estimator.kill()
        self._scratch.cleanup()
        super().closeEvent(event)

    def _begin(self) -> None:
        self._begin_with(self.quality.recipe(self.clips.clips.value(), self.clips.frames.value()))

    def _begin_with(self, recipe: Recipe) -> None:
        self._drop_estimator()
        self._estimated_for = None
        self._start_page()
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
        self.message.clear()
        self._battery_checked = 0.0
        self._check_battery()
        self.pages.setCurrentIndex(RUN)

    def _check_battery(self) -> None:
        """Say it when the laptop is on battery, and no longer when it is not; looked at now and then."""
        now, text = time.monotonic(), tr("This laptop is on battery: plug it in, or pause.")
        if now - self._battery_checked < BATTERY_S:
            return
        self._battery_checked = now
        if on_battery():
            self.message.setText(text)
        elif self.message.text() == text:
            self.message.clear()

    def _run_again(self, patterns: tuple[str, ...]) -> None:
        job = self._controller.job
        if job is not None:
            self._requests = read_clip_list(job.folder / "clips.json")
            self._begin_with(dataclasses.replace(job.recipe, keep=(*job.recipe.keep, *patterns)))

    def _discard(self, job: CalibrationJob) -> None:
        job.discard()
        self.jobs.show_jobs(self._controller.waiting())

    def _paused_changed(self, _paused: bool) -> None:
        self._show_page()

    def _pause(self) -> None:
        self._controller.set_paused(not self._controller.is_paused)

    # ---- what the work says ----------------------------------------------------------------------------

    def _progressed(self, event: dict[str, Any]) -> None:
        self._check_battery()
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
        def done(shown: ShownReport) -> None:
            self.report.show_report(shown)
            self.pages.setCurrentIndex(REPORT)
            self._show_page()

        self._background.run(
            lambda: read_report(job.report), self._while_open(done), self._while_open(self._problem), "report"
        )

    def _while_open(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """The same, but nothing once the wizard was closed."""
        return lambda value: None if self._is_closed else call(value)

    def _export(self, report: CalibrationReport, path: Path) -> None:
        def done(_none: None) -> None:
            self.message.setText(tr("The report is written to {0}.").format(path))

        self._background.run(
            lambda: write_report(report, path),
            self._while_open(done),
            self._while_open(self._problem),
            "export",
        )

    def _problem(self, error: Exception) -> None:
        self._failed(str(error) if isinstance(error, ValueError) else sentence(error))

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
        self._is_installing = True

        def failed(error: Exception) -> None:
            self._is_installing = False
            self._show_page()
            self._problem(error)

        def done(spec: Any) -> None:
            job.tidy()
            self.activated.emit(spec.id, self.own.isChecked())
            self.close()

        self._background.run(
            lambda: import_model(bundle), self._while_open(done), self._while_open(failed), "use model"
        )
