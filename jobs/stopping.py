"""SIGTERM and SIGINT while a process starts.

This module imports little: until its handlers are in place, a signal ends the process as one that was killed, and does
nothing at all where the process is the first of a container.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

_END_SECONDS = 2.0
"""Time between the signal and the end of the process, whatever has happened to `SystemExit`."""


def stop_at_once() -> None:
    """End this process with exit code 0 at SIGTERM or SIGINT, until other handlers are set. Main thread only.

    `SystemExit` is raised where the main thread is. In a ``__del__`` or a callback of C, Python drops it. So an alarm
    ends a process that goes on.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, _END_SECONDS)
    # Python sets the alarm's handler back when it exits, and then waits for a thread that reads a model's weights.
    atexit.register(_end)
    sys.exit(0)


def _end() -> None:
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(0)
