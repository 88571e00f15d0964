"""Fetching one file over HTTP so that an interrupted download continues and a wrong one never appears.

The bytes grow in ``NAME.part``; only when length and SHA-256 are right does the file take its name. Beside
it, ``NAME.part.json`` remembers which version of the file the bytes are of, so that a server that changed it
is asked for all of it again.
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcore.models.errors import DownloadCancelledError, ModelError, UnreachableError
from qcore.models.files import sha256_of

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_ATTEMPTS = 5
"""Failures in a row, without a new byte between them, before giving up."""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class _Interrupted(Exception):  # noqa: N818 - an event of this module, not an error of its callers
    """The connection failed; what has arrived stays and the next attempt continues."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What is known beforehand about the file to fetch."""

    url: str
    size_bytes: int
    sha256: str


def fetch_file(
    remote: RemoteFile,
    target: Path,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Bring the file to ``target``, continuing an earlier attempt.

    Args:
        remote: address, length and checksum.
        target: final path; its folder is made.
        progress: called after each piece.
        cancelled: asked between pieces; True stops and keeps what has arrived.
        pause: waits that many seconds between attempts.

    Raises:
        DownloadCancelledError: stopped by ``cancelled``.
        ModelError: the server refuses or sends another file, or the disk does.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(part, remote)
        was_continued = part.exists()
        _fetch_all(remote, part, progress, cancelled, pause)
        if sha256_of(part, cancelled=cancelled) != remote.sha256 and was_continued:
            # the bytes of the earlier attempt may be the wrong ones: once more from the start
            log.info("%s: wrong checksum after continuing, starting again", target.name)
            _discard(part)
            _fetch_all(remote, part, progress, cancelled, pause)
        if sha256_of(part, cancelled=cancelled) != remote.sha256:
            _discard(part)
            raise ModelError(
                f"The downloaded {target.name} is not the published file (its SHA-256 differs): deleted."
            )
        part.replace(target)
        _state_path(part).unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(_disk_sentence(error, target)) from error


def _check_space(part: Path, remote: RemoteFile) -> None:
    have = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(part.parent).free
    needed = remote.size_bytes - have
    if free < needed:
        raise ModelError(
            f"The disk of {part.parent} is too full: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free."
        )


def _disk_sentence(error: OSError, target: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"The disk of {target.parent} is full: free some space, then the download continues."
    return f"{target} cannot be written: {error.strerror or error}."


def _fetch_all(
    remote: RemoteFile,
    part: Path,
    progress: Progress | None,
    cancelled: Callable[[], bool],
    pause: Callable[[float], None],
) -> None:
    """Attempt until ``part`` has the right length."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(remote, part, progress, cancelled)
            return
        except _Interrupted as interruption:
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            log.info("%s interrupted at %d bytes: %s", part.name, after, interruption)
            if failures >= _ATTEMPTS:
                raise UnreachableError(
                    f"{remote.url} cannot be reached ({interruption}); what has arrived is kept."
                ) from interruption
        for _ in range(2 ** min(failures, 5)):
            _stop_if(cancelled)
            pause(0.5)


def _stop_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise DownloadCancelledError("The download was cancelled; it continues from here next time.")


def _attempt(
    remote: RemoteFile, part: Path, progress: Progress | None, cancelled: Callable[[], bool]
) -> None:
    start = part.stat().st_size if part.exists() else 0
    if start > remote.size_bytes:
        _discard(part)
        start = 0
    if start == remote.size_bytes:
        return
    request = urllib.request.Request(remote.url, headers={"User-Agent": "qminisam2"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        validator = _read_validator(part)
        if validator:
            request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            start = _accept(response, remote, part, start)
            _copy(response, remote, part, start, progress, cancelled)
    except urllib.error.HTTPError as error:
        _judge_status(error, remote, part)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _Interrupted(str(reason) or type(error).__name__) from error


def _judge_status(error: urllib.error.HTTPError, remote: RemoteFile, part: Path) -> None:
    """Turn an HTTP error status into another attempt, or into the end."""
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and part.exists():
        _discard(part)
        raise _Interrupted("the server's file became shorter") from error
    if error.code >= 500 or error.code in (
        http.client.REQUEST_TIMEOUT,
        http.client.TOO_MANY_REQUESTS,
    ):
        raise _Interrupted(f"the server answers {error.code}") from error
    raise ModelError(f"{remote.url} answers {error.code} ({error.reason}).") from error


def _accept(response: Any, remote: RemoteFile, part: Path, start: int) -> int:
    """Check the answer's headers against what is expected; the offset at which its bytes begin."""
    if response.status == http.client.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            _discard(part)
            raise _Interrupted("the server sends another part than it was asked for")
        length = None if match[2] == "*" else int(match[2])
    else:
        # the whole file: the server knows no ranges, or its file is not the one the part is of
        _discard(part)
        start = 0
        text = response.headers.get("Content-Length", "")
        length = int(text) if text.isdecimal() else None
    if length is not None and length != remote.size_bytes:
        _discard(part)
        raise ModelError(
            f"{remote.url} offers a file of {length} bytes, but the published one has {remote.size_bytes}."
        )
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    if validator.startswith("W/"):
        validator = response.headers.get("Last-Modified") or ""
    _state_path(part).write_text(json.dumps({"url": remote.url, "validator": validator}), encoding="utf-8")
    return start


def _copy(
    response: Any,
    remote: RemoteFile,
    part: Path,
    start: int,
    progress: Progress | None,
    cancelled: Callable[[], bool],
) -> None:
    done = start
    with part.open("ab" if start else "wb") as file:
        while done < remote.size_bytes:
            _stop_if(cancelled)
            try:
                # what is there, not all that was asked for: a slow line can be stopped at any time
                chunk = response.read1(min(_CHUNK_BYTES, remote.size_bytes - done))
            except (OSError, http.client.HTTPException) as error:
                raise _Interrupted(str(error) or type(error).__name__) from error
            if not chunk:
                raise _Interrupted("the connection was closed early")
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, remote.size_bytes)
        file.flush()
        os.fsync(file.fileno())


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_validator(part: Path) -> str:
    """The ETag or date of the version that the part is of; empty where unknown: the checksum decides."""
    try:
        state = json.loads(_state_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    validator = state.get("validator") if isinstance(state, dict) else None
    return validator if isinstance(validator, str) and validator.isprintable() else ""


def discard_partial(target: Path) -> None:
    """Delete what an unfinished download of ``target`` left."""
    _discard(target.with_name(target.name + ".part"))


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)
