"""Measures the window as a user meets it: opening a clip, a prompt's way to its mask, memory while tracking.

    python tests/benchmarks/window.py CLIP --box X0 Y0 X1 Y1 [--box ...] [--minutes M] [--track-seconds S]
                                      [--feature-cache-mib N] [--calibrate CLIP ... [--pictures FOLDER]]

Runs the real window with the real model and prints one JSON object. ``--minutes`` repeats the clip, without
encoding it again, until it is so long; ``--track-seconds`` tracks all boxes for so long and notes the
memory; ``--calibrate`` goes through the wizard with CLIP and these, clicks beside it, and uses the model. Set
QT_QPA_PLATFORM=offscreen where there is no display.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from PySide6.QtCore import QEventLoop, QPoint, QPointF, Qt, QTimer, Signal
from PySide6.QtGui import QPaintEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from app.engine.backend import LoadedModel, QcoreBackend, Recall, TrackingSession
from app.engine.records import ModelPhase
from app.threads import let_threads_sleep, take_turns_often
from app.ui import main_window, theme
from app.ui.calibration.wizard import CalibrationWizard
from app.ui.canvas.canvas import Canvas
from app.ui.i18n import tr
from app.ui.main_window import MainWindow
from app.ui.settings import Settings
from qcore.evaluation.memory import peak_rss_bytes
from qcore.tracking.session import VideoSession

CLICKS = 12
POLL_MS = 5
PROMPT_LIMIT_S = 60
ESTIMATE_LIMIT_S = 180
MARK_FRAMES = 50
"""Memory is noted every so many frames."""
MIB = 2**20
Box = tuple[float, float, float, float]


class SmallCache(QcoreBackend):
    """The real backend with another budget for encoded frames, so that a short run shows what comes after
    it is used up."""

    def __init__(self, cache_mib: int) -> None:
        self._bytes = cache_mib * MIB

    def open_session(self, loaded: LoadedModel, frames: Any, recall: Recall) -> TrackingSession:
        """See `Backend.open_session`."""
        session: TrackingSession = VideoSession(
            loaded.model, frames, recall=recall, feature_cache_bytes=self._bytes
        )
        return session


class WatchedCanvas(Canvas):
    """Tells when it has painted."""

    painted = Signal()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint, then tell."""
        super().paintEvent(event)
        self.painted.emit()

    def shown_masks(self) -> dict[int, int]:
        """Which mask every object shows, by the identity of its array."""
        return {layer.object_id: id(layer.mask_hw) for layer in self.layers}


class Bench:
    """A window, a clock, and hands."""

    def __init__(self, folder: Path, backend: QcoreBackend | None = None) -> None:
        self.app = QApplication([])
        theme.manager().install(self.app)
        main_window.Canvas = WatchedCanvas  # type: ignore[attr-defined]
        self.window = MainWindow(Settings(folder / "settings.json"), backend)
        self.window.resize(1440, 920)
        self.window.show()
        QTest.qWaitForWindowExposed(self.window)
        self.encoded: Any = None
        self.window.engine.encoded_changed.connect(self._note)
        self.window.start(None)
        self.until(lambda: self.window.engine.model.phase is ModelPhase.READY)

    def _note(self, flags: Any) -> None:
        self.encoded = flags

    def until(self, condition: Callable[[], bool], limit_s: float = 3600) -> float:
        """Let the window live until something holds; returns the seconds it took.

        The loop sleeps between events, as the program's own does: one that spins would slow the engine down.
        """
        began = time.perf_counter()
        loop, timer = QEventLoop(), QTimer()
        timer.timeout.connect(loop.quit)
        timer.start(POLL_MS)
        while not condition():
            if time.perf_counter() - began > limit_s:
                raise TimeoutError
            loop.exec()
        return time.perf_counter() - began

    def open(self, clip: Path) -> float:
        """Open a clip; seconds to its first frame on the screen."""
        began = time.perf_counter()
        self.window.documents.open(str(clip))
        self.until(lambda: self.window.presenter.shown_frame == 0)
        self.window.canvas.repaint()
        return time.perf_counter() - began

    def settle(self, frame: int) -> None:
        """Go to a frame and wait until it and its neighbours are encoded."""
        self.window.navigation.jump(frame)
        self.until(lambda: self.encoded is not None and bool(self.encoded[frame]))
        self.rest()

    def rest(self) -> None:
        """Wait until nothing is left to do: no encoding of neighbours, no saving, no repainting."""
        began = time.perf_counter()
        self.until(lambda: time.perf_counter() - began > 0.3)
        self.until(lambda: not self.window.engine._queue.has_ready())

    def click(self, x: float, y: float) -> tuple[float, float]:
        """Click a pixel of the frame; seconds until its mask is painted, and the processor time in them."""
        place = self._on_canvas(x, y)
        return self._until_painted(
            lambda: QTest.mouseClick(self.window.canvas, Qt.MouseButton.LeftButton, pos=place)
        )

    def drag(self, box: Box) -> tuple[float, float]:
        """Draw a box; seconds from its release until its mask is painted, and the processor time in them."""
        canvas, button = self.window.canvas, Qt.MouseButton.LeftButton
        first, last = self._on_canvas(*box[:2]), self._on_canvas(*box[2:])
        QTest.mousePress(canvas, button, pos=first)
        for share in (0.3, 0.7, 1.0):
            QTest.mouseMove(canvas, first + (last - first) * share)
        self.app.processEvents()
        return self._until_painted(lambda: QTest.mouseRelease(canvas, button, pos=last))

    def _on_canvas(self, x: float, y: float) -> QPoint:
        return QPointF(*self.window.canvas.transform.to_widget(x, y)).toPoint()

    def _until_painted(self, act: Callable[[], None]) -> tuple[float, float]:
        canvas = self.window.canvas
        assert isinstance(canvas, WatchedCanvas)
        before, found = canvas.shown_masks(), [0.0, 0.0]

        def painted() -> None:
            if not found[0] and canvas.shown_masks() != before:
                found[:] = time.perf_counter() - began, time.process_time() - used

        canvas.painted.connect(painted)
        began, used = time.perf_counter(), time.process_time()
        act()
        self.until(lambda: found[0] > 0, PROMPT_LIMIT_S)
        canvas.painted.disconnect(painted)
        self.until(lambda: not self.window.prompts.is_waiting)
        return found[0], found[1]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--box", type=float, nargs=4, action="append", required=True, dest="boxes")
    parser.add_argument("--minutes", type=float, default=0, help="repeat the clip until it is so long")
    parser.add_argument("--track-seconds", type=float, default=0, help="track so long and watch the memory")
    parser.add_argument("--feature-cache-mib", type=int, help="encoded frames kept; default: the window's")
    parser.add_argument(
        "--calibrate", type=Path, nargs="+", default=[], help="go through the wizard with CLIP and these"
    )
    parser.add_argument("--pictures", type=Path, help="existing folder for pictures of the wizard's pages")
    args = parser.parse_args()
    let_threads_sleep()
    take_turns_often()
    process = psutil.Process(os.getpid())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / args.clip.name  # the project file goes beside the clip
        if args.minutes:
            repeat(args.clip, clip, 60 * args.minutes)
        else:
            shutil.copyfile(args.clip, clip)
        bench = Bench(folder, SmallCache(args.feature_cache_mib) if args.feature_cache_mib else None)
        loaded = process.memory_info().rss
        facts: dict[str, Any] = {"loaded_model_mib": round(loaded / MIB)}
        facts["first_frame_s"] = round(bench.open(clip), 3)
        facts["clip_frames"] = bench.window.workspace.frame_count
        facts["prompt_to_mask_ms"] = _clicks(bench, args.boxes[0])
        if args.calibrate:
            facts["calibration"] = _calibrate(bench, folder, args)
        if args.track_seconds:
            facts["tracking"] = _track(bench, args.boxes, args.track_seconds, process)
            facts["peak_beyond_model_mib"] = round((peak_rss_bytes() - loaded) / MIB)
        bench.window.close()
    print(json.dumps(facts, indent=1))
    return 0


def _clicks(bench: Bench, box: Box) -> dict[str, Any]:
    """Prompts inside a box on one encoded frame: clicks that start an object, clicks that refine it, boxes
    that start one, clicks that refine those."""
    bench.settle(0)
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"new": [], "refine": [], "box": [], "refine_box": []}
    used: dict[str, list[float]] = {kind: [] for kind in times}

    def note(kind: str, seconds: float, processor_s: float) -> None:
        times[kind].append(1000 * seconds)
        used[kind].append(1000 * processor_s)
        bench.rest()

    def inside() -> tuple[float, float]:
        share = 0.2 + 0.6 * rng.random(2)
        return box[0] + share[0] * (box[2] - box[0]), box[1] + share[1] * (box[3] - box[1])

    def clear() -> None:
        while bench.window.document.undo_stack.canUndo():
            bench.window.document.undo()
        bench.rest()

    def deselect() -> None:
        bench.window.objects.deselect()
        bench.rest()

    # each pair on a frame without prompts: a press on a mark would remove it, on a box's corner resize it
    for _ in range(CLICKS // 2):
        deselect()
        for kind in ("new", "refine"):
            note(kind, *bench.click(*inside()))
        clear()
    for _ in range(CLICKS // 2):
        deselect()
        shift = 8 * rng.random(4) - 4
        note("box", *bench.drag(tuple(side + by for side, by in zip(box, shift, strict=True))))
        note("refine_box", *bench.click(*inside()))
        clear()
    clicks = times["new"] + times["refine"]
    return {
        "median": round(statistics.median(clicks), 1),
        "fastest": round(min(clicks), 1),
        "slowest": round(max(clicks), 1),
        "processor_time_median": round(statistics.median(used["new"] + used["refine"]), 1),
        **{f"{kind}_median": round(statistics.median(values), 1) for kind, values in times.items()},
        **{
            f"{kind}_processor_time_median": round(statistics.median(values), 1)
            for kind, values in used.items()
        },
    }


def _calibrate(bench: Bench, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The whole way through the wizard with its default choices, from opening it to the activated model, with
    the same clicks beside it while it watches the clips and while it fits."""
    window = bench.window
    seconds: dict[str, float] = {}
    os.environ["QMINISAM2_MODELS_DIR"] = str(folder / "models")
    window.calibration.root = folder / "calibrations"
    stages: set[str] = set()
    window.calibration.progressed.connect(lambda event: stages.add(event["stage"]))

    def begun(stage: str) -> bool:
        return stage in stages or not window.calibration.is_running

    def picture(name: str) -> None:
        if args.pictures:
            bench.rest()
            wizard.grab().save(str(args.pictures / f"{name}.png"))

    began = time.perf_counter()

    def passed() -> float:
        return round(time.perf_counter() - began, 1)

    window.actions_table["model.calibrate"].trigger()
    (wizard,) = window.findChildren(CalibrationWizard)
    wizard.clips.add_paths([str(path.absolute()) for path in args.calibrate])
    bench.until(lambda: len(wizard.clips.requests()) > len(args.calibrate))  # the open clip is the first
    picture("clips")
    wizard.next.click()
    bench.until(lambda: "GB" in wizard.quality.estimate.text(), ESTIMATE_LIMIT_S)
    seconds["estimate_shown"] = passed()
    estimate = wizard.quality.estimate.text()
    picture("quality")
    wizard.next.click()
    job = window.calibration.job
    assert job is not None
    clicks = {}
    for stage in ("observe", "reconstruct"):
        bench.until(partial(begun, stage))
        seconds[f"{stage}_begins"] = passed()
        clicks[stage] = _clicks(bench, args.boxes[0])
    picture("run")
    bench.until(lambda: not window.calibration.is_running)
    bench.until(lambda: wizard.next.text() == tr("Use this model") or bool(wizard.message.text()))
    seconds["report_shown"] = passed()
    picture("report")
    verdict, model_id = wizard.report.verdict.text(), job.recipe.name
    wizard.next.click()
    bench.until(
        lambda: window.engine.model.phase is ModelPhase.READY and window.engine.model.model_id == model_id
    )
    seconds["activated"] = passed()
    return {
        "estimate": estimate,
        "seconds_since_the_wizard_was_opened": seconds,
        "verdict": verdict,
        "prompt_to_mask_ms": clicks,
    }


def _track(bench: Bench, boxes: list[Box], seconds: float, process: psutil.Process) -> dict[str, Any]:
    """Box the objects, track them forward for some time, and note the memory on the way."""
    for box in boxes:
        bench.window.objects.deselect()
        bench.drag(box)
    window = bench.window
    window.navigation.jump(0)
    marks: dict[int, int] = {}
    frames = [0]

    def note(frame: int) -> None:
        frames[0] = frame
        if frame // MARK_FRAMES * MARK_FRAMES not in marks:
            marks[frame // MARK_FRAMES * MARK_FRAMES] = round(process.memory_info().rss / MIB)

    window.tracking.frame_tracked.connect(note)
    window.actions_table["track.forward"].trigger()
    began, used = time.perf_counter(), time.thread_time()
    bench.until(lambda: not window.tracking.is_running or time.perf_counter() - began > seconds)
    took, window_s = time.perf_counter() - began, time.thread_time() - used
    window.tracking.stop()
    bench.until(lambda: not window.tracking.is_running)
    project = window.document.need()
    return {
        "objects": len(boxes),
        "frames": frames[0],
        "masks": sum(len(project.frames_with_mask(i)) for i in project.objects),
        "seconds": round(took, 1),
        "window_thread_processor_s": round(window_s, 1),
        "rss_mib_by_frame": {str(frame): rss for frame, rss in sorted(marks.items())},
    }


def repeat(source: Path, target: Path, seconds: float) -> None:
    """Write a clip again and again into one file, packet by packet."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.dts is not None]
        assert stream.time_base is not None and stream.average_rate is not None
        step = round(1 / stream.average_rate / stream.time_base)
        made = out.add_stream_from_template(stream)
        first = 0
        while first * step * stream.time_base < seconds:
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = made, stream.time_base, packet.is_keyframe
                assert packet.pts is not None and packet.dts is not None
                copy.pts, copy.dts = packet.pts + first * step, packet.dts + first * step
                out.mux(copy)
            first += len(packets)


if __name__ == "__main__":
    sys.exit(main())
