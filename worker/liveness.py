"""Heartbeats, by which servers know that a worker for a model is alive."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from jobs.attempts import AttemptStore
from jobs.outage import Outage

HEARTBEAT_SECONDS = 1.5
"""Time between two heartbeats."""
HEARTBEAT_TTL_SECONDS = 6.0
"""How long one heartbeat counts: long enough to replace the child of a small model."""

_RETIRE_SECONDS = 2.0
"""How long the end waits for Redis to hear of it."""

_log = logging.getLogger(__name__)


class Liveness:
    """A thread that sends heartbeats as long as `ready()` is true, and takes the last one back in the end.

    Args:
        store: fails fast while Redis is unavailable.
        queue: the model's queue.
        digest: the model's digest.
        worker: this worker's unique name.
        ready: whether the model is loaded.
        on_depth: called with the number of waiting explanations, after every heartbeat.
        outage: logs failures of Redis.
    """

    def __init__(
        self,
        store: AttemptStore,
        *,
        queue: str,
        digest: str,
        worker: str,
        ready: Callable[[], bool],
        on_depth: Callable[[int], None],
        outage: Outage,
    ) -> None:
        self._store = store
        self._identity = (queue, digest, worker)
        self._ready = ready
        self._on_depth = on_depth
        self._stopped = threading.Event()
        self._retired = False
        self._outage = outage
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)

    def heartbeat(self) -> bool:
        """Send one heartbeat. Returns whether that succeeded."""
        try:
            self._on_depth(self._store.heartbeat(*self._identity, HEARTBEAT_TTL_SECONDS))
        except RedisError as error:
            self._outage.failed("heartbeat", error)
            return False
        self._outage.passed("heartbeat")
        return True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(_RETIRE_SECONDS)
        if not self._retired:  # the last heartbeat expires by itself
            _log.warning("could not remove this worker from Redis")

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            if self._ready():
                self.heartbeat()
        with suppress(RedisError):
            self._store.retire(*self._identity)
            self._retired = True
