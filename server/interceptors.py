"""Wrap the handlers of methods: in metrics, statuses, checks of keys and the like, which no service contains itself."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

OWN_SERVICES = "/gloss.v1."

Context = grpc.aio.ServicerContext[Any, Any]
Sent = Callable[[], object]
"""Called before each message is sent."""
Around = Callable[[Context], AbstractContextManager[Sent]]
"""What runs around each call of one method."""


@dataclass(frozen=True)
class Method:
    """A method of a service."""

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


def rebuilt(
    handler: Handler,
    function: Callable[..., Any],
    *,
    parse: Callable[[bytes], Any] | None = None,
    serialize: Callable[[Any], bytes] | None = None,
) -> Handler:
    """A handler of the same type that calls `function`.

    Args:
        parse: how requests are parsed. Default: as before.
        serialize: how what `function` returns or yields is serialized. Default: as before.
    """
    made: Handler = _MAKERS[type_of(handler)](
        function,
        request_deserializer=parse or handler.request_deserializer,
        response_serializer=serialize or handler.response_serializer,
    )
    return made


class Interceptor:
    """Base of all interceptors here: lets a subclass wrap the handlers of methods."""

    def wrap(self, handler: Handler, path: str) -> Handler:
        """Return the handler that answers the method of `path` in place of `handler`."""
        raise NotImplementedError


class Interceptors(grpc.aio.ServerInterceptor):
    """Several interceptors as one. Each wraps a method's handler once, at its first call, and not at every call."""

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        enter: Callable[[], Awaitable[None]],
        unknown: Callable[[], None],
        for_call: Callable[[Handler, grpc.HandlerCallDetails], Handler] | None = None,
    ) -> None:
        """Chain `interceptors`, the outermost first.

        Args:
            enter: waited for before each call, of whatever method.
            unknown: called for each call of a method that does not exist; gRPC answers UNIMPLEMENTED.
            for_call: the handler of one call, from its method's and from what came before its message.
        """
        self._interceptors = tuple(interceptors)
        self._enter = enter
        self._unknown = unknown
        self._for_call = for_call
        self._handlers: dict[str, Handler] = {}  # Of methods that there are: other names are whatever clients invent.

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The wrapped handler of the method that is called; see `grpc.aio.ServerInterceptor`."""
        await self._enter()
        path = handler_call_details.method
        if path not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                self._unknown()
                return None
            for interceptor in reversed(self._interceptors):
                handler = interceptor.wrap(handler, path)
            self._handlers[path] = handler
        handler = self._handlers[path]
        return handler if self._for_call is None else self._for_call(handler, handler_call_details)


class Surround(Interceptor):
    """Runs each call of the services under `prefix` inside what `around` gives for its method."""

    def __init__(self, around: Callable[[Method], Around], prefix: str = "/") -> None:
        self._around = around
        self._prefix = prefix

    def wrap(self, handler: Handler, path: str) -> Handler:
        """Wrap the handlers of methods under the prefix."""
        if not path.startswith(self._prefix):
            return handler
        around, function = self._around(Method(path, type_of(handler))), function_of(handler)
        if not handler.response_streaming:
            return rebuilt(handler, _around_unary(around, function))
        if inspect.isasyncgenfunction(function):
            return rebuilt(handler, _around_stream(around, function))
        return rebuilt(handler, _around_writing(around, function))


def _around_unary(around: Around, handle: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> Any:
        with around(context) as sent:
            reply = await handle(request, context)
            sent()
            return reply

    return call


def _around_stream(around: Around, handle: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        with around(context) as sent:
            async with aclosing(handle(request, context)) as replies:
                async for reply in replies:
                    sent()
                    yield reply

    return call


def _around_writing(around: Around, handle: Callable[..., Any]) -> Callable[..., Any]:
    """Of a method that writes to its context, such as the health service's Watch; what it sends is not seen."""

    async def call(request: Any, context: Context) -> None:
        with around(context):
            await handle(request, context)

    return call
