"""SIGTERM and SIGINT, as the parent takes them."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from rq.exceptions import StopRequested

_LAST_RESORT_SECONDS = 3.0
_AGAIN_SECONDS = 1.0


class ForcedStop(SystemExit):
    """The worker did not come to its end by itself, most likely because Redis is away."""


class Stop:
    """The wish to stop.

    The first signal gives a running job its grace, a second one takes it back. Whatever the parent is doing, some
    seconds after the grace it is torn out of it by `ForcedStop`, and out of what it does next, until `uninstall`.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._wished = threading.Event()
        self._deadline = float("inf")
        self._interruptible = False
        self.forced = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._wished.is_set()

    @property
    def overdue(self) -> bool:
        """Whether the grace is over."""
        return time.monotonic() >= self._deadline

    def install(self) -> None:
        """Take the signals from here on. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)

    def uninstall(self) -> None:
        """Nothing must disturb what follows: there is no last resort any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until a signal comes."""
        self._wished.wait(seconds)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Inside, a signal raises rq's `StopRequested` at once; elsewhere it is only noted."""
        if self.requested:
            raise StopRequested
        before, self._interruptible = self._interruptible, True
        try:
            yield
        finally:
            self._interruptible = before

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._deadline = time.monotonic() + (0 if self.requested else self._grace)
        self._wished.set()
        delay = max(0.0, self._deadline - time.monotonic()) + _LAST_RESORT_SECONDS
        signal.setitimer(signal.ITIMER_REAL, delay, _AGAIN_SECONDS)
        if self._interruptible:
            raise StopRequested

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        self.forced = True
        raise ForcedStop
