"""Who may call: every call but the health service's needs a key, and stays within what that key is allowed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import Message

from server.callers import Caller, admit
from server.errors import KeyLimitError, UnauthenticatedError, to_status
from server.interceptors import OWN_SERVICES, Context, Handler, Interceptor, function_of, rebuilt
from server.keys import Key, KeyFile
from server.requests import Malformed

_HEALTH = "/grpc.health.v1.Health/"
_SCHEME = "bearer "
_BUSY_RETRY_SECONDS = 1.0
"""When a key with too many calls in progress may try again: one of them may have ended."""

Metadata = Any

_key: ContextVar[Key | None] = ContextVar("key", default=None)
"""The key of the current call, found when it came."""


class Gate(Interceptor):
    """Lets calls with a known key through. Stands inside what maps errors, so that refusals are counted and mapped."""

    def __init__(self, keys: KeyFile, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._usage: dict[str, Usage] = {}

    def wrap(self, handler: Handler, path: str) -> Handler:
        """Wrap the handlers of all services but health."""
        if path.startswith(_HEALTH):
            return handler
        if path.startswith(OWN_SERVICES) and handler.unary_unary is not None:
            return rebuilt(handler, self._unary(handler.unary_unary))
        if path.startswith(OWN_SERVICES) and handler.unary_stream is not None:
            return rebuilt(handler, self._stream(handler.unary_stream))
        # Reflection, the one service here that is not ours, streams both ways.
        return rebuilt(handler, self._known(path, function_of(handler)))

    def for_call(self, handler: Handler, call: grpc.HandlerCallDetails) -> Handler:
        """The handler of one call, whose key is found here. Without one it parses no message, and refuses the call.

        gRPC parses a message before it calls the handler, and some take a tenth of a second.
        """
        if call.method.startswith(_HEALTH):
            return handler
        key = self._find(call.invocation_metadata)
        _key.set(key)
        if key is not None:
            return handler
        return rebuilt(handler, function_of(handler), parse=lambda _: Malformed("message of a valid key"))

    def _unary(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Message, context: Context) -> Message:
            with self._admitted(request):
                reply: Message = await handle(request, context)
                return reply

        return call

    def _stream(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Message, context: Context) -> AsyncIterator[Message]:
            with self._admitted(request):
                async with aclosing(handle(request, context)) as replies:
                    async for reply in replies:
                        yield reply

        return call

    def _known(self, path: str, handle: Callable[..., Any]) -> Callable[..., Any]:
        """Of a method that any key may call, as often as it likes; nothing around it maps errors."""

        async def call(requests: AsyncIterator[Message], context: Context) -> AsyncIterator[Message]:
            if _key.get() is None:
                await context.abort_with_status(to_status(UnauthenticatedError(), path))
            async with aclosing(handle(requests, context)) as replies:
                async for reply in replies:
                    yield reply

        return call

    @contextmanager
    def _admitted(self, request: Message) -> Iterator[None]:
        """Hold one of the key's slots while a call is in progress.

        Raises:
            UnauthenticatedError: the call has no key that is known.
            KeyLimitError: the key has reached a limit.
        """
        key = _key.get()
        if key is None:
            raise UnauthenticatedError
        admit(Caller.of_key(key))
        usage = self._usage.setdefault(key.name, Usage())
        usage.enter(key, prompts(request), self._clock())
        try:
            yield
        finally:
            usage.calls -= 1

    def _find(self, metadata: Metadata) -> Key | None:
        for name, value in metadata or ():
            if name == "authorization" and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
                return self._keys.find(value[len(_SCHEME) :].strip())
        return None


class Usage:
    """What a key uses: its calls in progress, and a bucket of prompts that fills up again within a minute."""

    def __init__(self) -> None:
        self.calls = 0
        self._spent = 0.0
        self._at = 0.0

    def enter(self, key: Key, count: int, now: float) -> None:
        """Begin a call of `count` prompts. One larger than a minute's worth needs all of it.

        Raises:
            KeyLimitError: the key has reached a limit; nothing was counted.
        """
        if key.calls is not None and self.calls >= key.calls:
            raise KeyLimitError("calls", key.calls, _BUSY_RETRY_SECONDS)
        if key.prompts_per_minute is not None:
            rate = key.prompts_per_minute / 60
            self._spent = max(0.0, self._spent - rate * (now - self._at))
            self._at = now
            over = self._spent + min(count, key.prompts_per_minute) - key.prompts_per_minute
            if over > 1e-9:
                raise KeyLimitError("prompts_per_minute", key.prompts_per_minute, over / rate)
            self._spent += count
        self.calls += 1


def prompts(request: Message) -> int:
    """How many prompts a request counts as."""
    many: Any = getattr(request, "prompts", None) or getattr(request, "items", None)
    return len(many) if many else 1
