"""The end of a server: accepted calls finish, and new ones are refused.

A call that reaches gRPC after it was asked to stop ends with CANCELLED, which clients do not retry, and gRPC offers
nothing against that. So callers who are refused and try again at once are held at the end: their last calls are
answered when gRPC has notified their clients that the connection takes no more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from server.errors import DrainingError
from server.interceptors import Context, Sent

_QUIET_SECONDS = 0.1
"""Without a call, after which each caller's last is taken to have come."""


class Drain:
    """Refuses new calls once the server is stopping, knows when the accepted ones are done, and ends what is left."""

    def __init__(self) -> None:
        self._active: set[asyncio.Task[Any] | None] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._begun = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._cut = False
        self._last = float("-inf")

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

    def hold(self) -> None:
        """Leave calls without an answer from now on, until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Let the calls that were held be refused."""
        self._open.set()

    async def enter(self) -> None:
        """Let a call begin, of whatever service; while calls are held, later."""
        self._last = time.monotonic()
        await self._open.wait()

    async def wait_quiet(self) -> None:
        """Wait until no call has come or ended for a while, those that are held among them."""
        while (left := self._last + _QUIET_SECONDS - time.monotonic()) > 0:  # noqa: ASYNC110 -- silence is no event
            await asyncio.sleep(left)

    def cut(self) -> None:
        """End the calls in progress with UNAVAILABLE, after which a client tries again elsewhere."""
        self._cut = True
        for task in self._active:
            if task is not None:
                task.cancel()

    @contextmanager
    def accept(self, context: Context) -> Iterator[Sent]:
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
            yield _uncounted
        except asyncio.CancelledError:
            if not self._cut or task is None:
                raise
            task.uncancel()
            raise DrainingError from None
        finally:
            self._last = time.monotonic()
            self._active.discard(task)
            if not self._active:
                self._idle.set()


def _uncounted() -> None:
    """What nobody counts was sent."""
