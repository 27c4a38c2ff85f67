"""Requests to an engine's replicas: so many in flight, tried again where that may help, ended where nobody waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from ml.errors import EngineError, EngineUnavailableError
from ml.models.served.address import Address
from ml.models.served.completions import longest_answer
from ml.models.served.exchange import (
    LARGEST_ANSWER,
    MALFORMED,
    Exchange,
    Reply,
    TransientError,
    UnusableError,
    broken,
    check,
    check_plain,
    content_of,
    parsed,
    usage,
)
from ml.models.served.options import EngineOptions
from ml.models.served.window import Window

T = TypeVar("T")

Body = Mapping[str, Any]

Tokens = dict[str, int]
"""Where an attempt notes what it was about, as `Exchange` names it."""

_CONNECT_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_RETRY_SECONDS = 1.0
"""After which a text that broke off may be asked for again."""

_UNUSABLE_ANSWERS = 3
"""So many to one request, and it is no accident."""


@dataclass(frozen=True)
class EventStream:
    """What answers a request event by event, and the replica that does."""

    events: AsyncIterator[Any]
    replica: str


class EngineClient:
    """Asks the replicas of one engine, on one event loop. Close it, or use it as a context."""

    def __init__(
        self,
        address: Address,
        options: EngineOptions,
        observe: Callable[[Exchange], None] = lambda exchange: None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Ask `address`.

        Args:
            observe: is called with every request that has ended.
            transport: in place of the network.
        """
        self.address = address
        self.options = options
        self._observe = observe
        self._clock = asyncio.get_running_loop().time
        self.window = Window(options.concurrency * len(address.replicas), self._clock)
        headers = {"Accept-Encoding": "identity"}
        if options.key:
            headers["Authorization"] = f"Bearer {options.key}"
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(options.timeout, connect=_CONNECT_SECONDS, pool=None),
            # Shorter than servers keep an idle connection: one that they close as it is used costs a retry.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
            transport=transport,
        )
        self._busy = dict.fromkeys(address.replicas, 0)
        self._rests_until = dict.fromkeys(address.replicas, 0.0)
        self._failed: dict[str, TransientError] = {}  # why a replica rests
        self._asked_until = dict.fromkeys(address.replicas, 0.0)  # for how long a replica itself wants to rest

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def get(self, path: str, *, replica: str | None = None, patience: float | None = None) -> Any:
        """What a replica, or whichever answers, has at `path`.

        Raises:
            EngineUnavailableError: none has answered for `patience` seconds.
            RefusedError: it will not.
        """
        reply = await self._exchanged("GET", path, None, 0, lambda data: data, replica=replica, patience=patience)
        return reply.value

    async def post(
        self,
        path: str,
        body: Body,
        read: Callable[[Any], T],
        *,
        prompts: int,
        replica: str | None = None,
        patience: float | None = None,
        queued: bool = True,
    ) -> Reply[T]:
        """What `read` makes of the answer to `body`, which holds so many prompts.

        Where it raises `UnusableError`, the engine is asked again, a few times.

        Args:
            queued: whether to wait until so many more prompts may be in flight.

        Raises:
            EngineUnavailableError, RefusedError: as `get`.
            EngineError: no answer was of use.
        """
        async with self.window.held(prompts) if queued else nullcontext():
            return await self._exchanged("POST", path, body, prompts, read, replica=replica, patience=patience)

    @asynccontextmanager
    async def stream(self, path: str, body: Body) -> AsyncIterator[EventStream]:
        """The server-sent events that answer `body`, which has one prompt. Leaving the block ends the request.

        Raises:
            EngineUnavailableError, RefusedError: as `get`; once events have come, nothing is tried again.
        """
        async with self.window.held(1):
            response, replica = await self._opened(path, body)
            try:
                yield EventStream(self._events(response), replica)
            finally:
                await response.aclose()

    async def _opened(self, path: str, body: Body) -> tuple[httpx2.Response, str]:
        async def attempt(replica: str, tokens: Tokens) -> tuple[httpx2.Response, str]:
            request = self._http.build_request("POST", replica + path, json=dict(body))
            async with asyncio.timeout(self.options.timeout):
                response = await self._http.send(request, stream=True)
                try:
                    if response.status_code != httpx2.codes.OK:
                        check(response, await content_of(response), self.address.name)
                    check_plain(response)
                except BaseException:
                    await response.aclose()
                    raise
            tokens["prompt_tokens"] = len(body["prompt"])
            return response, replica

        return await self._retried(attempt, prompts=1)

    async def _events(self, response: httpx2.Response) -> AsyncIterator[Any]:
        events = aiter(httpx2.EventSource(response))
        try:
            while True:
                async with asyncio.timeout(self.options.timeout):
                    event = await anext(events, None)
                if event is None or event.data == "[DONE]":
                    return
                yield parsed(event.data)
        except httpx2.SSEError as error:
            raise EngineError(self.address.name, f"the engine sent no stream of events: {error}") from error
        except (httpx2.RequestError, TimeoutError) as error:
            raise self._unavailable(broken(error), _RETRY_SECONDS) from error
        except UnusableError as error:
            raise EngineError(self.address.name, f"the engine broke its text off: {error}") from error
        except (ValueError, RecursionError) as error:
            raise EngineError(self.address.name, "the engine sent an event that is no JSON") from error

    async def _exchanged(
        self,
        method: str,
        path: str,
        body: Body | None,
        prompts: int,
        read: Callable[[Any], T],
        *,
        replica: str | None,
        patience: float | None,
    ) -> Reply[T]:
        largest = LARGEST_ANSWER if body is None else longest_answer(body)

        async def attempt(chosen: str, tokens: Tokens) -> Reply[T]:
            # The client's own limits are on each read and write; an answer in drops would take for ever.
            async with (
                asyncio.timeout(self.options.timeout),
                self._http.stream(method, chosen + path, json=None if body is None else dict(body)) as response,
            ):
                content = await content_of(response, largest)
            check(response, content, self.address.name)
            try:
                data = parsed(content)
                tokens.update(usage(data))
                return Reply(read(data), chosen)
            except UnusableError as error:
                raise TransientError("unusable", str(error)) from error
            except MALFORMED as error:
                what = f"it lacks something that was asked for ({type(error).__name__}: {error})"
                raise TransientError("unusable", what) from error

        return await self._retried(attempt, prompts=prompts, only=replica, patience=patience)

    async def _retried(
        self,
        attempt: Callable[[str, Tokens], Awaitable[T]],
        *,
        prompts: int,
        only: str | None = None,
        patience: float | None = None,
    ) -> T:
        """The result of `attempt` on a replica, tried again with growing pauses for as long as patience lasts.

        A replica that failed rests. While all of them do, so do its requests. Patience is with failures: what an
        answer takes, however long, is none of it. It ends with a last attempt, unless the engine wants none yet.
        """
        patience = self.options.patience if patience is None else patience
        deadline: float | None = None
        pause = _FIRST_PAUSE
        unusable = 0
        while True:
            replica = only or self._choose()
            now = self._clock()
            if (rest := self._rests_until[replica] - now) > 0:
                deadline = now + patience if deadline is None else deadline
                if now >= deadline or self._asked_until[replica] > deadline:
                    raise self._unavailable(self._failed[replica], rest)
                await asyncio.sleep(min(rest, deadline - now))
            try:
                return await self._observed(attempt, replica, prompts)
            except TransientError as error:
                failure = self._failed[replica] = error
            if failure.outcome == "unusable":
                unusable += 1
                if unusable == _UNUSABLE_ANSWERS:
                    name = self.address.name
                    raise EngineError(name, f"the engine that serves {name!r} gives answers of no use: {failure}")
                if only or len(self._busy) == 1:  # else another may do better
                    continue
            if failure.outcome == "overloaded" and len(self._busy) == 1:  # others may have time
                self.window.overloaded()
            # A random share of the pause: a replica that comes back is not asked by everybody at once.
            rest = pause * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret
            now = self._clock()
            deadline = now + patience if deadline is None else deadline
            self._asked_until[replica] = max(self._asked_until[replica], now + (failure.retry_after or 0.0))
            self._rests_until[replica] = max(self._rests_until[replica], self._asked_until[replica], now + rest)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _observed(self, attempt: Callable[[str, Tokens], Awaitable[T]], replica: str, prompts: int) -> T:
        """The result of one attempt, with which `observe` is called."""
        began = self._clock()
        self._busy[replica] += 1
        outcome, tokens = "cancelled", Tokens()
        try:
            found = await attempt(replica, tokens)
            outcome = "ok"
            self.window.answered(prompts)
            return found
        except TransientError as error:
            outcome = error.outcome
            raise
        except (httpx2.RequestError, TimeoutError) as error:
            outcome = "away"
            raise broken(error) from error
        except EngineError:
            outcome = "refused"
            raise
        finally:
            self._busy[replica] -= 1
            self._observe(Exchange(outcome, self._clock() - began, self.window.in_flight, **tokens))

    def _choose(self) -> str:
        """The replica with the fewest requests, of those that do not rest if there are such."""
        now = self._clock()
        return min(self._busy, key=lambda replica: (max(0.0, self._rests_until[replica] - now), self._busy[replica]))

    def _unavailable(self, failure: TransientError, retry_seconds: float) -> EngineUnavailableError:
        name = self.address.name
        message = f"the engine that serves {name!r} does not answer for now: {failure}"
        return EngineUnavailableError(name, message, retry_seconds)
