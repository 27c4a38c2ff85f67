"""SIGTERM and SIGINT in the parent process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from rq.exceptions import StopRequested

from jobs.ending import end_within

_FORCE_SECONDS = 3.0
_AGAIN_SECONDS = 1.0
_END_SECONDS = 6.0
"""Time between the end of the grace and that of the process, half of it for ending in good order after `ForcedStop`."""


class ForcedStop(SystemExit):
    """The worker did not end within its grace and some seconds, most likely because Redis is away."""


class Stop:
    """A request to stop.

    The first signal starts the grace of a running job, a second one ends it. Some seconds after the grace `ForcedStop`
    is raised in whatever the parent is doing, and again each second until `uninstall`.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._requested = threading.Event()
        self._deadline = float("inf")
        self._interruptible = False
        self.forced = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._requested.is_set()

    @property
    def overdue(self) -> bool:
        """Whether the grace is over."""
        return time.monotonic() >= self._deadline

    def install(self) -> None:
        """Handle the signals from here on. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)

    def guard(self) -> None:
        """See to it that the process ends, even if its main thread is in C, where no handler runs. Main thread only.

        A job that it has is taken over by another worker, as after kill -9.
        """
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(woken,), name="signals", daemon=True).start()

    def uninstall(self) -> None:
        """Stop raising `ForcedStop`, so that shutting down is not interrupted."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until a signal comes."""
        self._requested.wait(seconds)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Raise rq's `StopRequested` inside as soon as a signal comes; elsewhere it is only noted."""
        if self.requested:
            raise StopRequested
        before, self._interruptible = self._interruptible, True
        try:
            yield
        finally:
            self._interruptible = before

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._deadline = time.monotonic() + (0 if self.requested else self._grace)
        self._requested.set()
        delay = max(0.0, self._deadline - time.monotonic()) + _FORCE_SECONDS
        signal.setitimer(signal.ITIMER_REAL, delay, _AGAIN_SECONDS)
        if self._interruptible:
            raise StopRequested

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        self.forced = True
        raise ForcedStop

    def _watch(self, woken: int) -> None:
        for grace in (self._grace, 0.0):  # the second signal ends it
            while os.read(woken, 1)[0] not in {signal.SIGTERM, signal.SIGINT}:
                pass
            end_within(grace + _END_SECONDS)
