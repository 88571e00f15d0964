"""How threads wait for each other: PyTorch's, settled before torch is imported, and Python's."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

SPINS = "1000"
"""Rounds a thread of GNU OpenMP looks for work before it sleeps. The default, as long as there are no more
threads than processors, is to look for milliseconds; whenever another program has one of the processors, each
of the hundred small steps of a frame then waits for the scheduler. On two processors with one of them busy
elsewhere a click took 16 to 40 ms with this setting and 100 to 2,600 ms without; alone, nothing changes."""
BLOCK_MS = "1"
"""The same for Intel's and LLVM's OpenMP, in milliseconds."""


def let_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make idle threads sleep soon, also in programs started from here, unless the user chose a policy."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
        environment.setdefault("KMP_BLOCKTIME", BLOCK_MS)


SWITCH_S = 0.0005
"""Seconds a thread may keep the interpreter from another that asks for it. Each of a frame's hundred steps
asks when an export or the window is busy in Python: beside such a thread, encoding a frame took 842 ms at
Python's default of 5 ms and takes 129 ms with this; the other thread takes hardly longer."""


def take_turns_often() -> None:
    """Let threads of Python take turns ten times as often as by default."""
    sys.setswitchinterval(SWITCH_S)
