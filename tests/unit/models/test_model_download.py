"""Downloads against a local server that behaves badly in the ways real ones do."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qcore.models import DownloadCancelledError, ModelError
from qcore.models.fetch import RemoteFile, fetch_file

CONTENT = random.Random(7).randbytes(900_000)
OTHER = random.Random(8).randbytes(900_000)


class Server(ThreadingHTTPServer):
    """One file; the knobs are its bad habits."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"one"'
        self.drop_after: list[int] = []
        """Bytes of body after which the connection is cut, one entry a request."""
        self.honours_range = True
        self.statuses: list[int] = []
        """Error statuses to answer with first."""
        self.requests: list[str | None] = []
        """The Range header of each request."""

    @property
    def remote(self) -> RemoteFile:
        url = f"http://127.0.0.1:{self.server_address[1]}/model.pt"
        return RemoteFile(url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = 0
        if wanted and server.honours_range and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        limit = server.drop_after.pop(0) if server.drop_after else len(body)
        self.wfile.write(body[:limit])
        if limit < len(body):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with running(Server()) as running_server:
        yield running_server


def fetch(server: Server, target: Path, **kwargs: Callable[..., object]) -> None:
    fetch_file(server.remote, target, pause=lambda _: None, **kwargs)  # type: ignore[arg-type]


def test_a_download_arrives_with_progress_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "new" / "folder" / "model.pt"
    fetch(server, target, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["model.pt"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_dropped_connections_continue_where_they_stopped(server: Server, tmp_path: Path) -> None:
    server.drop_after = [300_000, 200_000, 0, 100_000]
    target = tmp_path / "model.pt"
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert server.requests == [
        None,
        "bytes=300000-",
        "bytes=500000-",
        "bytes=500000-",
        "bytes=600000-",
    ]


def test_a_server_that_always_drops_ends_in_one_sentence_and_keeps_the_part(
    server: Server, tmp_path: Path
) -> None:
    server.drop_after = [100_000] + [0] * 20
    target = tmp_path / "model.pt"
    with pytest.raises(ModelError, match="cannot be reached"):
        fetch(server, target)
    assert not target.exists()
    assert (tmp_path / "model.pt.part").read_bytes() == CONTENT[:100_000]
    server.drop_after = []
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100000-"


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.drop_after = [300_000]
    server.honours_range = False
    target = tmp_path / "model.pt"
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_file_that_changes_on_the_server_is_not_stitched_together(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.pt"
    server.content, server.etag = OTHER, '"zero"'
    server.drop_after = [300_000] + [0] * 20
    with pytest.raises(ModelError):
        fetch(server, target)
    server.content, server.etag, server.drop_after = CONTENT, '"one"', []
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_deleted(server: Server, tmp_path: Path) -> None:
    server.content = OTHER
    with pytest.raises(ModelError, match="SHA-256"):
        fetch(server, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_of_an_earlier_attempt_are_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pt.part").write_bytes(OTHER[:400_000])
    fetch(server, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert server.requests == ["bytes=400000-", None]


@pytest.mark.parametrize("length", [0, 10, 899_999, 900_001])
def test_a_file_of_another_length_is_refused_before_it_is_read(
    server: Server, tmp_path: Path, length: int
) -> None:
    server.content = (CONTENT + b"x")[:length]
    with pytest.raises(ModelError, match=f"offers a file of {length} bytes"):
        fetch(server, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_too_long_is_started_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pt.part").write_bytes(CONTENT + b"more")
    fetch(server, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_a_complete_part_needs_no_connection(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pt.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert server.requests == []


def test_passing_server_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    fetch(server, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_a_missing_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [404, 404]
    with pytest.raises(ModelError, match="answers 404"):
        fetch(server, tmp_path / "model.pt")
    assert len(server.requests) == 1


def test_no_server_at_all_ends_in_one_sentence(tmp_path: Path) -> None:
    server = Server()
    server.server_close()
    waits: list[float] = []
    with pytest.raises(ModelError, match="cannot be reached"):
        fetch_file(server.remote, tmp_path / "model.pt", pause=waits.append)
    assert 5 < sum(waits) < 60


def test_cancelling_keeps_what_arrived(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.pt"
    done = [0]

    def note(bytes_done: int, _total: int) -> None:
        done[0] = bytes_done

    with pytest.raises(DownloadCancelledError):
        fetch(server, target, progress=note, cancelled=lambda: done[0] > 400_000)
    kept = (tmp_path / "model.pt.part").read_bytes()
    assert 400_000 < len(kept) < len(CONTENT)
    assert kept == CONTENT[: len(kept)]
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_full_disk_is_noticed_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ModelError, match="too full: 1 MB needed"):
        fetch(server, tmp_path / "model.pt")
    assert server.requests == []


def test_a_disk_that_fills_up_meanwhile_keeps_the_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelError, match=r"is full: free some space"):
        fetch(server, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
    assert (tmp_path / "model.pt.part").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ModelError, match="cannot be written"):
        fetch(server, tmp_path / "file" / "model.pt")
