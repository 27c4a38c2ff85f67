"""Who runs Python while calls are refused: the event loop and the model's thread, one after the other.

Only one thread at a time runs Python, and each of the hundreds of operations of a step gives the interpreter's lock
away and takes it back. An event loop that refuses hundreds of calls a second holds it so often that a short step takes
twice its time, most of which passes until a sleeping thread is woken. So the event loop waits for the end of a step,
and then the model's thread waits until the event loop has caught up.

A step of callers who were refused is another matter: it ends early if a call of somebody else is queued. For that the
event loop has to work meanwhile. Decision 22 has figures.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager

_STEP_SECONDS = 0.02
"""The longest that the event loop waits for a step: all calls wait with it."""

_LOOP_SECONDS = 0.02
"""The longest that the model's thread waits for the event loop."""

_MAX_REFUSED = 4096
"""The most refused callers that are remembered: each connection without a key is one."""

_REFUSED_SECONDS = 1.0
"""How long a refused caller is remembered, at least; at most twice as long. Who asks for somewhat more than the server
can answer is refused once in a while only, and would count as modest in between."""

_QUIET_SECONDS = 0.001
"""The event loop has caught up if for so long no call came, was accepted, or was refused."""


class _Step:
    """A step of the model, of which the model's thread makes one after the other."""

    def __init__(self, *, is_preemptible: bool) -> None:
        self.is_preemptible = is_preemptible
        """Whether it ends early for a caller without refusals."""
        self.ended = threading.Event()


class SharedInterpreter:
    """Lets an event loop and the model's thread work one after the other. Without refusals, neither waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, to_loop: Callable[..., object]) -> None:
        """Share it between `loop` and the thread that calls `step`; `to_loop` calls a function in the loop."""
        self._loop = loop
        self._to_loop = to_loop
        self._step = _Step(is_preemptible=False)
        """The step that runs, or ran last. What concerns a step that has ended may still wait in the event loop."""
        self._step.ended.set()
        self._caught_up = threading.Event()
        self._refusing = False
        """Whether a call was refused since the model's thread last waited."""
        self._modest_caller_waits = False
        """Whether a call of a caller without refusals was queued since the last batch was taken."""
        self._was_cut_short = False
        """Whether such a caller ended the last wait of the model's thread, or kept it from waiting."""
        self._may_cut_short = False
        """Whether the model's thread waits, or is about to, and such a caller may end that."""
        # The rest is the event loop's.
        self._waited_for: _Step | None = None
        """The step that it waited for last."""
        self._events = 0
        """Calls that came, were accepted, or were refused so far, each of which is one more."""
        self._waits = 0
        """Of the model's thread, so far."""
        self._refused: set[Hashable] = set()
        """Callers who were refused since `_refused_from`."""
        self._refused_from = float("-inf")
        self._refused_before: set[Hashable] = set()
        """Callers who were refused in the time of the same length before that."""
        self._refused_at = float("-inf")
        """When the last call was refused."""

    # The event loop.

    def note_arrival(self) -> None:
        """Take note of a call that came, and of which nothing else is known yet."""
        self._events += 1

    def note_refusal(self, caller: Hashable) -> None:
        """Take note of a refused call. Unless a step is preemptible, the event loop soon waits for its end."""
        self._events += 1
        self._refusing = True
        now = time.monotonic()
        if now >= self._refused_from + _REFUSED_SECONDS:
            self._refused_before = self._refused if now < self._refused_at + _REFUSED_SECONDS else set()
            self._refused, self._refused_from = set(), now
        self._refused_at = now
        if len(self._refused) < _MAX_REFUSED:
            self._refused.add(caller)
        step = self._step
        if not step.is_preemptible and not step.ended.is_set():
            self._loop.call_soon(self._step_aside, step)

    def note_acceptance(self, caller: Hashable) -> None:
        """Take note of a call that is queued; in the lock under which batches are taken.

        Of a caller without refusals, it ends a preemptible step, or the wait of the model's thread. If that thread does
        not wait yet, it will not. But no two waits in a row end so: many such callers would leave the event loop no
        time.
        """
        self._events += 1
        if self.was_refused(caller):
            return
        self._modest_caller_waits = True
        step = self._step
        if step.is_preemptible and not step.ended.is_set():
            self._loop.call_soon(self._step_aside, step)  # it reaches its next layer sooner
        if self._may_cut_short:
            self._may_cut_short, self._was_cut_short = False, True
            self._caught_up.set()

    def _step_aside(self, step: _Step) -> None:
        """Wait for the end of a step, once and not for long."""
        if self._waited_for is not step:
            self._waited_for = step
            step.ended.wait(_STEP_SECONDS)

    def _begin_to_catch_up(self) -> None:
        self._waits += 1
        self._look(self._waits, -1)

    def _look(self, wait: int, events: int) -> None:
        """End a wait if there were no more events than so many; else look again."""
        if wait != self._waits:
            return
        if events == self._events:
            self._may_cut_short = False
            self._caught_up.set()
        else:
            self._loop.call_later(_QUIET_SECONDS, self._look, wait, self._events)

    # The model's thread.

    def note_batch(self) -> None:
        """Take note that a batch is taken out of the queue; in the lock under which calls are queued."""
        self._modest_caller_waits = False

    @contextmanager
    def step(self, callers: Collection[Hashable] = ()) -> Iterator[None]:
        """For a step of the model.

        Args:
            callers: whose step it is, if it may end early. If all of them were refused lately, a call of somebody else
                preempts it.
        """
        step = _Step(is_preemptible=bool(callers) and all(map(self.was_refused, callers)))
        self._step = step
        if self._refusing and not step.is_preemptible:
            self._to_loop(self._step_aside, step)
        try:
            yield
        finally:
            step.ended.set()

    @property
    def is_preempted(self) -> bool:
        """Whether the step that runs is to end."""
        return self._step.is_preemptible and self._modest_caller_waits

    def was_refused(self, caller: Hashable) -> bool:
        """Whether a caller was refused lately. For any thread."""
        is_recent = time.monotonic() < self._refused_at + _REFUSED_SECONDS
        return is_recent and (caller in self._refused or caller in self._refused_before)

    @property
    def is_shared(self) -> bool:
        """Whether a call was refused since the last wait."""
        return self._refusing

    def let_loop_catch_up(self, seconds: float | None = None) -> None:
        """Wait until the event loop has caught up, if it refused calls since the last wait.

        Args:
            seconds: the longest wait, if shorter than others.
        """
        if not self._refusing:
            return
        may_cut_short, self._was_cut_short = not self._was_cut_short, False
        self._caught_up.clear()
        self._may_cut_short = may_cut_short  # before the look: a call that is queued now is seen here, or ends the wait
        if may_cut_short and self._modest_caller_waits:
            self._may_cut_short, self._was_cut_short = False, True
            return
        self._refusing = False
        self._to_loop(self._begin_to_catch_up)
        self._caught_up.wait(_LOOP_SECONDS if seconds is None else min(seconds, _LOOP_SECONDS))
        self._may_cut_short = False
