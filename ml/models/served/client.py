"""Requests to an engine's replicas: so many in flight, tried again where that may help, ended where nobody waits."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx2

from ml.errors import EngineError, EngineUnavailableError
from ml.models.served.address import Address
from ml.models.served.options import EngineOptions
from ml.models.served.window import Window

Body = Mapping[str, Any]

T = TypeVar("T")

_CONNECT_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may be answered."""

_OVERLOADED = frozenset({429, 503})
_KEY_WANTED = frozenset({401, 403})
_UNUSABLE_ANSWERS = 3
"""So many in a row, and it is no accident."""

_LONGEST_REASON = 300
"""Characters of an engine's own message that are repeated."""


@dataclass(frozen=True)
class Exchange:
    """One request that has ended, for whoever counts.

    Attributes:
        outcome: "ok", "overloaded", "failed", "unusable", "refused", "away", or "cancelled".
        in_flight: prompts that are asked for at this moment, its own among them.
        prompt_tokens: as the engine counts them; of them `cached_tokens` were in its prefix cache, as far as it tells.
    """

    outcome: str
    seconds: float
    in_flight: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What was made of an answer, and the replica that gave it."""

    value: T
    replica: str


class UnusableError(Exception):
    """An answer lacks what was asked for, or holds what is no number. The message says what."""


class RefusedError(EngineError):
    """The engine says that the request itself is wrong; `status` is its own."""

    def __init__(self, model: str, status: int, message: str) -> None:
        super().__init__(model, message)
        self.status = status


class _TransientError(Exception):
    """A request failed that may be tried again."""

    def __init__(self, outcome: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.retry_after = retry_after


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
            observe: is told of every request that has ended.
            transport: in place of the network.
        """
        self.address = address
        self.options = options
        self._observe = observe
        self._clock = asyncio.get_running_loop().time
        self.window = Window(options.concurrency * len(address.replicas), self._clock)
        headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(options.timeout, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            transport=transport,
        )
        self._busy = dict.fromkeys(address.replicas, 0)
        self._rests_until = dict.fromkeys(address.replicas, 0.0)

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
    ) -> Reply[T]:
        """What `read` makes of the answer to `body`, which holds so many prompts.

        Where it raises `UnusableError`, the engine is asked again, a few times.

        Raises:
            EngineUnavailableError, RefusedError: as `get`.
            EngineError: no answer was of use.
        """
        async with self.window.held(prompts):
            return await self._exchanged("POST", path, body, prompts, read, replica=replica, patience=patience)

    @asynccontextmanager
    async def stream(self, path: str, body: Body) -> AsyncIterator[AsyncIterator[Any]]:
        """The server-sent events that answer `body`, which has one prompt. Leaving the block ends the request.

        Raises:
            EngineUnavailableError, RefusedError: as `get`; once events have come, nothing is tried again.
        """
        async with self.window.held(1):
            response = await self._opened(path, body)
            try:
                yield self._events(response)
            finally:
                await response.aclose()

    async def _opened(self, path: str, body: Body) -> httpx2.Response:
        async def attempt(replica: str) -> httpx2.Response:
            request = self._http.build_request("POST", replica + path, json=dict(body))
            response = await self._http.send(request, stream=True)
            if response.status_code != httpx2.codes.OK:
                await response.aread()
                await response.aclose()
                self._check(response)
            return response

        return await self._retried(attempt, None, None, lambda response: (1, {}))

    async def _events(self, response: httpx2.Response) -> AsyncIterator[Any]:
        try:
            async for event in httpx2.EventSource(response):
                if event.data == "[DONE]":
                    return
                yield self._parsed(event.data)
        except httpx2.TransportError as error:
            raise self._unavailable(_TransientError("away", f"its text broke off ({_reason(error)})")) from error

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
        usage: dict[str, int] = {}

        async def attempt(chosen: str) -> Reply[T]:
            response = await self._http.request(method, chosen + path, json=None if body is None else dict(body))
            self._check(response)
            try:
                data = response.json()
                usage.update(_usage(data))
                return Reply(read(data), chosen)
            except (ValueError, UnusableError) as error:
                raise _TransientError("unusable", str(error) or "its answer is no JSON") from error

        return await self._retried(attempt, replica, patience, lambda reply: (prompts, usage))

    async def _retried(
        self,
        attempt: Callable[[str], Awaitable[T]],
        only: str | None,
        patience: float | None,
        measured: Callable[[T], tuple[int, Mapping[str, int]]],
    ) -> T:
        """The result of `attempt` on a replica, tried again with growing pauses for as long as patience lasts.

        A replica that failed rests. While all of them do, so do its requests.
        """
        deadline = self._clock() + (self.options.patience if patience is None else patience)
        pause = _FIRST_PAUSE
        failure = _TransientError("overloaded", "it asked for a pause")
        unusable = 0
        while True:
            replica = only or self._choose()
            rest = max(0.0, self._rests_until[replica] - self._clock())
            if rest and self._clock() + rest > deadline:
                raise self._unavailable(failure, rest)
            await asyncio.sleep(rest)
            try:
                return await self._observed(attempt, replica, measured)
            except _TransientError as error:
                failure = error
            if failure.outcome == "overloaded":
                self.window.overloaded()
            unusable += failure.outcome == "unusable"
            if unusable == _UNUSABLE_ANSWERS:
                name = self.address.name
                raise EngineError(name, f"the engine that serves {name!r} gives answers of no use: {failure}")
            # A random share of the pause: a replica that comes back is not asked by everybody at once.
            rest = max(failure.retry_after or 0.0, pause * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret
            self._rests_until[replica] = max(self._rests_until[replica], self._clock() + rest)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _observed(
        self,
        attempt: Callable[[str], Awaitable[T]],
        replica: str,
        measured: Callable[[T], tuple[int, Mapping[str, int]]],
    ) -> T:
        """The result of one attempt, of which `observe` is told."""
        began = self._clock()
        self._busy[replica] += 1
        outcome, prompts, usage = "cancelled", 0, dict[str, int]()
        try:
            found = await attempt(replica)
            outcome = "ok"
            prompts, usage = measured(found)
            self.window.answered(prompts)
            return found
        except RefusedError:
            outcome = "refused"
            raise
        except _TransientError as error:
            outcome = error.outcome
            raise
        except httpx2.TransportError as error:
            outcome = "away"
            raise _TransientError(outcome, _reason(error)) from error
        finally:
            self._busy[replica] -= 1
            self._observe(Exchange(outcome, self._clock() - began, self.window.in_flight, **usage))

    def _choose(self) -> str:
        """The replica with the fewest requests, of those that do not rest if there are such."""
        now = self._clock()
        return min(self._busy, key=lambda replica: (max(0.0, self._rests_until[replica] - now), self._busy[replica]))

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status == httpx2.codes.OK:
            return
        message = _message(response)
        if status in _TRANSIENT:
            outcome = "overloaded" if status in _OVERLOADED else "failed"
            raise _TransientError(outcome, f"it answered {status}: {message}", _retry_after(response))
        if status in _KEY_WANTED:
            raise RefusedError(self.address.name, status, f"the engine refuses the key in GLOSS_ENGINE_KEY ({status})")
        raise RefusedError(self.address.name, status, f"the engine refuses the request ({status}): {message}")

    def _parsed(self, data: str) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise EngineError(self.address.name, "the engine sent an event that is no JSON") from error

    def _unavailable(self, failure: _TransientError, retry_seconds: float = 1.0) -> EngineUnavailableError:
        name = self.address.name
        message = f"the engine that serves {name!r} does not answer for now: {failure}"
        return EngineUnavailableError(name, message, retry_seconds)


def _reason(error: Exception) -> str:
    """An error of the connection in words. Its address is left out: callers are told this."""
    match error:
        case httpx2.ConnectTimeout() | httpx2.ConnectError():
            return "nothing accepts connections there"
        case httpx2.TimeoutException():
            return "it took too long"
        case _:
            return f"the connection broke ({type(error).__name__})"


def _message(response: httpx2.Response) -> str:
    """What an engine says is wrong, by OpenAI's form of errors or any other."""
    try:
        data = response.json()
        found = data["error"]["message"] if isinstance(data.get("error"), dict) else data.get("message", data)
    except (ValueError, KeyError, AttributeError):
        found = response.text
    return str(found).strip().partition("\n")[0][:_LONGEST_REASON]


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the engine asks to wait, by a number or a date."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None


def _usage(data: Any) -> dict[str, int]:
    usage = data.get("usage") if isinstance(data, dict) else None
    if not isinstance(usage, dict):
        return {}
    details = usage.get("prompt_tokens_details") or {}
    return {
        "prompt_tokens": int(usage.get("prompt_tokens") or 0),
        "cached_tokens": int(details.get("cached_tokens") or 0),
        "completion_tokens": int(usage.get("completion_tokens") or 0),
    }
