"""Thresholds of the C library's allocator."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from qcore.allocator import keep_freed_memory

_SCRIPT = """
import resource, sys, numpy as np
from qcore.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def frame():
    maps = [np.ones(1 << 20, np.float32) for _ in range(8)]
frame()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    frame()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {}
    for how in ("given back", "kept"):
        command = [sys.executable, "-c", _SCRIPT, how]
        faults[how] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # 20 frames of 8 maps of 4 MiB
    assert faults["kept"] < faults["given back"] / 10


_THREADS = """
import resource, sys, threading, numpy as np
from qcore.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def work(frames):
    for _ in range(frames):
        [np.ones(12 << 20, np.float32) for _ in range(2)]
def in_threads(frames):
    threads = [threading.Thread(target=work, args=(frames,)) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
in_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
in_threads(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_share_what_they_freed() -> None:
    faults = {}
    for how in ("given back", "kept"):
        command = [sys.executable, "-c", _THREADS, how]
        faults[how] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    # 2 threads with 10 frames of 2 maps of 48 MiB, which no thread's own heap of 64 MiB holds
    assert faults["kept"] < faults["given back"] / 4


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory.__wrapped__() is False
