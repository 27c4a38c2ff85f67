"""A text that an external engine generates, on its way to the caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from ml.errors import EngineError
from ml.generation import Generation, Step
from ml.models.served import texts
from ml.models.served.completions import PATH
from ml.models.served.exchange import UnusableError
from ml.models.served.stream import Engine
from server.replica_checks import ReplicaChecks

_MAX_UNREAD = 32
"""Tokens of a text that wait for its caller to read them; then no more are taken from the engine."""


class ServedText:
    """One text on its way from an engine to its caller. Iterate over its steps; call `abandon` to stop early."""

    cached_tokens: int | None = None
    queue_seconds = 0.0

    def __init__(
        self,
        engine: Engine,
        checks: ReplicaChecks,
        asked: Mapping[str, Any],
        generation: Generation,
        counted: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._engine = engine
        self._checks = checks
        self._asked = asked
        self._generation = generation
        self._counted = counted
        self._began = time.monotonic()
        self.model_seconds = 0.0
        """Time until its last step came."""
        self._arrived: asyncio.Queue[Step | Exception] = asyncio.Queue(_MAX_UNREAD)
        self._ended = False
        self._reading = asyncio.create_task(self._read())

    def abandon(self) -> None:
        """End the engine's request, if it is still in progress."""
        self._ended = True
        self._reading.cancel()

    def __aiter__(self) -> ServedText:
        return self

    async def __anext__(self) -> Step:
        """The next step.

        Raises:
            StopAsyncIteration: the last one came before.
            EngineError: the text broke off, or another model made it.
        """
        if self._ended:
            raise StopAsyncIteration
        item = await self._arrived.get()
        if isinstance(item, Exception):
            self._ended = True
            raise item
        self._ended = item.finish is not None
        return item

    async def _read(self) -> None:
        try:
            with self._counted():
                await self._steps()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is raised where the text is read
            await self._arrived.put(error)

    async def _steps(self) -> None:
        """Take tokens as they come, and end the request with the last one that is wanted."""
        client, abilities, top = self._engine.client, self._engine.abilities, self._generation.spec.top_k
        async with client.stream(PATH, self._asked) as stream:
            await self._checks.passed(stream.replica)
            read = list(self._asked["prompt"])
            async for event in stream.events:
                try:
                    found = texts.tokens(event, top, abilities)
                except UnusableError as error:
                    raise EngineError(client.address.name, f"the engine gives answers of no use: {error}") from error
                for each in found:
                    read.append(each.token_id)
                    listed = each.top
                    if top and not listed:
                        [listed] = await self._engine.listed([read], top, salt=self._asked.get("cache_salt", ""))
                    step = self._generation.append(each.token_id, each.log_probability, listed, ended=each.ended)
                    self.model_seconds = time.monotonic() - self._began
                    await self._arrived.put(step)
                    if step.finish is not None:
                        return
        raise EngineError(client.address.name, "the engine ended the text without saying why")
