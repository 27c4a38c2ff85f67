"""Sends what streams yield, at the speed at which their clients read.

gRPC holds a message back until its client has read most of the ones before, and would wait for that forever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any

import grpc
from google.protobuf.message import Message

from server.errors import UnreadError, to_status
from server.interceptors import Context, Handler, Interceptor, function_of, rebuilt


class Writer(Interceptor):
    """Sends the replies of methods that yield them, and gives up streams that are not read.

    Outermost: however a call ends, the generators inside are closed before gRPC hears of it.
    """

    def __init__(self, seconds: float) -> None:
        """Wait up to `seconds` for a client to read on."""
        self._seconds = seconds
        self._ending: set[asyncio.Future[Any]] = set()

    def wrap(self, handler: Handler, path: str) -> Handler:
        """Wrap the handlers that yield replies."""
        function = function_of(handler)
        return rebuilt(handler, self._writing(path, function)) if isasyncgenfunction(function) else handler

    def _writing(self, path: str, handle: Callable[..., AsyncIterator[Message]]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> None:
            async with aclosing(handle(request, context)) as replies:  # type: ignore[type-var]  # it is a generator
                async for reply in replies:
                    try:
                        async with asyncio.timeout(self._seconds):
                            await context.write(reply)
                    except TimeoutError:
                        await self._give_up(path, context)
                        return
                    except grpc.aio.InternalError:  # The client left while the message waited; no fault of ours.
                        raise asyncio.CancelledError from None

        return call

    async def _give_up(self, path: str, context: Context) -> None:
        """End a call whose client does not read, without waiting for it: the status too is sent when it reads."""
        ending: asyncio.Future[Any] = asyncio.ensure_future(
            context.abort_with_status(to_status(UnreadError(self._seconds), path))
        )
        self._ending.add(ending)
        ending.add_done_callback(self._ended)
        await asyncio.sleep(0)  # From here on the call has its code.

    def _ended(self, ending: asyncio.Future[Any]) -> None:
        self._ending.discard(ending)
        if not ending.cancelled():
            ending.exception()  # That the call was aborted, or that its client left: both are known.
