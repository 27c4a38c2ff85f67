"""Time slices: how long an explanation runs before it yields to others."""

from __future__ import annotations

import time
from collections.abc import Callable

from redis.exceptions import RedisError

from jobs.outage import Outage

CHECK_SECONDS = 0.25
"""Time between two checks whether others wait, after the slice."""
_AWAY_SECONDS = 2.0


class YieldedError(Exception):
    """The attempt has yielded to others, and goes on later."""


class Slice:
    """A time slice, after which an explanation should yield if others wait.

    Args:
        seconds: its length, from now on.
        others_wait: asks Redis whether others wait.
        outage: logs failures of Redis, during which nobody yields.
    """

    def __init__(self, seconds: float, others_wait: Callable[[], bool], outage: Outage) -> None:
        self._others_wait = others_wait
        self._outage = outage
        self._next_check = time.monotonic() + seconds

    def over(self) -> bool:
        """Whether the time is over and others wait."""
        if time.monotonic() < self._next_check:
            return False
        try:
            waiting = self._others_wait()
        except RedisError as error:
            self._outage.failed("slice", error)
            self._next_check = time.monotonic() + _AWAY_SECONDS
            return False
        self._outage.passed("slice")
        self._next_check = time.monotonic() + CHECK_SECONDS
        return waiting
