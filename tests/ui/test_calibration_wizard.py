"""The calibration wizard: one real run on a tiny model, the rest against a process that plays its part."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_tracking import true_mask
from safetensors.torch import save_file
from shiboken6 import delete

from app.cli.remote import PRIORITY_VARIABLE
from app.engine import calibration_process
from app.engine.calibration_job import CalibrationJob, Recipe, create_job, waiting_jobs
from app.ui.background import Background
from app.ui.calibration.charts import UnitChart
from app.ui.calibration.clips_page import ClipsPage, ProjectClip
from app.ui.calibration.controller import CalibrationController
from app.ui.calibration.wizard import CLIPS, QUALITY, REPORT, RUN, CalibrationWizard
from qcore.masks import encode
from qcore.models.embedded import ARCH_METADATA_KEY, EmbeddedArch, build_embedded
from qcore.quant.clip_selection import AcceptedObject, ClipRequest
from qcore.quant.methods import METHODS
from qcore.quant.report import CalibrationReport, FrameScore, LayerQuality, ModelCost, PartCost

PLAY = """
import json, sys, pathlib
args = sys.argv[1:]
at = lambda name: pathlib.Path(args[args.index(name) + 1])
def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)
if "--estimate" in args:
    sizes = dict(smallest_weight_bytes=3_000_000, largest_weight_bytes=5_000_000)
    tell("estimate", seconds=90.0, memory_bytes=800_000_000, disk_bytes=DISK, **sizes)
    sys.exit()
folder = at("--out").parent
for i in range(4):
    facts = dict(module=f"u{i}", unit=i + 1, units=4, done=i / 4, loss=1.0, eta_s=2.0)
    tell("progress", stage="reconstruct", **facts)
    if i == 1 and not (folder / "kept").exists():
        word = sys.stdin.readline().strip()
        while word == "pause":
            tell("paused")
            word = sys.stdin.readline().strip()
        if word in ("stop", ""):
            (folder / "kept").write_text("one unit")
            tell("stopped", message="")
            sys.exit(1)
at("--out").write_bytes(b"bundle")
at("--report-json").write_text(REPORT)
tell("result", bundle=str(at("--out")))
"""


def a_report() -> CalibrationReport:
    return CalibrationReport(
        "mine", "q-minisam2", "w6a6", 100, 0, (("a.mp4@0", 20),), (FrameScore("a.mp4@0", 3, 0.9, 0.95),),
        True, (), (), ModelCost("original", "fp16", 11_000_000, 80.0, 700.0),
        ModelCost("quantized", "w6a6", 5_000_000, 60.0, 600.0), (LayerQuality("neck", 6, 6, 30.0, 25.0),),
        (PartCost("mask decoder", ("sam_mask_decoder.*",), 0.4, 90_000),), (("u0", 2.0, 1.0),),
        0.93, 0.91, 60.0,
    )  # fmt: skip


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the process a script that says what the real one would."""

    def make(disk_bytes: int = 1) -> None:
        script = tmp_path / "play.py"
        report = json.dumps(a_report().to_json())
        script.write_text(PLAY.replace("DISK", str(disk_bytes)).replace("REPORT", repr(report)))
        monkeypatch.setattr(
            calibration_process, "own_command", lambda *args: [sys.executable, str(script), *args]
        )

    make()
    return make


@pytest.fixture
def wizard(qtbot: Any, tmp_path: Path) -> Any:
    background = Background()
    controller = CalibrationController(tmp_path / "calibrations")
    opened: list[CalibrationWizard] = []

    def make(project: ProjectClip | None = None) -> CalibrationWizard:
        found = CalibrationWizard(controller, background, project)
        qtbot.addWidget(found)
        found.show()
        opened.append(found)
        return found

    yield make
    for one in opened:
        one.close()
    controller.shutdown()
    background.shutdown()


def to_quality(wizard: CalibrationWizard, qtbot: Any, clip: Path) -> None:
    wizard.clips.add_paths([str(clip)])
    qtbot.waitUntil(wizard.next.isEnabled)
    wizard.next.click()
    assert wizard.pages.currentIndex() == QUALITY
    qtbot.waitUntil(lambda: "GB" in wizard.quality.estimate.text(), timeout=20_000)


def at_unit_two(wizard: CalibrationWizard, qtbot: Any) -> None:
    wizard.next.click()
    qtbot.waitUntil(lambda: "part 2 of 4" in wizard.stage.text(), timeout=20_000)
    assert wizard.pages.currentIndex() == RUN


def test_a_wizard_that_is_gone_before_its_clip_was_looked_at(qtbot: Any, clip: Path) -> None:
    background = Background()
    page = ClipsPage(background)
    may_look = threading.Event()

    def load() -> ClipRequest:
        may_look.wait(10)
        return ClipRequest(clip)

    with qtbot.captureExceptions() as errors:
        page.add_project(ProjectClip(clip, load))
        delete(page)
        may_look.set()
        qtbot.waitUntil(lambda: not background.is_busy)
        qtbot.wait(50)
    assert not errors
    background.shutdown()


def test_a_bad_clip_is_left_out_and_a_small_set_is_called_small(
    qtbot: Any, wizard: Any, play: Any, clip: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    found = wizard()
    assert not found.next.isEnabled()
    found.clips.add_paths([str(bad)])
    qtbot.waitUntil(lambda: "Left out" in found.clips.list.item(0).text())
    assert not found.next.isEnabled()
    found.clips.add_paths([str(clip)])
    qtbot.waitUntil(found.next.isEnabled)
    assert [r.path for r in found.clips.requests()] == [clip]
    found.clips.clips.setValue(1)
    assert "8 clips of 20 are better" in found.clips.note.text()


def test_the_projects_own_masks_are_read_beside_the_window(
    qtbot: Any, wizard: Any, play: Any, clip: Path
) -> None:
    threads: list[str] = []
    masks = AcceptedObject("dog", {3: encode(true_mask(0, 3)), 5: encode(true_mask(0, 5))})

    def load() -> ClipRequest:
        threads.append(threading.current_thread().name)
        return ClipRequest(clip, ((3, (1.0, 1.0, 9.0, 9.0)),), (masks,))

    found = wizard(ProjectClip(clip, load))
    qtbot.waitUntil(found.next.isEnabled)
    assert threads == ["calibration clip"]
    text = found.clips.list.item(0).text()
    assert text.endswith("1 own object, 2 accepted masks to measure against")
    assert found.clips.requests()[0].accepted == (masks,)
    closed = wizard(ProjectClip(clip, lambda: 1 / 0))
    qtbot.waitUntil(lambda: "Left out" in closed.clips.list.item(0).text())
    assert not closed.next.isEnabled()


def test_pause_and_go_on_then_the_report_offers_to_spare_what_hurts(
    qtbot: Any, wizard: Any, play: Any, clip: Path, tmp_path: Path
) -> None:
    found = wizard()
    to_quality(found, qtbot, clip)
    at_unit_two(found, qtbot)
    found.pause.click()
    assert found.pause.text() == "Go on"
    found.pause.click()
    qtbot.waitUntil(lambda: found.pages.currentIndex() == REPORT, timeout=20_000)
    assert found.report.verdict.text() == a_report().verdict()
    for name, start in (("r.html", b"<!DOCTYPE html>"), ("r.pdf", b"%PDF")):
        found.report.export_wanted.emit(a_report(), tmp_path / name)
        qtbot.waitUntil(lambda n=name: n in found.message.text(), timeout=20_000)
        assert (tmp_path / name).read_bytes().startswith(start)
    found.report.export_wanted.emit(a_report(), tmp_path / "no folder" / "r.pdf")
    qtbot.waitUntil(lambda: "No such file" in found.message.text(), timeout=20_000)
    # agreement, layers and losses are pictures in the PDF
    assert (tmp_path / "r.pdf").read_bytes().count(b"/Subtype /Image") == 3
    assert (
        '<td>u0</td><td class="n">2</td><td class="n">1</td><td class="n">-50 %</td>'
        in (tmp_path / "r.html").read_text()
    )
    chart = found.report.findChild(UnitChart)
    assert chart.text_of(chart.unit_at(chart.width() / 2)) == "u0: 2 rounded to nearest, 1 fitted (-50 %)"
    before = found._controller.job.recipe
    found.quality.name.setText("another")  # the choices of the other page are not this model's
    found.report.keep_wanted.emit(("sam_mask_decoder.*",))
    assert found._controller.job.recipe == replace(before, keep=("sam_mask_decoder.*",))
    assert "sam_mask_decoder.*" in found._controller.job.arguments()


def test_a_stopped_calibration_goes_on_in_another_session(
    qtbot: Any, wizard: Any, play: Any, clip: Path
) -> None:
    found = wizard()
    to_quality(found, qtbot, clip)
    at_unit_two(found, qtbot)
    found.next.click()
    qtbot.waitUntil(lambda: "Stopped" in found.message.text(), timeout=20_000)
    found.close()
    again = wizard()
    assert again.pages.currentIndex() == CLIPS
    (go_on,) = again.jobs.buttons.values()
    assert go_on.text() == "Go on"
    go_on.click()
    qtbot.waitUntil(lambda: again.pages.currentIndex() == REPORT, timeout=20_000)
    assert not again._controller.unfinished()
    again.close()
    # closed without using it: the report is still to be had, and goes away with the folder
    third = wizard()
    (show,) = third.jobs.buttons.values()
    assert show.text() == "Show the report"
    show.click()
    qtbot.waitUntil(lambda: third.pages.currentIndex() == REPORT, timeout=20_000)
    (job,) = third._controller.waiting()
    third.jobs.discarded.emit(job)
    assert not job.folder.exists() and not third._controller.waiting()


def test_closing_the_window_ends_the_process_and_keeps_its_work(
    qtbot: Any, wizard: Any, play: Any, clip: Path
) -> None:
    found = wizard()
    to_quality(found, qtbot, clip)
    at_unit_two(found, qtbot)
    found._controller.shutdown()
    assert not found._controller.is_running
    assert len(found._controller.unfinished()) == 1


def test_a_process_that_is_killed_goes_on_where_it_was(
    qtbot: Any, wizard: Any, play: Any, clip: Path
) -> None:
    found = wizard()
    to_quality(found, qtbot, clip)
    at_unit_two(found, qtbot)
    job = found._controller.job
    (job.folder / "kept").write_text("one unit")
    os.kill(found._controller._process._process.processId(), signal.SIGKILL)
    qtbot.waitUntil(lambda: "ended from outside" in found.message.text(), timeout=20_000)
    assert found.next.text() == "Try again" and found._controller.unfinished() == [job]
    found.next.click()
    qtbot.waitUntil(lambda: found.pages.currentIndex() == REPORT, timeout=20_000)
    assert found._controller.job == job


def test_the_estimate_is_made_anew_when_the_clips_or_the_choices_change(
    qtbot: Any, wizard: Any, play: Any, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    start = calibration_process.CalibrationProcess.start
    monkeypatch.setattr(
        calibration_process.CalibrationProcess,
        "start",
        lambda self, args: (started.append(args), start(self, args))[1],
    )
    found = wizard()
    to_quality(found, qtbot, clip)
    found.back.click()
    found.next.click()
    assert len(started) == 1  # nothing changed: what was measured still holds
    found.back.click()
    found.clips.frames.setValue(7)
    found.next.click()
    found.quality.bits.setCurrentIndex(found.quality.bits.findData("auto"))
    assert len(started) == 3 and started[1][8:10] == ["--frames-per-clip", "7"]
    qtbot.waitUntil(lambda: "of memory" in found.quality.estimate.text(), timeout=20_000)
    # the process said what the slider can choose from
    found.quality.largest.setValue(found.quality.largest.maximum() // 4)
    assert found.quality.size_text.text() == "3.5 MB (3.0 at 4 bits, 5.0 at 8)"
    recipe = found.quality.recipe(8, 7)
    assert (recipe.bits, recipe.budget_mb) == ("auto", 3.5)


def test_a_name_that_cannot_be_used_is_said_before_the_work(
    qtbot: Any, wizard: Any, play: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMINISAM2_MODELS_DIR", str(tmp_path))
    (tmp_path / "my-videos.safetensors").write_bytes(b"taken")
    found = wizard()
    to_quality(found, qtbot, clip)
    assert found.quality.name.text() == "my-videos-2" and found.next.isEnabled()
    for name, words in (("my-videos", "already"), ("../x", "starts with"), (" ", "needs a name")):
        found.quality.name.setText(name)
        assert words in found.message.text() and not found.next.isEnabled()
    found.quality.name.setText("dogs")
    assert found.message.text() == "" and found.next.isEnabled()


def test_methods_are_under_advanced_with_a_line_each(qtbot: Any, wizard: Any, play: Any, clip: Path) -> None:
    found = wizard()
    to_quality(found, qtbot, clip)
    assert not found.quality.method.isVisible()
    found.quality.advanced.click()
    assert found.quality.method.isVisible()
    assert {found.quality.method.itemData(i) for i in range(found.quality.method.count())} <= set(METHODS)
    lines = set()
    for i in range(found.quality.method.count()):
        found.quality.method.setCurrentIndex(i)
        lines.add(found.quality.method_line.text())
    assert len(lines) == found.quality.method.count() and "" not in lines


def test_a_battery_is_said_while_it_lasts(
    qtbot: Any, wizard: Any, play: Any, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = [True]
    monkeypatch.setattr("app.ui.calibration.wizard.on_battery", lambda: on[0])
    monkeypatch.setattr("app.ui.calibration.wizard.BATTERY_S", 0.0)
    found = wizard()
    to_quality(found, qtbot, clip)
    at_unit_two(found, qtbot)
    assert "on battery" in found.message.text()
    on[0] = False
    found.pause.click()
    found.pause.click()
    qtbot.waitUntil(lambda: found.pages.currentIndex() == REPORT, timeout=20_000)
    assert "on battery" not in found.message.text()


def test_no_space_is_said_before_the_start(qtbot: Any, wizard: Any, play: Any, clip: Path) -> None:
    play(1 << 60)
    found = wizard()
    to_quality(found, qtbot, clip)
    assert "too full" in found.message.text()


def test_unreadable_folders_are_skipped(tmp_path: Path) -> None:
    job = create_job(tmp_path, Recipe("../my name"), [])
    assert job.folder.parent == tmp_path
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "job.json").write_text('{"name": 1, "odd": 2}')
    assert waiting_jobs(tmp_path) == [job]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_calibration_of_a_tiny_model_ends_in_the_model_list(
    qtbot: Any, wizard: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMINISAM2_MODELS_DIR", str(tmp_path / "models"))
    # behind the other tests of a busy machine it would not get its turn
    monkeypatch.setenv(PRIORITY_VARIABLE, "1")
    torch.manual_seed(0)
    arch = EmbeddedArch(
        input_size=64, d_model=32, mem_dim=32, memory_layers=1, ffn_dim=64, num_maskmem=3, fuser_layers=1
    )
    model = tmp_path / "tiny.safetensors"
    save_file(build_embedded(arch).state_dict(), model, metadata={ARCH_METADATA_KEY: arch.to_json()})
    found = wizard()
    found._controller.begin(
        Recipe("tiny-w6", str(model), method="minmax", clip_count=1, frames_per_clip=3), [ClipRequest(clip)]
    )
    found._start_page()
    qtbot.waitUntil(lambda: not found._controller.is_running, timeout=500_000)
    qtbot.waitUntil(lambda: found.pages.currentIndex() == REPORT, timeout=20_000)
    job: CalibrationJob = found._controller.job
    assert json.loads(job.report.read_text())["after"]["frame_ms"] > 0
    bundle = job.bundle.read_bytes()  # the job's folder goes once its model is installed
    with qtbot.waitSignal(found.activated, timeout=20_000) as signal:
        found.next.click()
    assert signal.args == ["tiny-w6", False]
    assert (tmp_path / "models" / "tiny-w6.safetensors").read_bytes() == bundle
