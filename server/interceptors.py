"""What happens around every call, so that no servicer holds it: metrics, errors, draining."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from ml.errors import ReplyTooLargeError
from server.errors import DrainingError, to_status
from server.metrics import Metrics

OWN_SERVICES = "/gloss.v1."

Context = grpc.aio.ServicerContext[Any, Any]
Sent = Callable[[Message], None]
"""Told of every message before it is sent."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Method:
    """What is called."""

    path: str
    """As on the wire: "/package.Service/Method"."""

    type: str = "unary"
    """As the grpc-prometheus family calls it."""

    @property
    def labels(self) -> tuple[str, str, str]:
        """grpc_type, grpc_service and grpc_method."""
        _, service, method = self.path.split("/")
        return (self.type, service, method)


_TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}
_MAKERS: Any = {
    "unary": grpc.unary_unary_rpc_method_handler,
    "server_stream": grpc.unary_stream_rpc_method_handler,
    "client_stream": grpc.stream_unary_rpc_method_handler,
    "bidi_stream": grpc.stream_stream_rpc_method_handler,
}

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def type_of(handler: Handler) -> str:
    """What `Method` calls the type of a handler's method."""
    return _TYPES[bool(handler.request_streaming), bool(handler.response_streaming)]


def function_of(handler: Handler) -> Callable[..., Any]:
    """What a handler calls."""
    functions = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    return next(function for function in functions if function is not None)


def rebuilt(handler: Handler, function: Callable[..., Any], parse: Callable[[bytes], Any] | None = None) -> Handler:
    """A handler of the same type that calls `function`, and parses requests by `parse` if there is one."""
    made: Handler = _MAKERS[type_of(handler)](
        function,
        request_deserializer=parse or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


class Interceptor(grpc.aio.ServerInterceptor):
    """Base of all interceptors here: looks up the handler of a method, and lets a subclass wrap it."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the method's handler; see `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None:
            self.unknown(handler_call_details)
            return None
        return self.wrap(handler, handler_call_details)

    def wrap(self, handler: Handler, call: grpc.HandlerCallDetails) -> Handler:
        """Return the handler that answers `call` in place of `handler`. Default: the same."""
        return handler

    def unknown(self, call: grpc.HandlerCallDetails) -> None:
        """Take note of a call of a method that there is not; gRPC answers UNIMPLEMENTED. Default: do nothing."""


Around = Callable[[Method, Context], AbstractAsyncContextManager[Sent]]


class Surround(Interceptor):
    """Runs each call of the services under `prefix` inside `around`.

    A path that no service answers is not wrapped, so labels stay bounded.
    """

    def __init__(self, around: Around, prefix: str = "/") -> None:
        self._around = around
        self._prefix = prefix

    def wrap(self, handler: Handler, call: grpc.HandlerCallDetails) -> Handler:
        """Wrap the handlers of methods under the prefix."""
        if not call.method.startswith(self._prefix):
            return handler
        method, function = Method(call.method, type_of(handler)), function_of(handler)
        if not handler.response_streaming:
            return rebuilt(handler, self._wrap_unary(method, function))
        if inspect.isasyncgenfunction(function):
            return rebuilt(handler, self._wrap_stream(method, function))
        return rebuilt(handler, self._wrap_writing(method, function))

    def _wrap_unary(self, method: Method, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Message, context: Context) -> Message:
            async with self._around(method, context) as sent:
                reply: Message = await handle(request, context)
                sent(reply)
                return reply
            raise AssertionError("whatever runs around a call lets its errors through")

        return call

    def _wrap_stream(self, method: Method, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Message, context: Context) -> AsyncIterator[Message]:
            async with self._around(method, context) as sent, aclosing(handle(request, context)) as replies:
                async for reply in replies:
                    sent(reply)
                    yield reply

        return call

    def _wrap_writing(self, method: Method, handle: Callable[..., Any]) -> Callable[..., Any]:
        """Of a method that writes to its context, such as the health service's Watch; what it sends is not seen."""

        async def call(request: Message, context: Context) -> None:
            async with self._around(method, context):
                await handle(request, context)

        return call


class UnknownMethods(Interceptor):
    """Counts calls of methods that there are not, all under one label: their names are whatever clients invent."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def unknown(self, call: grpc.HandlerCallDetails) -> None:
        """Count the call."""
        labels = ("unknown", "unknown", "unknown")
        self._metrics.rpc_started.labels(*labels).inc()
        self._metrics.rpc_handled.labels(*labels, camel(grpc.StatusCode.UNIMPLEMENTED)).inc()


def count_calls(metrics: Metrics) -> Around:
    """Counts and times calls. Outermost, so that it sees the status that the caller sees."""

    @asynccontextmanager
    async def around(method: Method, context: Context) -> AsyncIterator[Sent]:
        labels = method.labels
        began = time.perf_counter()
        metrics.rpc_started.labels(*labels).inc()
        if method.type in {"unary", "server_stream"}:
            metrics.rpc_received.labels(*labels).inc()
        sent = metrics.rpc_sent.labels(*labels)
        code = grpc.StatusCode.UNKNOWN
        try:
            yield lambda _: sent.inc()
            code = _code(context)
        except grpc.aio.AbortError:
            code = _code(context)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = _left(context)
            raise
        finally:
            metrics.rpc_handled.labels(*labels, camel(code)).inc()
            metrics.rpc_seconds.labels(*labels).observe(time.perf_counter() - began)

    return around


def map_errors(max_message_bytes: int) -> Around:
    """Ends a call that raised with the status for its error, and refuses replies that gRPC would refuse to send."""

    @asynccontextmanager
    async def around(method: Method, context: Context) -> AsyncIterator[Sent]:
        def check(reply: Message) -> None:
            if (size := reply.ByteSize()) > max_message_bytes:
                raise ReplyTooLargeError("", size, max_message_bytes, "ask for less at once")

        try:
            yield check
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 -- this is where the unforeseen ends
            await context.abort_with_status(to_status(error, method.path))

    return around


class Drain:
    """Refuses new calls once the server is stopping, knows when the accepted ones are done, and ends what is left."""

    def __init__(self) -> None:
        self._active: set[asyncio.Task[Any] | None] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._begun = asyncio.Event()
        self._cut = False

    @property
    def begun(self) -> bool:
        """Whether the server is stopping."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Refuse calls from now on."""
        self._begun.set()

    async def wait_begun(self) -> None:
        """Wait until the server is stopping."""
        await self._begun.wait()

    async def wait_idle(self) -> None:
        """Wait until no call is in progress."""
        await self._idle.wait()

    def cut(self) -> None:
        """End the calls in progress with UNAVAILABLE, after which a client tries again elsewhere."""
        self._cut = True
        for task in self._active:
            if task is not None:
                task.cancel()

    @asynccontextmanager
    async def around(self, method: Method, context: Context) -> AsyncIterator[Sent]:
        """Count a call as in progress.

        Raises:
            DrainingError: the server is stopping, or was stopped before the call ended.
        """
        if self.begun:
            raise DrainingError
        task = asyncio.current_task()
        self._active.add(task)
        self._idle.clear()
        try:
            yield lambda _: None
        except asyncio.CancelledError:
            if not self._cut or task is None:
                raise
            task.uncancel()
            raise DrainingError from None
        finally:
            self._active.discard(task)
            if not self._active:
                self._idle.set()


def _code(context: Context) -> grpc.StatusCode:
    """The code with which a call ends. gRPC has it as a code after an abort, else as a number, 0 or None for OK."""
    code: Any = context.code()
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code or 0, grpc.StatusCode.UNKNOWN)


def _left(context: Context) -> grpc.StatusCode:
    """Why a call ended early: it was aborted, its time ran out, or its caller left."""
    if (code := _code(context)) is not grpc.StatusCode.OK:
        return code
    remaining = context.time_remaining()
    expired = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


def camel(code: grpc.StatusCode) -> str:
    """The code as the grpc-prometheus family, which is Go's, writes it: OK, Canceled, InvalidArgument."""
    odd = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return odd.get(code) or code.name.title().replace("_", "")
