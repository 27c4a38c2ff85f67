"""A failing Redis: logged once, waited for with growing pauses, and distinguished from a single key of another type.

Redis may refuse as well as be away: no memory (OOM), no disk (MISCONF), a replica (READONLY), a restart (LOADING), a
password or a permission (NOAUTH, WRONGPASS, NOPERM), a cluster on the move. All of it passes, or somebody mends it.
"""

from __future__ import annotations

import logging
import random
import threading
import time

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_SHORTEST_SECONDS = 0.1
LONGEST_SECONDS = 5.0
_LONGEST_TEXT = 300
_LATELY_SECONDS = 30.0
"""A step that failed longer ago and was not tried since says nothing of Redis now."""


def pause(failures: int, longest: float = LONGEST_SECONDS) -> float:
    """Seconds to wait after so many failures in a row: doubled each time up to `longest`, less up to half by chance."""
    return min(longest, _SHORTEST_SECONDS * 2.0 ** min(failures, 30)) * random.uniform(0.5, 1)  # noqa: S311


def is_of_another_type(error: RedisError) -> bool:
    """Whether the error says that a key is not of the type that was expected of it."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def in_words(error: RedisError) -> str:
    """What is wrong with Redis, for the log."""
    away = isinstance(error, (RedisConnectionError, RedisTimeoutError))
    return f"Redis {'cannot be reached' if away else 'refuses'}: {str(error)[:_LONGEST_TEXT]}"


class Outage:
    """What several parts of a process have seen of Redis failing, and the log's two lines on it: its begin and its end.

    An outage begins with the first step that fails, and ends when each step that failed lately has passed. Safe for use
    from several threads.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._failing: dict[str, float] = {}
        self._lock = threading.Lock()

    def failed(self, step: str, error: RedisError) -> None:
        """A step failed with this error."""
        with self._lock:
            if not self._failing:
                self._log.warning("%s; trying again until it answers", in_words(error))
            self._failing[step] = time.monotonic()

    def passed(self, step: str) -> None:
        """A step did not fail."""
        with self._lock:
            if not self._failing:
                return
            self._failing.pop(step, None)
            lately = time.monotonic() - _LATELY_SECONDS
            self._failing = {other: failed for other, failed in self._failing.items() if failed > lately}
            if not self._failing:
                self._log.warning("Redis answers again")
