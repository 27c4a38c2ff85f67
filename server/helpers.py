"""Convert messages to tasks and results to messages: small ones on the event loop, larger ones elsewhere.

Messages of more than 8 KB go to one of two threads. Messages of more than 64 KB go to separate processes, as Python
would run their thread instead of the model's; see `server.helper_process`. Two processes run at a time, callers
take turns in getting one, and the number of bytes that may wait is bounded, but for a caller who has less than an equal
share of them waiting. If a call ends before its work does, the work is stopped at once.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from ml.models.protocol import ExplainableModel
from server.errors import OverloadedError
from server.helper_process import Described, Job, Outcome, pack
from server.round_robin import RoundRobin

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_SMALL = 8 * 1024
"""Bytes that are worked on faster than another thread would take over."""

_LARGE = 64 * 1024
"""Bytes beyond which work is worth a process, which takes some ten milliseconds to fork."""

_PROGRAM = "from server.helper_process import main; main()"

_THREADS = 2
_PROCESSES = 2
_WAITING_BYTES = 64 * 1024 * 1024
_RETRY_SECONDS = 1.0
_STOP_SECONDS = 1.0


class Where(IntEnum):
    """Where work is done."""

    EVENT_LOOP = 0
    THREAD = 1
    PROCESS = 2

    @classmethod
    def by_size(cls, size: int) -> Where:
        """Where work on messages of `size` bytes is done, if they are all that it depends on."""
        return cls((size > _SMALL) + (size > _LARGE))


class HelperLostError(RuntimeError):
    """A helper process ended before its work did."""


@dataclass(frozen=True)
class _Warm:
    """The process from which the working ones are forked, and the socket that asks it to fork."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    def send(self, connection: socket.socket) -> None:
        """Let it fork a process that works for the other end of `connection`."""
        socket.send_fds(self.control, [b"."], [connection.fileno()])

    def close(self) -> None:
        self.control.close()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Helpers:
    """Work on messages of any size. All methods are for one event loop."""

    def __init__(self, models: Iterable[ExplainableModel]) -> None:
        """Work on messages to and from `models`. What is needed for large ones starts with the first."""
        self._models = list(models)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="helper")
        self._starting: asyncio.Task[_Warm] | None = None
        self._running = 0
        self._waiting: RoundRobin[asyncio.Future[None]] = RoundRobin()
        self._waiting_bytes: Counter[Hashable] = Counter()
        """Of each caller with messages that wait."""

    async def run(
        self,
        size: int,
        function: Callable[..., T],
        model: ExplainableModel,
        *arguments: Any,
        caller: Hashable = None,
        at_least: Where = Where.EVENT_LOOP,
    ) -> T:
        """The result of ``function(model, *arguments)``.

        Args:
            size: bytes of the messages that it is about.
            function: importable without torch. It may be given a model that has only `info` and `tokenizer`.
            caller: callers take turns.
            at_least: where it is done even if the messages are small.

        Raises:
            OverloadedError: too much of what is large waits already.
        """
        where = max(at_least, Where.by_size(size))
        if where is Where.EVENT_LOOP:
            return function(model, *arguments)
        if where is Where.THREAD:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, model, *arguments)
        async with self._process_for(caller, size):
            outcome = await self._run_apart(Job(function, model.info.name, arguments))
        if outcome.error is not None:
            raise outcome.error
        found: T = outcome.value
        return found

    async def close(self) -> None:
        """End all of it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._starting is not None:
            with suppress(OSError):
                await asyncio.to_thread((await self._starting).close)

    @asynccontextmanager
    async def _process_for(self, caller: Hashable, size: int) -> AsyncIterator[None]:
        """Wait until one more process may run, callers in turn."""
        if self._running >= _PROCESSES:
            await self._wait(caller, size)
        else:
            self._running += 1
        try:
            yield
        finally:
            self._hand_over()

    async def _wait(self, caller: Hashable, size: int) -> None:
        waiting, own = self._waiting_bytes.total(), self._waiting_bytes[caller]
        share = _WAITING_BYTES / len(self._waiting_bytes.keys() | {caller})
        if waiting and waiting + size > _WAITING_BYTES and own + size > share:
            raise OverloadedError(_RETRY_SECONDS)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(ready, caller)
        self._waiting_bytes[caller] += size
        try:
            await ready
        except asyncio.CancelledError:
            if ready.done() and not ready.cancelled():
                self._hand_over()
            raise
        finally:
            self._waiting.remove(ready)
            self._waiting_bytes -= Counter({caller: size})  # which forgets callers of whom nothing waits

    def _hand_over(self) -> None:
        """Let whoever is next run a process in place of one's own."""
        for ready in self._waiting:
            if not ready.done():
                self._waiting.rotate(ready)
                ready.set_result(None)
                return
        self._running -= 1

    async def _run_apart(self, job: Job) -> Outcome:
        reader, writer = await asyncio.open_connection(sock=await self._forked())
        try:
            writer.write(pack(job))
            data = await reader.read()
        except OSError:
            data = b""
        finally:
            writer.transport.abort()  # Whatever still runs ends by it.
        if not data:
            raise HelperLostError(f"the process for {job.function.__name__} ended before its work")
        outcome: Outcome = pickle.loads(data)  # noqa: S301 -- only a process of ours has the other end
        return outcome

    async def _forked(self) -> socket.socket:
        """A connection to a process that waits for a job."""
        ours, theirs = socket.socketpair()
        with theirs:
            warm = await self._warm()
            try:
                warm.send(theirs)
            except OSError:  # It has ended, whatever the reason; another one does as well.
                _logger.warning("the helper process has ended; starting another")
                if self._starting is not None and self._starting.result() is warm:
                    self._starting = None
                    await asyncio.to_thread(warm.close)
                (await self._warm()).send(theirs)
        return ours

    async def _warm(self) -> _Warm:
        if self._starting is None:
            self._starting = asyncio.create_task(asyncio.to_thread(self._start))
        return await asyncio.shield(self._starting)

    def _start(self) -> _Warm:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdin=theirs.fileno())  # noqa: S603 -- our own
        described = {model.info.name: Described(model.info, model.tokenizer) for model in self._models}
        ours.sendall(pack(described))
        return _Warm(process, ours)
