"""How long an explanation has the worker for itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from redis.exceptions import RedisError

from jobs.outage import Outage

LOOK_SECONDS = 0.25
"""Between two looks at whether others wait, once the time is over."""
_AWAY_SECONDS = 2.0


class YieldedError(Exception):
    """The attempt has given way to others, and goes on later."""


class Slice:
    """The time that an explanation has; after it, it should give way once others wait.

    Args:
        seconds: how long that is, from now on.
        others_wait: whether others wait, by a look at Redis.
        outage: what the child has seen of Redis failing. While it fails, nobody gives way.
    """

    def __init__(self, seconds: float, others_wait: Callable[[], bool], outage: Outage) -> None:
        self._others_wait = others_wait
        self._outage = outage
        self._next_look = time.monotonic() + seconds

    def over(self) -> bool:
        """Whether the time is over and others wait."""
        if time.monotonic() < self._next_look:
            return False
        try:
            waiting = self._others_wait()
        except RedisError as error:
            self._outage.failed("slice", error)
            self._next_look = time.monotonic() + _AWAY_SECONDS
            return False
        self._outage.passed("slice")
        self._next_look = time.monotonic() + LOOK_SECONDS
        return waiting
