"""What is counted of calls, in the names and labels of the grpc-prometheus family."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import grpc

from server.interceptors import Around, Context, Method, Sent
from server.metrics import Metrics

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def count_unknown(metrics: Metrics) -> Callable[[], None]:
    """Counts calls of unknown methods, all under one label: clients could invent any number of names."""
    labels = ("unknown", "unknown", "unknown")

    def count() -> None:
        metrics.rpc_started.labels(*labels).inc()
        metrics.rpc_handled.labels(*labels, camel(grpc.StatusCode.UNIMPLEMENTED)).inc()

    return count


def count_calls(metrics: Metrics) -> Callable[[Method], Around]:
    """Counts and times calls. Outermost, so that it sees the status that the caller sees."""

    def of_method(method: Method) -> Around:
        # To find a series by its labels takes longer than to add to it.
        counters = (metrics.rpc_started, metrics.rpc_received, metrics.rpc_sent)
        started, received, sent = (counter.labels(*method.labels) for counter in counters)
        seconds = metrics.rpc_seconds.labels(*method.labels)
        handled = cache(lambda code: metrics.rpc_handled.labels(*method.labels, camel(code)))
        has_one_request = method.type in {"unary", "server_stream"}

        @contextmanager
        def around(context: Context) -> Iterator[Sent]:
            began = time.perf_counter()
            started.inc()
            if has_one_request:
                received.inc()
            code = grpc.StatusCode.UNKNOWN
            try:
                yield sent.inc
                code = code_of(context)
            except grpc.aio.AbortError:
                code = code_of(context)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                code = left_with(context)
                raise
            finally:
                handled(code).inc()
                seconds.observe(time.perf_counter() - began)

        return around

    return of_method


def code_of(context: Context) -> grpc.StatusCode:
    """The code with which a call ends. gRPC has it as a code after an abort, else as a number, 0 or None for OK."""
    code: Any = context.code()
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code or 0, grpc.StatusCode.UNKNOWN)


def left_with(context: Context) -> grpc.StatusCode:
    """Why a call ended early: it was aborted, its time ran out, or its caller left."""
    if (code := code_of(context)) is not grpc.StatusCode.OK:
        return code
    remaining = context.time_remaining()
    expired = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


def camel(code: grpc.StatusCode) -> str:
    """The code as the grpc-prometheus family, which is Go's, writes it: OK, Canceled, InvalidArgument."""
    odd = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return odd.get(code) or code.name.title().replace("_", "")
