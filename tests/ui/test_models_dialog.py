"""The models dialog: use, download with progress, stop, failure, against a server in the test."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
from types import MappingProxyType

import pytest

import qcore.models.install
import qcore.models.registry
from app.ui.background import Background
from app.ui.document import Document
from app.ui.model_choice import ModelChoice
from app.ui.model_controller import ModelController
from app.ui.models_dialog import ModelsDialog

CONTENT = bytes(range(256)) * 8192
"""2 MB."""


@pytest.fixture
def server():
    release = threading.Event()
    release.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
            self.wfile.flush()
            release.wait(20)
            self.wfile.write(CONTENT[len(CONTENT) // 2 :])

        def log_message(self, *args):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.release = release
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
    models = ModelController(background)
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
    assert not card.remove.isVisible() and not card.fetch.isVisible()
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
    card.remove.click()
    qtbot.waitUntil(card.fetch.isVisible)
    assert not (tmp_path / "models" / "sam2.1_hiera_tiny.pt").exists()


def test_a_download_can_be_stopped(qtbot, tiny, dialog, server, tmp_path):
    card = dialog.cards[tiny]
    server.release.clear()
    card.fetch.click()
    card.cancel.click()
    server.release.set()
    qtbot.waitUntil(lambda: dialog.models.state(tiny) is None, timeout=20_000)
    assert not (tmp_path / "models" / "sam2.1_hiera_tiny.pt").exists() or card.use.isVisible()


def test_a_file_that_is_no_model_is_refused_with_a_sentence(qtbot, dialog, tmp_path):
    bad = tmp_path / "notes.txt"
    bad.write_text("hello")
    with qtbot.waitSignal(dialog.models.failed) as signal:
        dialog.models.import_file(bad)
    assert "notes.txt" in signal.args[0]
