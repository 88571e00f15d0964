"""Measures the window as a user meets it: opening a clip, a click's way to its mask, memory while tracking.

    python tests/benchmarks/window.py CLIP --box X0 Y0 X1 Y1 [--box ...] [--frames N]

Runs the real window with the real model and prints one JSON object. Set QT_QPA_PLATFORM=offscreen where there
is no display.
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
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PySide6.QtCore import QEventLoop, QPointF, Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from app.engine.records import ModelPhase
from app.threads import let_threads_sleep
from app.ui import theme
from app.ui.main_window import MainWindow
from app.ui.settings import Settings
from qcore.evaluation.memory import peak_rss_bytes

CLICKS = 12
POLL_MS = 5
MIB = 2**20
Box = tuple[float, float, float, float]


class Bench:
    """A window, a clock, and hands."""

    def __init__(self, folder: Path) -> None:
        self.app = QApplication([])
        theme.manager().install(self.app)
        self.window = MainWindow(Settings(folder / "settings.json"))
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
        timer.timeout.connect(lambda: loop.quit() if condition() else None)
        timer.start(POLL_MS)
        while not condition():
            loop.exec()
            if time.perf_counter() - began > limit_s:
                raise TimeoutError
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
        canvas, shown = self.window.canvas, self.window.canvas.set_layers
        project, frame = self.window.document.need(), self.window.workspace.frame
        masks_before = {mask.object_id: mask.rle for mask in project.masks_on(frame)}
        loop = QEventLoop()

        def set_layers(layers: Any) -> None:
            shown(layers)
            if {mask.object_id: mask.rle for mask in project.masks_on(frame)} != masks_before:
                loop.quit()

        canvas.set_layers = set_layers  # type: ignore[method-assign]
        place = QPointF(*canvas.transform.to_widget(x, y)).toPoint()
        began, used = time.perf_counter(), time.process_time()
        QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=place)
        loop.exec()
        canvas.repaint()
        seconds = time.perf_counter() - began, time.process_time() - used
        canvas.set_layers = shown  # type: ignore[method-assign]
        return seconds

    def drag(self, box: Box) -> None:
        """Draw a box and wait for its mask."""
        canvas = self.window.canvas
        corners = [QPointF(*canvas.transform.to_widget(*box[i : i + 2])).toPoint() for i in (0, 2)]
        QTest.mousePress(canvas, Qt.MouseButton.LeftButton, pos=corners[0])
        for share in (0.3, 0.7, 1.0):
            QTest.mouseMove(canvas, corners[0] + (corners[1] - corners[0]) * share)
        QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=corners[1])
        self.until(lambda: not self.window.prompts.is_waiting)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--box", type=float, nargs=4, action="append", required=True, dest="boxes")
    parser.add_argument("--frames", type=int, default=0, help="track so many frames and watch the memory")
    args = parser.parse_args()
    let_threads_sleep()
    process = psutil.Process(os.getpid())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / args.clip.name  # the project file goes beside the clip
        try:
            clip.symlink_to(args.clip.resolve())
        except OSError:
            shutil.copy(args.clip, clip)
        bench = Bench(folder)
        loaded = process.memory_info().rss
        facts: dict[str, Any] = {"loaded_model_mib": round(loaded / MIB)}
        facts["first_frame_s"] = round(bench.open(clip), 3)
        facts["clip_frames"] = bench.window.workspace.frame_count
        facts["click_to_mask_ms"] = _clicks(bench, args.boxes[0])
        if args.frames:
            facts["tracking"] = _track(bench, args.boxes, args.frames, process)
            facts["peak_beyond_model_mib"] = round((peak_rss_bytes() - loaded) / MIB)
        bench.window.close()
    print(json.dumps(facts, indent=1))
    return 0


def _clicks(bench: Bench, box: Box) -> dict[str, float]:
    """Clicks inside a box on one encoded frame: half start an object, half refine it."""
    bench.settle(0)
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"new": [], "refine": []}
    used: list[float] = []
    for _ in range(CLICKS // 2):
        bench.window.objects.deselect()
        for kind in ("new", "refine"):
            share = 0.3 + 0.4 * rng.random(2)
            x, y = box[0] + share[0] * (box[2] - box[0]), box[1] + share[1] * (box[3] - box[1])
            seconds, processor_s = bench.click(x, y)
            times[kind].append(1000 * seconds)
            used.append(1000 * processor_s)
            bench.rest()
    while bench.window.document.undo_stack.canUndo():
        bench.window.document.undo()
    both = times["new"] + times["refine"]
    return {
        "median": round(statistics.median(both), 1),
        "new_median": round(statistics.median(times["new"]), 1),
        "refine_median": round(statistics.median(times["refine"]), 1),
        "fastest": round(min(both), 1),
        "slowest": round(max(both), 1),
        "processor_time_median": round(statistics.median(used), 1),
    }


def _track(bench: Bench, boxes: list[Box], frames: int, process: psutil.Process) -> dict[str, Any]:
    """Box the objects, track them forward, and note the memory on the way."""
    for box in boxes:
        bench.window.objects.deselect()
        bench.drag(box)
    window = bench.window
    window.navigation.jump(0)
    window.workspace.set_range(0, frames - 1)
    window.actions_table["track.forward"].trigger()
    marks: dict[int, int] = {}
    began = time.perf_counter()
    step = max(1, frames // 8)

    def is_done() -> bool:
        here = window.workspace.frame
        if here // step not in marks:
            marks[here // step] = round(process.memory_info().rss / MIB)
        return not window.tracking.is_running

    bench.until(is_done, limit_s=24 * 3600)
    project = window.document.need()
    return {
        "objects": len(boxes),
        "frames": frames,
        "masks": sum(len(project.frames_with_mask(i)) for i in project.objects),
        "seconds": round(time.perf_counter() - began, 1),
        "rss_mib_by_frame": {str(k * step): v for k, v in sorted(marks.items())},
    }


if __name__ == "__main__":
    sys.exit(main())
