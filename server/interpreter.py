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

from ml.runtime.preemption import PreemptedError

_STEP_SECONDS = 0.02
"""The longest that the event loop waits for a step: all calls wait with it."""

_LOOP_SECONDS = 0.02
"""The longest that the model's thread waits for the event loop."""

_MAX_REFUSED = 4096
"""The most refused callers that are remembered: each connection without a key is one."""

_MAX_PREEMPTED = 3
"""Steps of refused callers that end early, one after the other: they get at least a quarter of their steps."""

_REFUSED_SECONDS = 1.0
"""How long after the last refusal steps are still preemptible."""

_QUIET_SECONDS = 0.001
"""The event loop has caught up if for so long no call came, was accepted, or was refused."""


class SharedInterpreter:
    """Lets an event loop and the model's thread work one after the other. Without refusals, neither waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, to_loop: Callable[..., object]) -> None:
        """Share it between `loop` and the thread that calls `step`; `to_loop` calls a function in the loop."""
        self._loop = loop
        self._to_loop = to_loop
        self._step_ended = threading.Event()
        self._step_ended.set()
        self._caught_up = threading.Event()
        self._refusing = False
        """Whether a call was refused since the model's thread last waited."""
        self._stepped_aside = False
        """Whether the event loop has waited for the step that runs."""
        self._modest_caller_waits = False
        """Whether a call of a caller without refusals was queued since the last batch was taken."""
        self._step_is_preemptible = False
        """Whether such a call ends the step that runs, or ran last."""
        self._preempted = 0
        """How many steps of refused callers ended early, one after the other."""
        self._was_cut_short = False
        """Whether such a caller ended the last wait of the model's thread, or kept it from waiting."""
        self._may_cut_short = False
        """Whether the model's thread waits, or is about to, and such a caller may end that."""
        # The rest is the event loop's.
        self._events = 0
        """Calls that came, were accepted, or were refused so far, each of which is one more."""
        self._waits = 0
        """Of the model's thread, so far."""
        self._refused: set[Hashable] = set()
        """Callers who were refused since the model's thread began to wait."""
        self._refused_before: set[Hashable] = set()
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
        self._refused_at = time.monotonic()
        if len(self._refused) < _MAX_REFUSED:  # while the model is idle, nothing else empties it
            self._refused.add(caller)
        if not self._step_is_preemptible and not self._step_ended.is_set():
            self._loop.call_soon(self._step_aside)

    def note_acceptance(self, caller: Hashable) -> None:
        """Take note of a call that is queued; in the lock under which batches are taken.

        Of a caller without refusals, it ends a preemptible step, or the wait of the model's thread. If that thread does
        not wait yet, it will not. But no two waits in a row end so: many such callers would leave the event loop no
        time.
        """
        self._events += 1
        if self._was_refused(caller):
            return
        self._modest_caller_waits = True
        if self._step_is_preemptible and not self._step_ended.is_set():
            self._loop.call_soon(self._step_aside)  # the step reaches its next layer sooner
        if self._may_cut_short:
            self._may_cut_short, self._was_cut_short = False, True
            self._caught_up.set()

    def _step_aside(self) -> None:
        """Wait for the end of the step that runs, once and not for long."""
        if not self._stepped_aside:
            self._stepped_aside = True
            self._step_ended.wait(_STEP_SECONDS)

    def _begin_to_catch_up(self) -> None:
        self._waits += 1
        self._refused_before, self._refused = self._refused, set()
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
            callers: whose step it is, if it can end early. If all of them were refused lately, a call of somebody else
                preempts it. But only a few times in a row: else those who are refused would get no answers.
        """
        are_refused = (
            bool(callers)
            and time.monotonic() < self._refused_at + _REFUSED_SECONDS
            and all(map(self._was_refused, callers))
        )
        self._step_is_preemptible = are_refused and self._preempted < _MAX_PREEMPTED
        self._stepped_aside = False
        self._step_ended.clear()
        if self._refusing and not self._step_is_preemptible:
            self._to_loop(self._step_aside)
        try:
            yield
            if are_refused:
                self._preempted = 0
        except PreemptedError:
            self._preempted += 1
            raise
        finally:
            self._step_ended.set()

    @property
    def is_preempted(self) -> bool:
        """Whether the step that runs is to end."""
        return self._step_is_preemptible and self._modest_caller_waits

    def _was_refused(self, caller: Hashable) -> bool:
        return caller in self._refused or caller in self._refused_before

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
