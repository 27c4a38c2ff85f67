"""The end of a process that would wait for a thread in C, as while a name server does not answer.

Python runs a signal's handler between two steps of its main thread, and waits for the threads of executors when it
exits. Both wait for a name of a host to be resolved, as long as the system's resolver is patient.
"""

from __future__ import annotations

import logging
import os
import threading

_LOG_SECONDS = 1.0
"""Time for the log's line: stderr may be what blocks."""

_log = logging.getLogger(__name__)


def end_within(seconds: float, exit_code: int = 0) -> None:
    """End this process after `seconds`, unless it has ended by then, whatever its threads are doing."""
    timer = threading.Timer(seconds, _end, (exit_code,))
    timer.daemon = True
    timer.start()


def _end(exit_code: int) -> None:
    line = "ended without waiting for what still blocks, most likely the look-up of a host's name"
    logged = threading.Thread(target=_log.warning, args=(line,), daemon=True)
    logged.start()
    logged.join(_LOG_SECONDS)
    os._exit(exit_code)
