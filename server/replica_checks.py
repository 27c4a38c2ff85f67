"""Whether the replicas of an external engine still compute the model that they did when the server started."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from ml.models.served.stream import Engine

_CHECK_SECONDS = 5.0
"""For so long it is believed that an engine computes the model that it did when its fingerprint was last compared."""


class ReplicaChecks:
    """Compares the fingerprints of an engine's replicas now and then, for all calls together."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._believed_until = dict.fromkeys(engine.client.address.replicas, 0.0)
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def passed(self, replica: str) -> None:
        """Wait until `replica` is known to compute the model that it did at the start, as far as a while ago.

        Raises:
            EngineModelChangedError: it computes another.
            EngineError: it does not answer.
        """
        if time.monotonic() < self._believed_until[replica]:
            return
        if (task := self._under_way.get(replica)) is None:
            task = self._under_way[replica] = asyncio.create_task(self._compare(replica))
            task.add_done_callback(lambda done: self._finished(replica, done))
        # Shielded: a caller who leaves must not end what others wait for.
        await asyncio.shield(task)

    async def _compare(self, replica: str) -> None:
        engine = self._engine
        await engine.fingerprint.check(engine.client, engine.abilities, replica)
        self._believed_until[replica] = time.monotonic() + _CHECK_SECONDS

    def _finished(self, replica: str, task: asyncio.Task[None]) -> None:
        del self._under_way[replica]
        with suppress(asyncio.CancelledError):
            task.exception()  # whoever waited got it
