"""Waiting for an explanation to change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from jobs import names
from jobs.errors import DataCorruptError
from jobs.outage import is_of_another_type

SHORTEST_INTERVAL = 0.2
"""Seconds between two wake-ups: changes that come quicker are seen together."""

_BLOCK_MS = 2000
_Entry = tuple[bytes, dict[bytes, bytes]]
_ENDS = frozenset({b"SUCCEEDED", b"FAILED", b"CANCELLED", b"DELETED"})


async def changes(redis: Redis, explanation_id: str) -> AsyncIterator[None]:
    """Yield at once, then whenever the explanation may have changed, and end after its last change or its deletion.

    A change between a yield and the caller's look at the record is never lost: it wakes the caller again.

    Raises:
        DataCorruptError: what is told of its changes cannot be read.
    """
    try:
        async for change in _changes(redis, explanation_id):
            yield change
    except (ResponseError, KeyError) as error:
        if isinstance(error, ResponseError) and not is_of_another_type(error):
            raise
        raise DataCorruptError(names.resource(explanation_id), "events") from None


async def _changes(redis: Redis, explanation_id: str) -> AsyncIterator[None]:
    stream = names.events(explanation_id)
    last, ended = await _position(redis, explanation_id)
    while True:
        woken = time.monotonic()
        yield
        if ended:
            return
        while not await redis.xread({stream: last}, count=1, block=_BLOCK_MS):
            # A record that Redis evicted or a restart lost leaves no last entry behind.
            if not await redis.exists(names.record(explanation_id)):
                return
        if (rest := woken + SHORTEST_INTERVAL - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        last, ended = await _position(redis, explanation_id)


async def _position(redis: Redis, explanation_id: str) -> tuple[bytes | str, bool]:
    # The stream's position is taken before the caller first looks at the record, never after.
    entries = cast("list[_Entry]", await redis.xrevrange(names.events(explanation_id), count=1))
    if not entries:
        return "0-0", not await redis.exists(names.record(explanation_id))
    entry_id, fields = entries[0]
    return entry_id, fields[b"state"] in _ENDS
