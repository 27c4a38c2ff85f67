"""The queue between the event loop, which fills it, and the model's thread, which empties it: `Queue` behind a lock.

Here is also what both need to know of each other: how long what waits will take, whether the event loop has replies to
write, and that the model's thread is to stop.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Sequence

from server.admission import Load, QueueOverflowError
from server.batching import Item, Limits
from server.calls import Work
from server.errors import OverloadedError
from server.generation import Generations
from server.interpreter import SharedInterpreter
from server.queue import Queue, Schedule
from server.sequences import ChunkedSequence
from server.throughput import Throughput, TimeShares

_SHORTEST_RETRY, _LONGEST_RETRY = 0.05, 30.0
"""Shortest and longest delay, in seconds, after which a refused caller may retry."""

_REPLY_SECONDS = 0.01
"""The longest that the model's thread waits for replies to be written."""

Waiting = Item[Work | ChunkedSequence]


class SharedQueue:
    """What waits for the models. Safe for use from two threads."""

    def __init__(self, limits: Limits, waiting_seconds: float, interpreter: SharedInterpreter) -> None:
        """Hold nothing.

        Args:
            waiting_seconds: calls that would wait longer than this, by their model's recent throughput, are refused.
            interpreter: hears of calls that are queued and of batches that are taken.
        """
        self._queue: Queue[Work | ChunkedSequence] = Queue(limits, self._seconds_per_token, interpreter.was_refused)
        self._changed = threading.Condition()  # Guards the queue, `stopping` and `_replying`.
        self._interpreter = interpreter
        self._waiting_seconds = waiting_seconds
        self._shortest = limits.shortest
        self._throughputs: defaultdict[str, Throughput] = defaultdict(Throughput)
        """Of each model."""
        self._time_shares = TimeShares()
        self.stopping = False
        """Whether the model's thread is to stop. Once it is, it stays so."""
        self._replying = False
        """Whether the event loop has yet to write the replies of the last batch."""

    def __len__(self) -> int:
        with self._changed:
            return len(self._queue)

    @property
    def sequences(self) -> int:
        """How many sequences wait for a place, whichever model they are for."""
        with self._changed:
            return sum(load.sequences for load in self._queue.waiting.values())

    # The event loop.

    def check_capacity(self, model: str, caller: Hashable) -> None:
        """Refuse early, before the work of preparing a call.

        Raises:
            OverloadedError: too much waits for `model` already.
        """
        with self._changed:
            try:
                self._queue.check(model, caller, self._max_tokens(model))
            except QueueOverflowError:
                raise _refusal(sum(self._seconds().values())) from None

    def offer(self, items: Sequence[Waiting], ends_per_second: float) -> None:
        """Put all items of a call into the queue, or none.

        Args:
            ends_per_second: how many of the running sequences of their model end in a second.

        Raises:
            OverloadedError: too much waits for their model already.
        """
        model = items[0].model
        with self._changed:
            try:
                self._queue.offer(items, self._max_tokens(model), self._waiting_seconds * ends_per_second)
            except QueueOverflowError:
                seconds = sum(self._seconds().values())
                if any(item.needs_slot for item in items):
                    seconds = max(seconds, self._queue.waiting.get(model, Load()).sequences / ends_per_second)
                raise _refusal(seconds) from None
            self._interpreter.note_acceptance(items[0].caller)
            self._changed.notify()

    def withdraw(self, items: Sequence[Waiting]) -> None:
        """Take out those of `items` that still wait."""
        with self._changed:
            self._queue.withdraw(items)

    def wake(self, sequence: ChunkedSequence) -> None:
        """React to a sequence whose caller has left or reads on."""
        with self._changed:
            if sequence.abandoned and sequence.item is not None:
                self._queue.withdraw([sequence.item])
            self._changed.notify()

    def stop(self) -> None:
        """Let the model's thread stop after the batch under way."""
        with self._changed:
            self.stopping = True
            self._changed.notify()

    def forget_throughput(self) -> None:
        """Forget how long batches took: a model's first ones are not typical."""
        self._throughputs.clear()
        self._time_shares.forget()

    def note_replies_written(self) -> None:
        """Take note that the replies of the last batch are written."""
        with self._changed:
            self._replying = False
            self._changed.notify()

    # The model's thread.

    def take(self, generations: Generations) -> Schedule[Work | ChunkedSequence] | None:
        """Wait for work and take the next batch: empty if only running sequences need a step, None to stop.

        What has expired is handed over as soon as it is found.
        """
        with self._changed:
            while not self.stopping:
                self._interpreter.note_batch()
                schedule = self._queue.take(time.monotonic(), generations.slots(), generations.callers())
                if schedule.batch or schedule.expired or generations.busy:
                    return schedule
                self._changed.wait()
        return None

    def put_back(self, batch: Sequence[Waiting], seconds: float) -> None:
        """Put what a batch is about back that was preempted after some `seconds`, unless its caller has left."""
        self._throughputs[batch[0].model].note(0, seconds)
        with self._changed:
            left = [item for item in batch if not item.payload.abandoned]
            self._queue.put_back(left, lambda caller: not self._interpreter.was_refused(caller))

    def put(self, sequence: ChunkedSequence, item: Waiting) -> None:
        """Let a sequence wait by `item`, for its next chunk or to start, unless its caller has left."""
        with self._changed:
            if sequence.item is not None:
                self._queue.withdraw([sequence.item])
            if not sequence.abandoned:
                sequence.item = item
                # One that began before, and gave up its slot, does not wait for all that its caller has sent since.
                self._queue.put(item, first=item.needs_slot)

    def note_run(self, batch: Sequence[Waiting], seconds: float, model_seconds: float) -> None:
        """Take note of how long a batch took.

        Args:
            seconds: with all that was done beside it.
            model_seconds: of the model alone, which are its callers'.
        """
        tokens = sum(max(item.tokens, self._shortest) for item in batch)
        self._throughputs[batch[0].model].note(tokens, seconds)
        with self._changed:
            self._time_shares.note(batch[0].model, seconds)
            self._queue.charge(batch, model_seconds, time.monotonic())

    def note_replies(self) -> None:
        """Take note that the event loop gets the replies of a batch now."""
        with self._changed:
            self._replying = True

    def let_replies_leave(self, generations: Generations) -> None:
        """Wait until the last replies are written, unless there is other work.

        Only one thread at a time runs Python: caching prefixes meanwhile would delay the replies.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._replying or self.stopping or len(self._queue) or generations.busy,
                _REPLY_SECONDS,
            )

    def _max_tokens(self, model: str) -> float:
        """Tokens that may wait for a model: what it computes in the time that others leave it, or in an equal share.

        So work for one model keeps no call of another out. What others take is what they have waiting, and what they
        took of late: who asks for one thing at a time has little waiting.
        """
        seconds = self._seconds()
        waiting = sum(seconds.values()) - seconds.get(model, 0.0)
        left = self._waiting_seconds - max(waiting, self._waiting_seconds * self._time_shares.of_others(model))
        share = self._waiting_seconds / max(2, len(seconds.keys() | {model}))
        return max(left, share) * self._throughputs[model].tokens_per_second

    def _seconds_per_token(self, model: str) -> float:
        return 1.0 / self._throughputs[model].tokens_per_second

    def _seconds(self) -> dict[str, float]:
        """How long what waits for each model will take, by recent throughput."""
        return {
            model: load.tokens / self._throughputs[model].tokens_per_second
            for model, load in self._queue.waiting.items()
        }


def _refusal(seconds: float) -> OverloadedError:
    """The error for a caller who would wait for `seconds`."""
    return OverloadedError(min(max(seconds, _SHORTEST_RETRY), _LONGEST_RETRY))
