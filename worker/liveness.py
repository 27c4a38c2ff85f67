"""The sign of life by which servers know that explanations of a model will be taken up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from jobs.attempts import AttemptStore
from jobs.outage import Outage

BEAT_SECONDS = 1.5
HOLDS_SECONDS = 6.0
"""How long one beat counts: long enough for a child to be replaced unnoticed, where its model is small."""

_log = logging.getLogger(__name__)


class Liveness:
    """A thread that says, as long as `ready` holds, that this worker serves the model.

    Args:
        store: one that gives up soon while Redis is away.
        queue: the model's queue.
        digest: the model's digest.
        worker: this worker's name, unlike all others'.
        ready: whether the model is loaded.
        on_depth: told how many explanations wait, after every beat.
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

    def beat(self) -> bool:
        """One sign of life. Returns whether Redis took it."""
        try:
            self._on_depth(self._store.beat(*self._identity, HOLDS_SECONDS))
        except RedisError as error:
            self._outage.failed("beat", error)
            return False
        self._outage.passed("beat")
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
        except RedisError:  # the beat runs out by itself
            _log.warning("could not tell Redis that this worker is gone")

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            if self._ready():
                self.beat()
