"""The store of explanations as the event loop sees it: the blocking store behind a few threads and a time limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import ParamSpec, TypeVar

import redis
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from gloss import v1 as pb
from jobs.access import Access
from jobs.outage import Outage
from jobs.record import Question
from jobs.store import ExplanationStore
from jobs.watch import changes

P = ParamSpec("P")
T = TypeVar("T")

_WATCH_SECONDS = 5.0
"""Silence after which a connection that watches counts as dead; Redis itself answers every 2 seconds there."""

_log = logging.getLogger(__name__)

_THREADS = 8
"""Calls that wait for Redis at once. Each takes a fraction of a millisecond while Redis is well."""


_REPLY_OVERHEAD = 1024
"""Bytes of a list's reply beside what is stored of its explanations, and more."""


class Store:
    """Explanations in Redis. Each call ends within the time limit, with a redis error where Redis is away.

    Unlike a worker, which waits for an absent Redis, the server answers at once: it tries one fresh connection
    where an old one turned out to be dead, and no more.

    Whoever asks for explanations says by which access: there is no default by which callers could see those of others.
    """

    def __init__(
        self, url: str, *, seconds: float, retention_seconds: int, max_queued: int, max_reply_bytes: int
    ) -> None:
        self._seconds = seconds
        self._outage = Outage(_log)
        self._redis = redis.Redis.from_url(
            url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 1)
        )
        self._async_redis = redis.asyncio.Redis.from_url(
            url, socket_timeout=_WATCH_SECONDS, socket_connect_timeout=seconds, retry=AsyncRetry(NoBackoff(), 1)
        )
        self._store = ExplanationStore(
            self._redis,
            retention_seconds=retention_seconds,
            max_queued=max_queued,
            max_summary_bytes=max_reply_bytes - _REPLY_OVERHEAD,
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")

    async def create(
        self,
        access: Access,
        question: Question,
        model: pb.ModelVersion,
        *,
        cost: pb.Progress,
        request_id: str,
        fresh: bool,
    ) -> pb.Explanation:
        """Queue an explanation, or find the one that exists."""
        return await self._call(
            self._store.create, question, model, cost=cost, request_id=request_id, fresh=fresh, access=access
        )

    async def get(self, access: Access, name: str, view: pb.ExplanationView) -> pb.Explanation:
        """One explanation."""
        return await self._call(self._store.get, name, view, access=access)

    async def list(
        self, access: Access, page_size: int, page_token: str, state: pb.ExplanationState, view: pb.ExplanationView
    ) -> tuple[list[pb.Explanation], str]:
        """A page of explanations and the token of the next."""
        return await self._call(self._store.list, page_size, page_token, state, view, access=access)

    async def cancel(self, access: Access, name: str) -> pb.Explanation:
        """Ask for a stop."""
        return await self._call(self._store.cancel, name, access=access)

    async def delete(self, access: Access, name: str) -> None:
        """Forget an explanation."""
        await self._call(self._store.delete, name, access=access)

    async def changes(self, access: Access, name: str) -> AsyncIterator[None]:
        """Yields now and whenever the explanation changed; ends with its final state."""
        key = await self._call(self._store.key, name, access)
        async with aclosing(changes(self._async_redis, key)) as found:
            async for change in found:
                yield change

    async def worker_alive(self, model: str, digest: str) -> bool:
        """Whether some worker holds these weights."""
        return await self._call(self._store.worker_alive, model, digest)

    async def throughput(self, digest: str, method: str) -> float | None:
        """Tokens per second that workers recently processed by a method; None where unknown, or Redis is away."""
        try:
            return await self._call(self._store.throughput, digest, method)
        except redis.exceptions.RedisError:
            return None

    async def queue_depth(self, model: str) -> int:
        """Explanations of `model` that wait for a worker."""
        return await self._call(self._store.queue_depth, model)

    async def probe(self) -> None:
        """Raise a redis error where nothing can be written."""
        await self._call(self._store.probe)

    async def close(self) -> None:
        """Close the connections. Threads that still wait for Redis end by their time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._async_redis.aclose()
        self._redis.close()

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        step = function.__name__
        try:
            answer = await self._within_time(function, *args, **kwargs)
        except redis.exceptions.RedisError as error:
            self._outage.failed(step, error)
            raise
        self._outage.passed(step)
        return answer

    async def _within_time(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))
        try:
            return await asyncio.wait_for(work, self._seconds)
        except TimeoutError:
            raise redis.exceptions.TimeoutError(f"no answer within {self._seconds:g} seconds") from None
