"""What is wrapped around handlers: once for each method, the outermost first, and bytes that go out as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gloss import v1 as pb
from ml.errors import InputError
from server.errors import KeyLimitError, OverloadedError, UnauthenticatedError
from server.interceptors import Handler, Interceptor, Interceptors, function_of, rebuilt
from server.statuses import Statuses

PATHS = ("/gloss.v1.InferenceService/NextToken", "/gloss.v1.InferenceService/Generate")


async def answer(request: Any, context: Any) -> pb.Usage:
    return pb.Usage(prompt_tokens=request)


async def answers(request: Any, context: Any) -> AsyncIterator[pb.Usage]:
    for tokens in range(request):
        yield pb.Usage(prompt_tokens=tokens)


HANDLERS: dict[str, Any] = {
    PATHS[0]: grpc.unary_unary_rpc_method_handler(answer, response_serializer=pb.Usage.SerializeToString),
    PATHS[1]: grpc.unary_stream_rpc_method_handler(answers, response_serializer=pb.Usage.SerializeToString),
}


class Noting(Interceptor):
    """Writes its name down whenever it wraps, and whenever what it wrapped is called."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wrap(self, handler: Handler, path: str) -> Handler:
        self.log.append(f"wrap {self.name}")
        function = function_of(handler)

        def call(request: Any, context: Any) -> Any:
            self.log.append(self.name)
            return function(request, context)

        return rebuilt(handler, call)


async def at_once() -> None:
    pass


def found(interceptors: Interceptors, path: str) -> Any:
    """The handler that gRPC would call."""

    async def look_up(call: Any) -> Handler | None:
        return HANDLERS.get(call.method)

    call: Any = SimpleNamespace(method=path, invocation_metadata=())
    return asyncio.run(interceptors.intercept_service(look_up, call))  # type: ignore[arg-type]  # a coroutine it is


def test_a_methods_handler_is_wrapped_once_and_the_first_interceptor_is_outermost() -> None:
    log: list[str] = []
    interceptors = Interceptors([Noting("outer", log), Noting("inner", log)], at_once, lambda: None)
    for _ in range(3):
        assert asyncio.run(found(interceptors, PATHS[0]).unary_unary(5, None)).prompt_tokens == 5
    assert log == ["wrap inner", "wrap outer", *3 * ["outer", "inner"]]
    assert found(interceptors, PATHS[1]).unary_stream is not None
    assert log.count("wrap inner") == 2


def test_every_call_of_a_method_that_there_is_not_is_told_and_nothing_is_kept_of_it() -> None:
    calls: list[None] = []
    interceptors = Interceptors([Noting("any", [])], at_once, lambda: calls.append(None))
    for number in range(5):
        assert found(interceptors, f"/invented/{number}") is None
        assert found(interceptors, "/invented/again") is None
    assert len(calls) == 10
    assert not interceptors._handlers


class StatusError(Exception):
    """What a call ended with."""


class Context:
    """Takes the status of a call."""

    async def abort_with_status(self, status: Any) -> None:
        raise StatusError(status.code)

    def peer(self) -> str:
        return "peer"


def sent(limit: int, path: str, request: int) -> list[bytes]:
    """What gRPC would send, until the call ends.

    Raises:
        StatusError: with anything but OK. Nothing was sent then.
    """
    handler: Any = Statuses(limit, lambda _: None).wrap(HANDLERS[path], path)

    async def call() -> list[Any]:
        if handler.unary_unary is not None:
            return [await handler.unary_unary(request, Context())]
        return [reply async for reply in handler.unary_stream(request, Context())]

    return [handler.response_serializer(reply) for reply in asyncio.run(call())]


def test_replies_leave_as_the_bytes_of_their_messages() -> None:
    expected = [pb.Usage(prompt_tokens=tokens).SerializeToString() for tokens in range(3)]
    assert sent(100, PATHS[0], 2) == expected[2:]
    assert sent(100, PATHS[1], 3) == expected


@pytest.mark.parametrize("path", PATHS)
def test_a_reply_beyond_the_limit_ends_its_call_as_any_error(path: str) -> None:
    with pytest.raises(StatusError, match="INVALID_ARGUMENT"):
        sent(1, path, 2)


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (OverloadedError(1), 1),
        (KeyLimitError("calls", 1, 1), 1),
        (UnauthenticatedError(), 1),
        (InputError("a", "b"), 0),
    ],
)
def test_who_is_refused_is_noted(error: Exception, noted: int) -> None:
    callers: list[str] = []

    async def handle(request: Any, context: Any) -> Any:
        raise error

    handler = grpc.unary_unary_rpc_method_handler(handle)
    wrapped: Any = Statuses(100, callers.append).wrap(handler, PATHS[0])
    with pytest.raises(StatusError):
        asyncio.run(wrapped.unary_unary(None, Context()))
    assert callers == noted * ["peer"]


def test_services_that_are_not_ours_keep_their_handlers() -> None:
    handler = HANDLERS[PATHS[0]]
    assert Statuses(0, lambda _: None).wrap(handler, "/grpc.health.v1.Health/Check") is handler
