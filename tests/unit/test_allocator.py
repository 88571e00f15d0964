"""Thresholds of the C library's allocator."""

from __future__ import annotations

import os
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
import ctypes, sys, threading
import numpy as np
from qcore.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
barrier = threading.Barrier(40)
def work():
    barrier.wait()
    kept = np.ones(1 << 10)
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(40)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_have_a_heap_for_each_core_and_no_more() -> None:
    heaps = {}
    for how in ("ever so many", "kept"):
        command = [sys.executable, "-c", _THREADS, how]
        heaps[how] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("<heap")
    assert heaps["kept"] == min(1 + (os.cpu_count() or 1), 8)
    assert heaps["kept"] < heaps["ever so many"]


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory.__wrapped__() is False
