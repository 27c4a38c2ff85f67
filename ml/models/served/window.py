"""How many prompts are in flight: as many as keep an engine busy, and no more.

An engine that batches gets faster with every prompt it has at once, up to a point that only its throughput shows. So
the window doubles for as long as that pays, and goes back by one step where it does not. An engine that says it is
overloaded halves it, and it takes a while until the window tries to grow again.

Where several callers ask, their requests go in turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

_FIRST = 128
_GAIN = 1.1
"""By which throughput must have grown for a doubled window to stay."""

_ROUNDS, _ROUNDS_OVERLOADED = 2, 20
"""Windows full of prompts that make a measurement, and as many after an engine was overloaded."""

_REQUESTS = 2
"""Requests that fill a window: while one is answered and the next one written, the engine has the other."""

_LARGEST_REQUEST = 256
"""Prompts; engines refuse what is much more, and a lost one costs the work of all."""


_caller: ContextVar[Hashable] = ContextVar("caller", default=None)


@contextmanager
def asked_by(caller: Hashable) -> Iterator[None]:
    """Within, and in tasks that begin there, `caller` is who asks."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


class Window:
    """Prompts in flight: callers take turns, and each one's requests keep their order. For one event loop."""

    def __init__(self, largest: int, clock: Callable[[], float]) -> None:
        """Let at most `largest` prompts be in flight; a request of more goes alone."""
        self.limit = min(_FIRST, largest)
        """Prompts that may be in flight now."""
        self.in_flight = 0
        """Prompts that are."""
        self._largest = largest
        self._clock = clock
        self._waiting: dict[Hashable, deque[tuple[int, asyncio.Future[None]]]] = {}
        """Requests by caller, in the order of turns; none is empty."""
        self._answered = 0
        self._since: float | None = None
        self._throughput = 0.0
        self._growing = True
        self._rounds = _ROUNDS
        self._ignored = 0  # prompts that were asked for before the window changed

    @property
    def request(self) -> int:
        """How many prompts to put into one request."""
        return min(_LARGEST_REQUEST, max(1, self.limit // _REQUESTS))

    @asynccontextmanager
    async def held(self, prompts: int) -> AsyncIterator[None]:
        """Wait until `prompts` more may be in flight; they are for as long as the block lasts."""
        await self._enter(prompts)
        try:
            yield
        finally:
            self.in_flight -= prompts
            self._admit()

    def answered(self, prompts: int) -> None:
        """Note that `prompts` were answered; the window grows where that shows that it pays."""
        now = self._clock()
        if not self._waiting:  # whoever asks is slower than the engine: nothing to learn from
            self._restart(None)
            return
        if self._ignored > 0:
            self._ignored -= prompts
            return
        if self._since is None:
            self._restart(now)
            return
        self._answered += prompts
        if self._answered < self._rounds * self.limit or now <= self._since:
            return
        if self._growing:
            self._grow(self._answered / (now - self._since))
        self._restart(None if self._ignored else now)
        self._admit()

    def overloaded(self) -> None:
        """Note that the engine refused for now."""
        self.limit = max(1, self.limit // 2)
        self._growing, self._throughput, self._rounds = True, 0.0, _ROUNDS_OVERLOADED
        self._restart(None)

    def _grow(self, throughput: float) -> None:
        """Double the window if its last doubling paid, and undo that one if not."""
        self._rounds = _ROUNDS
        if self.limit == self._largest or throughput <= _GAIN * self._throughput:
            self._growing = False
            if throughput <= _GAIN * self._throughput:
                self.limit = max(1, self.limit // 2)
            return
        self._throughput = throughput
        self._ignored = self.limit
        self.limit = min(self._largest, 2 * self.limit)

    async def _enter(self, prompts: int) -> None:
        if not self._waiting and self._fits(prompts):
            self.in_flight += prompts
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        caller, request = _caller.get(), (prompts, admitted)
        self._waiting.setdefault(caller, deque()).append(request)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.in_flight -= prompts
            elif request in self._waiting.get(caller, ()):
                self._waiting[caller].remove(request)
                if not self._waiting[caller]:
                    del self._waiting[caller]
            self._admit()
            raise

    def _admit(self) -> None:
        """Let requests go, callers in turn, for as long as they fit."""
        while self._waiting:
            caller, requests = next(iter(self._waiting.items()))
            prompts, admitted = requests[0]
            if not self._fits(prompts):
                return
            del self._waiting[caller]
            requests.popleft()
            if requests:
                self._waiting[caller] = requests  # behind the others
            if not admitted.cancelled():
                self.in_flight += prompts
                admitted.set_result(None)

    def _fits(self, prompts: int) -> bool:
        return self.in_flight == 0 or self.in_flight + prompts <= self.limit

    def _restart(self, now: float | None) -> None:
        self._since, self._answered = now, 0
