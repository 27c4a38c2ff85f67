"""Stopping a job of the child from outside, by an exception that a signal handler raises.

The exceptions derive from BaseException, because explainers and libraries catch Exception. Code that does not return to
Python, such as one call of a large model, is not interrupted; so the model runs in bounded batches, and the parent
replaces a child that does not respond.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from worker.model_process import INTERRUPT

_SHORTEST_SECONDS = 0.001
_AGAIN_SECONDS = 1.0
"""Time after which an exception is raised again: Python drops what is raised in a ``__del__`` or a callback of C."""


class Interrupted(BaseException):
    """The parent wants the job stopped: it was cancelled, or the worker is stopping."""


class TimeLimitReached(BaseException):
    """The worker's limit of `seconds` for one attempt was reached."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Interruption:
    """Raises exceptions for signals, only inside `allowed` and at most one each time.

    If the work goes on, the same exception is raised again after `_AGAIN_SECONDS`.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._limit = 0.0
        self._raised: BaseException | None = None
        signal.signal(INTERRUPT, self._on_interrupt)
        signal.signal(signal.SIGALRM, self._on_alarm)

    @contextlib.contextmanager
    def allowed(self, seconds: float, spent: float = 0.0) -> Iterator[None]:
        """Raise `Interrupted` inside at the parent's signal, and `TimeLimitReached` after `seconds`, less `spent`."""
        self._limit, self._raised = seconds, None
        self._allowed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, max(_SHORTEST_SECONDS, seconds - spent))  # 0 would be no limit
            yield
        finally:
            self._allowed = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._raised is None:  # Code after the first exception must not be interrupted.
            self._raise(Interrupted())

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        self._raise(self._raised or TimeLimitReached(self._limit))

    def _raise(self, error: BaseException) -> None:
        if self._allowed:
            self._raised = error
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
            raise error
