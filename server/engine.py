"""The engine: one thread that owns the models and runs what waits, batch after batch.

Each batch is followed by one step of all running sequences, and a batch prefills a bounded number of prompt tokens: so
neither short calls nor generated texts wait long for each other.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ml.generation import Generation
from ml.models.base import LanguageModel
from ml.runtime.device import in_front
from ml.runtime.preemption import PreemptedError
from ml.threads import FreeCores
from server.admission import QueueOverflowError
from server.batches import Batches
from server.batching import Item, Limits, Queue
from server.calls import Answer, Call, Done, Work
from server.errors import OverloadedError
from server.generation import GenerationLimits, Generations, insert_prefixes
from server.interpreter import SharedInterpreter
from server.metrics import Metrics
from server.questions import AttentionTask, Task
from server.sequences import ChunkedSequence, LongPrompt, is_long, shared_tokens
from server.tasks import batch_key, output_bytes
from server.text_stream import Stream
from server.throughput import Throughput

_logger = logging.getLogger(__name__)

_SHORTEST_RETRY, _LONGEST_RETRY = 0.05, 30.0
"""Shortest and longest delay, in seconds, after which a refused caller may retry."""

_MAX_PREEMPTIONS = 3
"""How often an item's step ends early: those who are refused get at least a quarter of their steps, each of them."""

_REPLY_SECONDS = 0.01
"""The longest that the model's thread waits for replies to be written."""


class Engine:
    """Runs tasks on models. All methods are for the event loop that made it."""

    def __init__(
        self,
        models: Mapping[str, LanguageModel],
        limits: Limits,
        metrics: Metrics,
        generation: GenerationLimits = GenerationLimits(),  # noqa: B008 -- frozen
        *,
        prefix_bytes: int = 0,
        waiting_seconds: float = float("inf"),
    ) -> None:
        """Run `models`.

        Args:
            prefix_bytes: memory for cached prefixes of each model; 0 caches none.
            waiting_seconds: calls that would wait longer than this, by recent throughput, are refused.
        """
        self._models = models
        self._runners = {name: model.runner(prefix_bytes) for name, model in models.items()}
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._queue: Queue[Work | ChunkedSequence] = Queue(limits)
        self._changed = threading.Condition()  # Guards the queue, `_stopping` and `_replying`.
        self._generations = Generations(
            models,
            self._runners,
            generation,
            metrics,
            wait=self._wait,
            deliver=lambda sequence, answer: self._to_loop(sequence.receive, answer),
        )
        self._batches = Batches(models, self._runners, metrics)
        self._interpreter = SharedInterpreter(self._loop, self._to_loop)
        self._on_cpu = all(model.info.device == "cpu" for model in models.values())
        self._stopping = False
        self._replying = False
        """Whether the event loop has yet to write the replies of the last batch."""
        self._waiting_seconds = waiting_seconds
        self._shortest = limits.shortest
        self._throughput = Throughput()
        self.crashed: asyncio.Future[None] = self._loop.create_future()
        """The error that ended the model's thread, if there was one."""
        self._thread = threading.Thread(target=in_front(self._serve), name="model", daemon=True)
        metrics.watch_queue(lambda: float(len(self._queue)))
        metrics.generations.labels("waiting").set_function(lambda: float(sum(map(self._queue.sequences, models))))
        for name, runner in self._runners.items():
            metrics.watch_prefixes(name, runner)

    def start(self) -> None:
        """Start the model's thread."""
        self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Stop after the batch in progress, or stop waiting for the thread after `seconds`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, seconds)

    async def submit(
        self,
        model: str,
        tasks: Sequence[Task],
        *,
        caller: Hashable = None,
        namespace: str = "",
        seconds: float | None = None,
    ) -> Answer:
        """Run `tasks` on `model`, in one batch or several, and wait for all of them.

        Cancelling this coroutine withdraws the tasks that have not begun.

        Args:
            caller: who asks; the queue goes round the callers.
            namespace: whose cached prefixes may be used.
            seconds: the caller waits no longer than this.

        Raises:
            OverloadedError: too much waits already; nothing was begun.
        """
        answer: asyncio.Future[Answer] = self._loop.create_future()
        call = Call(model, len(tasks), answer, namespace)
        deadline = float("inf") if seconds is None else call.began + seconds
        call.items = [self._item(Work(call, index, task), caller, deadline) for index, task in enumerate(tasks)]
        self._offer(call.items)
        try:
            return await answer
        finally:
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                self._withdraw(call)

    def note_arrival(self) -> None:
        """Take note of a call that came, whatever it will ask."""
        self._interpreter.note_arrival()

    def note_refusal(self, caller: Hashable) -> None:
        """Take note of a call that was refused, for whatever reason."""
        if self._on_cpu:  # a GPU computes while the event loop runs Python
            self._interpreter.note_refusal(caller)

    def check_capacity(self, caller: Hashable = None) -> None:
        """Refuse early, before the work of preparing a call.

        Raises:
            OverloadedError: too much waits already.
        """
        with self._changed:
            try:
                self._queue.check(caller, self._max_tokens)
            except QueueOverflowError as error:
                raise _refusal(error.tokens / self._throughput.tokens_per_second) from None

    def forget_throughput(self) -> None:
        """Forget how long batches took: a model's first ones are not typical."""
        self._throughput = Throughput()

    def generate(
        self,
        model: str,
        ids: Sequence[int],
        generation: Generation,
        *,
        caller: Hashable = None,
        namespace: str = "",
    ) -> Stream:
        """Generate a continuation of `ids`, as soon as memory for one more sequence is free.

        Args:
            caller: who asks; the queue goes round the callers.
            namespace: whose cached prefixes may be used.

        Raises:
            OverloadedError: too much waits already.
        """
        stream = Stream(model, ids, generation, self._wake, caller=caller, namespace=namespace)
        stream.item = self._generations.item(stream)
        self._offer([stream.item])
        return stream

    def _item(self, work: Work, caller: Hashable, deadline: float) -> Item[Work | ChunkedSequence]:
        """The queue's item for a task."""
        name, task = work.call.model, work.task
        model = self._models[name]
        if not isinstance(task, AttentionTask) and is_long(model.info, len(task.ids)):
            prompt = LongPrompt(work, task, self._wake, caller, deadline)
            prompt.item = self._generations.item(prompt)
            return prompt.item
        return Item(
            work,
            tokens=len(task.ids),
            batch_key=batch_key(name, task),
            caller=caller,
            call=work.call,
            output_bytes=output_bytes(model, task),
            padded=self._runners[name].pads,
            deadline=deadline,
            shared_tokens=None if self._runners[name].pads else shared_tokens(model.info),
        )

    def _offer(self, items: Sequence[Item[Work | ChunkedSequence]]) -> None:
        """Put all items of a call into the queue, or none.

        Raises:
            OverloadedError: too much waits already.
        """
        model = items[0].payload.model
        per_second = self._generations.ends_per_second(model)
        with self._changed:
            try:
                self._queue.offer(items, self._max_tokens, self._waiting_seconds * per_second)
            except QueueOverflowError as error:
                sequences = self._queue.sequences(model) if any(item.pool for item in items) else 0
                seconds = max(error.tokens / self._throughput.tokens_per_second, sequences / per_second)
                raise _refusal(seconds) from None
            self._interpreter.note_acceptance(items[0].caller)
            self._changed.notify()

    def _withdraw(self, call: Call) -> None:
        """Take what still waits of a call out of the queue."""
        with self._changed:
            self._queue.withdraw(call.items)
        for item in call.items:
            if isinstance(item.payload, LongPrompt):
                item.payload.abandon()

    def _wake(self, sequence: ChunkedSequence) -> None:
        """React to a sequence whose caller has left or reads on."""
        with self._changed:
            if sequence.abandoned and sequence.item is not None:
                self._queue.withdraw([sequence.item])
            self._changed.notify()

    # The model's thread.

    def _serve(self) -> None:
        try:
            with FreeCores() as cores:
                while (batch := self._schedule()) is not None:
                    cores.share()
                    self._run(batch)
        except BaseException as error:  # A server without its model's thread must not seem alive.
            _logger.critical("the model's thread died", exc_info=error)
            self._to_loop(self._crash, error)

    def _run(self, batch: Sequence[Item[Work | ChunkedSequence]]) -> None:
        """Answer a batch, and let all running sequences take a step."""
        began = time.monotonic()
        work = [item.payload for item in batch if isinstance(item.payload, Work)]
        chunks = [item.payload for item in batch if isinstance(item.payload, ChunkedSequence)]
        steps = bool(chunks) or self._generations.busy
        if work:
            runner = self._runners[work[0].call.model]
            callers = [item.caller for item in batch] if runner.is_preemptible and not chunks else []
            if any(item.times_put_back == _MAX_PREEMPTIONS for item in batch):
                callers = []
            try:
                with self._interpreter.step(callers):
                    done = self._batches.run(work, lambda: self._interpreter.is_preempted)
                    # Beside an event loop that refuses calls, this takes ten times as long. Else replies come first.
                    inserted = self._interpreter.is_shared
                    if inserted:
                        insert_prefixes(work[0].call.model, runner)
            except PreemptedError:
                self._put_back(batch)
                self._throughput.note(0, time.monotonic() - began)
                return
            self._reply(done)
            if not steps:  # else sequences would wait for the event loop twice per token
                self._interpreter.let_loop_catch_up()
                self._let_replies_leave()
            if not inserted:
                insert_prefixes(work[0].call.model, runner)
        if steps:
            with self._interpreter.step():
                self._generations.step(chunks)
            # A token takes a few milliseconds. However many calls are refused, texts have two thirds of the time.
            self._interpreter.let_loop_catch_up((time.monotonic() - began) / 2)
        if batch:
            tokens = sum(max(item.tokens, self._shortest) for item in batch)
            self._throughput.note(tokens, time.monotonic() - began)

    def _schedule(self) -> tuple[Item[Work | ChunkedSequence], ...] | None:
        """Wait for work and take the next batch: empty if only running sequences need a step, None to stop."""
        with self._changed:
            while not self._stopping:
                self._interpreter.note_batch()
                schedule = self._queue.take(time.monotonic(), self._generations.free(), self._generations.callers())
                for item in schedule.expired:
                    self._to_loop(self._expire, item.payload)
                if schedule.batch or self._generations.busy:
                    return schedule.batch
                self._changed.wait()
        return None

    def _put_back(self, batch: Sequence[Item[Work | ChunkedSequence]]) -> None:
        """Put what a preempted batch is about back into the queue, unless its caller has left."""
        with self._changed:
            left = [item for item in batch if not item.payload.abandoned]
            self._queue.put_back(left, lambda caller: not self._interpreter.was_refused(caller))

    def _wait(self, sequence: ChunkedSequence) -> None:
        """Put a sequence into the queue, for its next chunk or to start, unless its caller has left."""
        with self._changed:
            if sequence.item is not None:
                self._queue.withdraw([sequence.item])
            if not sequence.abandoned:
                sequence.item = self._generations.item(sequence)
                self._queue.put(sequence.item)

    def _reply(self, done: Done) -> None:
        """Send the values to the event loop, and withdraw the rest of a call that failed."""
        for work, value in zip(done.work, done.values, strict=True):
            if isinstance(value, Exception):
                self._withdraw(work.call)
        with self._changed:
            self._replying = True
        self._to_loop(self._deliver, done)

    def _let_replies_leave(self) -> None:
        """Wait until the last replies are written, unless there is other work.

        Only one thread at a time runs Python: caching prefixes meanwhile would delay the replies.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._replying or self._stopping or len(self._queue) or self._generations.busy,
                _REPLY_SECONDS,
            )

    def _to_loop(self, callback: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # The loop is closed: no caller waits.
            self._stopping = True

    # Back on the event loop.

    def _deliver(self, done: Done) -> None:
        done.deliver()
        # The calls that were woken run first, and write their replies.
        self._loop.call_soon(self._replies_written)

    def _replies_written(self) -> None:
        with self._changed:
            self._replying = False
            self._changed.notify()

    def _expire(self, expired: Work | ChunkedSequence) -> None:
        if isinstance(expired, LongPrompt):
            expired = expired.work
        if isinstance(expired, Work):  # the caller of a generated text leaves by itself
            self._metrics.of_model(expired.model).dropped.inc()
            expired.call.answer.cancel()

    def _crash(self, error: BaseException) -> None:
        if not self.crashed.done():
            self.crashed.set_exception(RuntimeError(f"the model's thread died: {error!r}"))

    @property
    def _max_tokens(self) -> float:
        """Tokens that may wait, by recent throughput."""
        return self._waiting_seconds * self._throughput.tokens_per_second


def _refusal(seconds: float) -> OverloadedError:
    """The error for a caller who would wait for `seconds`."""
    return OverloadedError(min(max(seconds, _SHORTEST_RETRY), _LONGEST_RETRY))
