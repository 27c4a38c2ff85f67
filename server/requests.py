"""Reading requests: bytes that are no message are refused as any other bad input is.

gRPC parses a request before it calls the handler, and answers bytes that it cannot parse with UNKNOWN, the parser's own
words and a traceback in the log, before any check of keys and uncounted. Here they pass all checks as a mark.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
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
    """Parses requests, and refuses those that are no message. Innermost, so that every check comes first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused = 0  # since the last line of the log
        self._logged = float("-inf")

    def wrap(self, handler: Handler, call: grpc.HandlerCallDetails) -> Handler:
        """Wrap the handlers that take messages."""
        if handler.request_deserializer is None:
            return handler
        function, path = function_of(handler), call.method
        if inspect.isasyncgenfunction(function):
            wrapped = self._yielding(path, function)
        else:
            wrapped = self._returning(path, function)
        return rebuilt(handler, wrapped, _tolerant(handler.request_deserializer))

    def _returning(self, path: str, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            return await handle(await self._checked(path, request, context), context)

        return call

    def _yielding(self, path: str, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Message]:
            async with aclosing(handle(await self._checked(path, request, context), context)) as replies:
                async for reply in replies:
                    yield reply

        return call

    async def _checked(self, path: str, request: Any, context: Context) -> Any:
        """A request, or the requests of a stream, as they are; the call is aborted at the first that is no message."""
        if isinstance(request, Malformed):
            await self._refuse(path, request, context)
        return self._each(path, request, context) if hasattr(request, "__aiter__") else request

    async def _each(self, path: str, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:
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
