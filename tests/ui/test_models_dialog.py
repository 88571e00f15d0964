"""The models dialog: use, download with progress, stop, failure, against a server in the test."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import threading
import time
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

import qcore.models.install
import qcore.models.registry
from app.engine.model_speed import KnownSpeeds, MeasuringStoppedError
from app.ui.background import Background
from app.ui.document import Document
from app.ui.model_choice import ModelChoice
from app.ui.model_controller import ModelController
from app.ui.models_dialog import ModelsDialog
from qcore.evaluation.model_speed import ModelSpeed
from qcore.models.errors import UnreachableError

CONTENT = bytes(range(256)) * 8192
"""2 MB."""


@pytest.fixture
def server():
    release = threading.Event()
    release.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range", "bytes=0-")
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.server.starts.append(start)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            middle = max(start, len(CONTENT) // 2)
            self.wfile.write(CONTENT[start:middle])
            with contextlib.suppress(OSError):  # a paused download hangs up
                while not release.wait(0.02):  # a slow line: a byte now and then
                    self.wfile.write(CONTENT[middle : middle + 1])
                    middle += 1
                self.wfile.write(CONTENT[middle:])

        def log_message(self, *args):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.release = release
    server.starts = []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    release.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def tiny(monkeypatch, server):
    """The registry's tiny model, to be fetched from the test's server."""
    models = dict(qcore.models.registry.MODELS)
    models["sam2.1_hiera_tiny"] = dataclasses.replace(
        models["sam2.1_hiera_tiny"],
        url=f"http://127.0.0.1:{server.server_port}/tiny.pt",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(qcore.models.registry, "MODELS", MappingProxyType(models))
    monkeypatch.setattr(qcore.models.install, "MODELS", MappingProxyType(models))
    return "sam2.1_hiera_tiny"


@pytest.fixture
def dialog(qtbot, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("QMINISAM2_MODELS_DIR", str(tmp_path / "models"))
    background = Background()
    models = ModelController(background, KnownSpeeds(tmp_path / "speeds.json"))
    dialog = ModelsDialog(models, ModelChoice(settings, Document()))
    dialog.models = models
    qtbot.addWidget(dialog)
    dialog.show()
    yield dialog
    models.stop()
    background.shutdown()


def test_the_model_in_use_can_neither_be_chosen_again_nor_removed(dialog, settings):
    card = dialog.cards["embedded"]
    assert card.use.text() == "In use" and not card.use.isEnabled()
    assert not card.remove.isVisible() and not card.fetch.isVisible() and card.more.isVisible()
    dialog.cards["embedded-fp16"].use.click()
    assert settings.value("tracking.model") == "embedded-fp16"
    assert card.use.isEnabled()


def test_a_download_shows_its_progress_and_the_model_can_then_be_used_and_removed(
    qtbot, tiny, dialog, server, tmp_path
):
    card = dialog.cards[tiny]
    assert card.fetch.isVisible() and not card.use.isVisible()
    server.release.clear()
    card.fetch.click()
    assert card.cancel.isVisible() and card.bar.isVisible()
    server.release.set()
    with qtbot.waitSignal(dialog.models.installed, timeout=20_000):
        pass
    assert card.use.isVisible() and card.use.isEnabled() and not card.bar.isVisible()
    assert (tmp_path / "models" / "sam2.1_hiera_tiny.pt").read_bytes() == CONTENT
    card.remove.trigger()
    qtbot.waitUntil(card.fetch.isVisible)
    assert not (tmp_path / "models" / "sam2.1_hiera_tiny.pt").exists()


def half_arrived(folder):
    part = folder / "models" / "sam2.1_hiera_tiny.pt.part"
    return part.exists() and part.stat().st_size >= len(CONTENT) // 2


def test_a_download_is_paused_goes_on_where_it_was_and_is_intact(qtbot, tiny, dialog, server, tmp_path):
    card = dialog.cards[tiny]
    server.release.clear()
    card.fetch.click()
    qtbot.waitUntil(lambda: half_arrived(tmp_path), timeout=20_000)
    card.pause.click()
    assert card.pause.text() == "Continue" and card.facts.text().endswith("paused")
    qtbot.waitUntil(lambda: not dialog.models._running[tiny].is_working, timeout=20_000)
    assert dialog.models.state(tiny).is_paused
    server.release.set()
    with qtbot.waitSignal(dialog.models.installed, timeout=20_000):
        card.pause.click()
    assert (tmp_path / "models" / "sam2.1_hiera_tiny.pt").read_bytes() == CONTENT
    assert server.starts[0] == 0 and server.starts[-1] >= len(CONTENT) // 2
    with qtbot.waitSignal(dialog.models.verified, timeout=20_000) as signal:
        card.verify.trigger()
    assert signal.args == [tiny] and "checked, intact" in card.facts.text()


def test_a_stopped_download_continues_another_day_or_is_deleted(qtbot, tiny, dialog, server, tmp_path):
    card, part = dialog.cards[tiny], tmp_path / "models" / "sam2.1_hiera_tiny.pt.part"
    server.release.clear()
    card.fetch.click()
    qtbot.waitUntil(lambda: half_arrived(tmp_path), timeout=20_000)
    card.cancel.click()
    qtbot.waitUntil(lambda: dialog.models.state(tiny) is None, timeout=20_000)
    assert part.exists() and card.fetch.text() == "Continue" and "MB of it are here" in card.facts.text()
    assert f"{part.stat().st_size / 1e6:.0f} MB in" in dialog.disk.text()
    card.discard.trigger()
    qtbot.waitUntil(lambda: card.fetch.text() == "Download", timeout=20_000)
    assert not part.exists()


def test_being_offline_is_explained_until_a_download_succeeds(qtbot, tiny, dialog, server, monkeypatch):
    assert not dialog.offline.isVisible()

    def away(*_args):
        raise UnreachableError("http://x cannot be reached (refused); what has arrived is kept.")

    with monkeypatch.context() as patch:
        patch.setattr("app.ui.model_controller.download_model", away)
        with qtbot.waitSignal(dialog.models.failed) as signal:
            dialog.cards[tiny].fetch.click()
    assert "cannot be reached" in signal.args[0] and "http" not in signal.args[0]
    assert dialog.offline.isVisible() and "work without a connection" in dialog.offline.text()
    with qtbot.waitSignal(dialog.models.installed, timeout=20_000):
        dialog.cards[tiny].fetch.click()
    assert not dialog.offline.isVisible()


SPEED = ModelSpeed(31.4, 22.2, 500.0, "cpu", "fp32", 2)


def test_a_measured_speed_is_remembered_while_the_file_stays(qtbot, dialog, tmp_path, monkeypatch):
    card = dialog.cards["embedded-fp16"]
    assert "not measured yet" in card.cost.text()
    asked = []
    monkeypatch.setattr("app.ui.model_controller.measure", lambda *args: (asked.append(args[:3]), SPEED)[1])
    card.measure.trigger()
    qtbot.waitUntil(lambda: card.cost.text().startswith("54 ms a frame"), timeout=20_000)
    assert asked == [("embedded-fp16", None, "auto")] and "524 MB of memory, CPU fp32" in card.cost.text()
    again = KnownSpeeds(tmp_path / "speeds.json")
    path = Path(next(r for r in dialog.models.rows() if r.id == "embedded-fp16").path)
    assert again.get("embedded-fp16", path) == SPEED
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"another file")
    assert again.get("embedded-fp16", other) is None and again.get("unknown", path) is None
    (tmp_path / "speeds.json").write_text('{"embedded-fp16": {"file": 3}}')
    assert KnownSpeeds(tmp_path / "speeds.json").get("embedded-fp16", path) is None


def test_measuring_can_be_stopped(qtbot, dialog, monkeypatch):
    def wait(_model, _clip, _device, stopped):
        while not stopped():
            time.sleep(0.01)
        raise MeasuringStoppedError("Measuring was stopped.")

    monkeypatch.setattr("app.ui.model_controller.measure", wait)
    failures = []
    dialog.models.failed.connect(failures.append)
    card = dialog.cards["embedded"]
    card.measure.trigger()
    assert card.cancel.isVisible() and not card.pause.isVisible() and not card.use.isVisible()
    card.cancel.click()
    qtbot.waitUntil(lambda: dialog.models.state("embedded") is None, timeout=20_000)
    assert not failures and card.use.isVisible()


def test_a_file_that_is_no_model_is_refused_with_a_sentence(qtbot, dialog, tmp_path):
    bad = tmp_path / "notes.txt"
    bad.write_text("hello")
    with qtbot.waitSignal(dialog.models.failed) as signal:
        dialog.models.import_file(bad)
    assert "notes.txt" in signal.args[0]


class _Marker:
    """Its unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


@pytest.mark.parametrize(
    ("name", "words"),
    [("evil.pt", "holds more than weights"), ("sam2.1_hiera_tiny.pt", "is not the published")],
)
def test_code_and_a_wrong_hash_are_refused_and_the_list_stays_as_it_was(qtbot, dialog, tmp_path, name, words):
    ran, source = tmp_path / "ran", tmp_path / name
    torch.save({"model": {"a": torch.zeros(1)}, "code": _Marker(ran)}, source)
    before = set(dialog.cards)
    with qtbot.waitSignal(dialog.models.failed) as signal:
        dialog.models.import_file(source)
    assert words in signal.args[0] and "\n" not in signal.args[0]
    assert not ran.exists() and set(dialog.cards) == before
