"""The end of a server: accepted calls finish, and new ones are refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from server.errors import DrainingError
from server.interceptors import Context, Sent

_QUIET_SECONDS = 0.1
"""Without a call, after which none is taken to be on its way."""


class Drain:
    """Refuses new calls once the server is stopping, knows when the accepted ones are done, and ends what is left."""

    def __init__(self) -> None:
        self._active: set[asyncio.Task[Any] | None] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._begun = asyncio.Event()
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

    async def wait_quiet(self) -> None:
        """Wait until no call has come or ended for a while, refused ones among them.

        One that comes while gRPC closes its connection ends with CANCELLED, which clients do not retry. They come in
        waves: whoever was refused or cut tries again.
        """
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
        self._last = time.monotonic()
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
