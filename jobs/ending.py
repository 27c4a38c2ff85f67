"""The end of a process: at once by a signal while it starts, and within a time limit while it stops, whatever blocks.

Python runs a signal's handler between two steps of its main thread, drops a `SystemExit` that a handler raises in a
``__del__`` or in a callback of C, and waits for the threads of executors when it exits. All of them may wait for C: for
a model's weights to be read, or for the name of a host to be resolved, as long as the system's resolver is patient. So
a thread that does nothing else ends the process.

This module imports little: until `stop_at_once` was called, a signal ends the process as one that was killed, and does
nothing at all where the process is the first of a container.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import time
from types import FrameType

_START_SECONDS = 2.0
"""Time between a signal while the process starts and its end, whatever has happened to `SystemExit`."""

_LOG_SECONDS = 1.0
"""Time for the log's line: stderr may be what blocks."""


def stop_at_once() -> None:
    """End this process with exit code 0 at SIGTERM or SIGINT, until other handlers are set. Main thread only."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)


def end_within(seconds: float, exit_code: int = 0) -> None:
    """End this process after `seconds`, unless it has ended by then, and log that something blocked it."""
    _thread.start_new_thread(_end, (seconds, exit_code, True))


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    # Not a thread of `threading`: where the signal strikes, this thread may hold a lock that starting one needs.
    _thread.start_new_thread(_end, (_START_SECONDS, 0, False))
    atexit.register(os._exit, 0)  # Python's exit frees all that there is, and no other thread runs meanwhile.
    sys.exit(0)


def _end(seconds: float, exit_code: int, is_logged: bool) -> None:
    time.sleep(seconds)
    if is_logged:
        import logging  # noqa: PLC0415 -- takes longer than all that is imported above

        _thread.start_new_thread(_end, (_LOG_SECONDS, exit_code, False))
        line = "ended without waiting for what still blocks, most likely the look-up of a host's name"
        logging.getLogger(__name__).warning(line)
    os._exit(exit_code)
