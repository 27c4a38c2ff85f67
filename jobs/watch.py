"""Waiting for an explanation to change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from jobs import names
from jobs.errors import DataCorruptError
from jobs.outage import is_of_another_type

SHORTEST_INTERVAL = 0.2
"""Seconds between two wake-ups: changes that come quicker are seen together."""

T = TypeVar("T")

_BLOCK_MS = 2000
_Entry = tuple[bytes, dict[bytes, bytes]]
_ENDS = frozenset({b"SUCCEEDED", b"FAILED", b"CANCELLED", b"DELETED"})


async def changes(redis: Redis, key: str) -> AsyncGenerator[None]:
    """Yield at once, then whenever the explanation may have changed, and end after its last change or its deletion.

    A change between a yield and the caller's look at the record is never lost: it wakes the caller again.

    Raises:
        DataCorruptError: the stored events cannot be read.
    """
    stream = names.events(key)
    last, ended = await _position(redis, key)
    while True:
        woken = time.monotonic()
        yield
        if ended:
            return
        while not await _read(key, redis.xread({stream: last}, count=1, block=_BLOCK_MS)):
            # A record that Redis evicted or a restart lost leaves no last entry behind.
            if not await redis.exists(names.record(key)):
                return
        if (rest := woken + SHORTEST_INTERVAL - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        last, ended = await _position(redis, key)


async def _position(redis: Redis, key: str) -> tuple[bytes | str, bool]:
    # The stream's position is taken before the caller first looks at the record, never after.
    found = await _read(key, redis.xrevrange(names.events(key), count=1))
    entries = cast("list[_Entry]", found)
    if not entries:
        return "0-0", not await redis.exists(names.record(key))
    entry_id, fields = entries[0]
    if b"state" not in fields:
        raise DataCorruptError(names.resource(key), "events")
    return entry_id, fields[b"state"] in _ENDS


async def _read(key: str, answer: Awaitable[T]) -> T:
    try:
        return await answer
    except ResponseError as error:
        if is_of_another_type(error):
            raise DataCorruptError(names.resource(key), "events") from None
        raise
