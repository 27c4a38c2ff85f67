"""How calls of our services end: with a reply that can be sent, or with the status for what went wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

from ml.errors import ReplyTooLargeError
from server.callers import queued_as
from server.errors import KeyLimitError, OverloadedError, UnauthenticatedError, to_status
from server.interceptors import OWN_SERVICES, Context, Handler, Interceptor, function_of, rebuilt

_REFUSALS = (KeyLimitError, OverloadedError, UnauthenticatedError)
"""Errors of calls that are refused before they take anything, and of which many may come."""


class Statuses(Interceptor):
    """Ends a call of our services that raised with the status for its error.

    Replies are serialized here, so that one that is too large to be sent is an error of its call as any other.
    """

    def __init__(self, max_message_bytes: int, refused: Callable[[str], None]) -> None:
        """Serialize replies of at most so many bytes. `refused`: called with the caller of each refused call."""
        self._max_message_bytes = max_message_bytes
        self._refused = refused

    def wrap(self, handler: Handler, path: str) -> Handler:
        """Wrap the handlers of our services."""
        if not path.startswith(OWN_SERVICES):
            return handler
        function, serialize = function_of(handler), self._within_limit(handler.response_serializer or bytes)
        wrapped = self._yielding if handler.response_streaming else self._returning
        return rebuilt(handler, wrapped(path, function, serialize), serialize=bytes)

    def _within_limit(self, serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        limit = self._max_message_bytes

        def checked(reply: Any) -> bytes:
            data = serialize(reply)
            if len(data) > limit:
                raise ReplyTooLargeError("", len(data), limit, "ask for less at once")
            return data

        return checked

    def _returning(self, path: str, handle: Callable[..., Any], serialize: Callable[[Any], bytes]) -> Any:
        async def call(request: Any, context: Context) -> bytes:
            try:
                return serialize(await handle(request, context))
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 -- this is where the unforeseen ends
                await self._abort(path, error, context)

        return call

    def _yielding(self, path: str, handle: Callable[..., Any], serialize: Callable[[Any], bytes]) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[bytes]:
            try:
                async with aclosing(handle(request, context)) as replies:
                    async for reply in replies:
                        yield serialize(reply)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 -- as above
                await self._abort(path, error, context)

        return call

    async def _abort(self, path: str, error: Exception, context: Context) -> NoReturn:
        if isinstance(error, _REFUSALS):
            self._refused(queued_as(context))
        await context.abort_with_status(to_status(error, path))
        raise AssertionError("an abort raises")
