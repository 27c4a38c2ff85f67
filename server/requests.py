"""Parse requests, and refuse bytes that are no message like any other bad input.

gRPC parses a request before it calls the handler. Bytes that it cannot parse would end with UNKNOWN, the parser's own
words and a traceback in the log, before the key is checked, and uncounted. So parsing never fails here: such bytes
become a `Malformed`, which passes all checks and is refused last.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from server.errors import MalformedRequestError, to_status
from server.interceptors import Context, Handler, Interceptor, function_of, rebuilt

_logger = logging.getLogger(__name__)

_LOG_SECONDS = 1.0


@dataclass(frozen=True)
class Malformed:
    """In place of a request whose bytes are no message of the type `name`."""

    name: str


class Parser(Interceptor):
    """Parses requests, and refuses those that are no message. The innermost interceptor: every check comes first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused = 0  # since the last line of the log
        self._logged = float("-inf")

    def wrap(self, handler: Handler, path: str) -> Handler:
        """Wrap the handlers that take messages."""
        if handler.request_deserializer is None:
            return handler
        function = function_of(handler)
        wrapped = self._yielding if inspect.isasyncgenfunction(function) else self._returning
        call = wrapped(path, function, streaming=bool(handler.request_streaming))
        return rebuilt(handler, call, parse=_tolerant(handler.request_deserializer))

    def _returning(self, path: str, handle: Callable[..., Any], *, streaming: bool) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            if isinstance(request, Malformed):
                await self._refuse(path, request, context)
            asked = self._each(path, request, context) if streaming else request
            return await handle(asked, context)

        return call

    def _yielding(self, path: str, handle: Callable[..., Any], *, streaming: bool) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Message]:
            if isinstance(request, Malformed):
                await self._refuse(path, request, context)
            asked = self._each(path, request, context) if streaming else request
            async with aclosing(handle(asked, context)) as replies:
                async for reply in replies:
                    yield reply

        return call

    async def _each(self, path: str, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:
        """The requests of a stream as they are; the call is aborted at the first that is no message."""
        async for request in requests:
            if isinstance(request, Malformed):
                await self._refuse(path, request, context)
            yield request

    async def _refuse(self, path: str, request: Malformed, context: Context) -> None:
        self._refused += 1
        if (now := self._clock()) - self._logged >= _LOG_SECONDS:
            _logger.warning(
                "refused malformed requests: %d, the last of %s from %s", self._refused, path, context.peer()
            )
            self._logged, self._refused = now, 0
        await context.abort_with_status(to_status(MalformedRequestError(request.name), path))


def _tolerant(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    name = getattr(getattr(getattr(parse, "__self__", None), "DESCRIPTOR", None), "full_name", "message of its type")

    def tolerant(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return Malformed(name)

    return tolerant
