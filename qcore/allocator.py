"""Let the C library keep the memory that a frame's temporaries free, instead of giving it back each time."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform

log = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_KEEP_BYTES = 256 << 20
_MOST_HEAPS = 8  # on many cores: what lies unused in each adds up


@functools.cache
def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for the whole process; True where that was possible, nothing elsewhere.

    Tracking allocates and frees the same maps of a few MB at every frame. By default each comes from the
    kernel anew, page by page: up to 8000 page faults, an eighth of a quantized frame's time.

    There is a heap for the caller and one for each thread that can compute beside it. With one for all, the
    threads of a small model spend a fifth of their time waiting for it; with more, new threads begin with
    empty ones, and more of them give back large maps, for which a thread's heap is too small. Threads that
    have allocated before keep the heap they have: call it early.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        heaps = min(1 + (os.cpu_count() or 1), _MOST_HEAPS)
        settings = (_MMAP_THRESHOLD, _KEEP_BYTES), (_TRIM_THRESHOLD, 2 * _KEEP_BYTES), (_ARENA_MAX, heaps)
        return all(mallopt(name, value) for name, value in settings)
    except (OSError, AttributeError) as error:
        log.info("cannot set the allocator's thresholds: %s", error)
        return False
