"""Let the C library keep the memory that a frame's temporaries free, instead of giving it back each time."""

from __future__ import annotations

import ctypes
import functools
import logging
import platform

log = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_KEEP_BYTES = 256 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for the whole process; True where that was possible, nothing elsewhere.

    Tracking allocates and frees the same maps of a few MB at every frame. By default each comes from the
    kernel anew, page by page: up to 8000 page faults, an eighth of a quantized frame's time. Threads would
    get heaps of their own besides, which give back what they free whatever the thresholds say: 52,000
    faults a frame of an official model that two threads work on, 15,000 with one heap for all. Threads that
    have allocated before keep the heap they have: call it early.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        settings = (_MMAP_THRESHOLD, _KEEP_BYTES), (_TRIM_THRESHOLD, 2 * _KEEP_BYTES), (_ARENA_MAX, 1)
        return all(mallopt(name, value) for name, value in settings)
    except (OSError, AttributeError) as error:
        log.info("cannot set the allocator's thresholds: %s", error)
        return False
