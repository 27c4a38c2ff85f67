"""The audit log: who changed what, when, and with what outcome. It holds no prompt and no key."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from server.call_metrics import code_of, left_with
from server.callers import caller
from server.errors import describe
from server.interceptors import OWN_SERVICES, Context, Handler, Interceptor, function_of, rebuilt
from server.metrics import Metrics
from server.ports import StartError

_READING = re.compile(r"/gloss\.v1\.(InferenceService/|\w+/(Get|List|Watch))")
"""Methods that change nothing. Calls of all others are logged, future ones included."""
_NAME = re.compile(r"[a-z]+/[A-Za-z0-9_-]{1,128}")

_logger = logging.getLogger(__name__)


class AuditLog:
    """Lines of JSON in a file, or on stderr. The file is opened for each line, so it may be moved away at any time."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        """Write to `path`, or to stderr.

        Raises:
            StartError: nothing can be appended to the file, with exit code 2.
        """
        self._path = path
        self._failures = metrics.audit_failures
        try:
            self._append(b"")
        except OSError as error:
            raise StartError(f"GLOSS_AUDIT_FILE: {path} cannot be written: {error.strerror}", 2) from None

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry. One that cannot be written is counted, and goes to stderr."""
        line = json.dumps(entry)
        if self._path is not None:
            try:
                self._append(line.encode() + b"\n")
            except OSError as error:
                self._failures.inc()
                _logger.error("the audit log cannot be written (%s); its entry follows", error.strerror)
            else:
                return
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            self._failures.inc()

    def _append(self, line: bytes) -> None:
        if self._path is None:
            return
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.write(file, line) != len(line):
                raise OSError(None, "only a part of the line was taken")
        finally:
            os.close(file)


class Audit(Interceptor):
    """Writes an entry for every call that changes something, before its caller gets the outcome.

    Stands outside of what finds out who calls, so that it sees refusals by a limit too, and inside of `Statuses`.
    """

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def wrap(self, handler: Handler, path: str) -> Handler:
        """Wrap the handlers of methods that change something."""
        if not path.startswith(OWN_SERVICES) or _READING.match(path):
            return handler
        function = function_of(handler)
        around = self._streaming if inspect.isasyncgenfunction(function) else self._unary
        return rebuilt(handler, around(path, function))

    def _unary(self, path: str, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Message, context: Context) -> Message:
            with self._entry(path, request, context) as replied:
                reply: Message = await handle(request, context)
                replied(reply)
                return reply

        return call

    def _streaming(self, path: str, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Message, context: Context) -> AsyncIterator[Message]:
            with self._entry(path, request, context) as replied:
                async with aclosing(handle(request, context)) as replies:
                    async for reply in replies:
                        replied(reply)
                        yield reply

        return call

    @contextmanager
    def _entry(self, path: str, request: Message, context: Context) -> Iterator[Callable[[Message], None]]:
        """Write an entry when the call ends. What this yields takes its replies: one may name what was made."""
        resource, code = _resource(request), grpc.StatusCode.OK

        def replied(reply: Message) -> None:
            nonlocal resource
            resource = resource or _resource(reply)

        try:
            yield replied
        except BaseException as error:
            code = _outcome(error, context)
            raise
        finally:
            # A call without a valid key has no caller, and validation changes nothing.
            if code is not grpc.StatusCode.UNAUTHENTICATED and not getattr(request, "validate_only", False):
                self._write(path, resource, context, code)

    def _write(self, path: str, resource: str, context: Context, code: grpc.StatusCode) -> None:
        who = caller()
        self._log.write(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "caller": who.name,
                "tenant": who.access.tenant,
                "admin": who.access.admin,
                "peer": context.peer(),
                "method": path.removeprefix("/"),
                "resource": resource,
                "outcome": code.name,
            }
        )


def _outcome(error: BaseException, context: Context) -> grpc.StatusCode:
    """The code with which a call ends whose handler raised."""
    if isinstance(error, grpc.aio.AbortError):
        return code_of(context)
    if isinstance(error, Exception):
        failure = describe(error)
        return failure.code if failure else grpc.StatusCode.INTERNAL
    return left_with(context)


def _resource(message: Message) -> str:
    """The name in a message, where it has the form of ours: anything else might hold what was asked."""
    name = getattr(message, "name", "") if isinstance(message, Message) else ""
    return name if _NAME.fullmatch(name) else ""
