"""Heartbeats by which servers know that a worker is alive for a model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from jobs.attempts import AttemptStore
from jobs.outage import Outage

HEARTBEAT_SECONDS = 1.5
"""Between two heartbeats."""
HEARTBEAT_TTL_SECONDS = 6.0
"""How long one heartbeat counts: long enough to replace a child whose model is small."""

_log = logging.getLogger(__name__)


class Liveness:
    """A thread that sends heartbeats as long as `ready` holds.

    Args:
        store: one that fails fast while Redis is away.
        queue: the model's queue.
        digest: the model's digest.
        worker: this worker's name, unlike all others'.
        ready: whether the model is loaded.
        on_depth: called with how many explanations wait, after every heartbeat.
        outage: what the worker has seen of Redis failing.
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
        self._outage = outage
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)

    def heartbeat(self) -> bool:
        """Send one heartbeat. Returns whether Redis took it."""
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
        self._thread.join()
        try:
            self._store.retire(*self._identity)
        except RedisError:  # the last heartbeat runs out by itself
            _log.warning("could not tell Redis that this worker is gone")

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            if self._ready():
                self.heartbeat()
