"""The engine: one thread that owns the models and runs what waits, batch after batch.

Each batch is followed by one step of all texts that are being generated, and what is read of prompts at a time is
bounded: so neither waits for the other's end.
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
from server.admission import QueueOverflowError
from server.batches import Batches
from server.batching import Item, Limits, Queue
from server.calls import Answer, Call, Done, Work
from server.errors import OverloadedError
from server.generation import GenerationLimits, Generations, insert_prefixes
from server.metrics import Metrics
from server.prefill import LongPrompt, Prefill, chunk_tokens, is_long
from server.questions import AttentionTask, Task
from server.tasks import batch_key, output_bytes
from server.text_stream import Stream
from server.throughput import Throughput

_logger = logging.getLogger(__name__)

_SHORTEST_RETRY, _LONGEST_RETRY = 0.05, 30.0
"""Seconds after which a refused caller is told to try again, at least and at most."""


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
            prefix_bytes: memory of each for cached prefixes; 0 is none.
            waiting_seconds: calls are refused that would wait longer than this, at the throughput of late.
        """
        self._models = models
        self._runners = {name: model.runner(prefix_bytes) for name, model in models.items()}
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._queue: Queue[Work | Prefill] = Queue(limits)
        self._changed = threading.Condition()  # Guards the queue, and `_stopping`.
        self._generations = Generations(
            models,
            self._runners,
            generation,
            metrics,
            wait=self._wait,
            deliver=lambda text, answer: self._to_loop(text.receive, answer),
        )
        self._batches = Batches(models, self._runners, metrics)
        self._stopping = False
        self._waiting_seconds = waiting_seconds
        self._shortest = limits.shortest
        self._throughput = Throughput()
        self.crashed: asyncio.Future[None] = self._loop.create_future()
        """Holds the error that ended the model's thread, should there ever be one."""
        self._thread = threading.Thread(target=in_front(self._serve), name="model", daemon=True)
        metrics.watch_queue(lambda: float(len(self._queue)))
        metrics.generations.labels("waiting").set_function(lambda: float(sum(map(self._queue.sequences, models))))
        for name, runner in self._runners.items():
            metrics.watch_prefixes(name, runner)

    def start(self) -> None:
        """Start the model's thread."""
        self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Stop after the batch under way, or leave the thread behind after `seconds`."""
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
        """Run `tasks` on `model` in whatever batches they fit into, and wait for all of them.

        Whoever stops waiting (by cancelling this coroutine) withdraws the tasks that have not begun.

        Args:
            caller: callers take turns.
            namespace: whose cached prefixes may be used.
            seconds: nobody waits for the answer any longer than this.

        Raises:
            OverloadedError: too much is waiting already; nothing was begun.
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

    def check_capacity(self, caller: Hashable = None) -> None:
        """Spare a caller the work of preparing what would be refused.

        Raises:
            OverloadedError: too much is waiting already.
        """
        with self._changed:
            try:
                self._queue.check(caller, self._max_tokens)
            except QueueOverflowError as error:
                raise _overloaded(error.tokens / self._throughput.tokens_per_second) from None

    def forget_throughput(self) -> None:
        """Forget how long batches took: a model's first ones take longer than all others."""
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
        """Begin to continue `ids` as soon as there is a place.

        Args:
            caller: callers take turns.
            namespace: whose cached prefixes may be used.

        Raises:
            OverloadedError: too much is waiting already.
        """
        stream = Stream(model, ids, generation, self._wake, caller=caller, namespace=namespace)
        stream.item = self._generations.item(stream)
        self._offer([stream.item])
        return stream

    def _item(self, work: Work, caller: Hashable, deadline: float) -> Item[Work | Prefill]:
        """What waits for the model on behalf of a task."""
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
            shared_tokens=None if self._runners[name].pads else chunk_tokens(model.info),
        )

    def _offer(self, items: Sequence[Item[Work | Prefill]]) -> None:
        """Let all items of a call wait, or none.

        Raises:
            OverloadedError: too much is waiting already.
        """
        model = items[0].payload.model
        per_second = self._generations.ends_per_second(model)
        with self._changed:
            try:
                self._queue.offer(items, self._max_tokens, self._waiting_seconds * per_second)
            except QueueOverflowError as error:
                sequences = self._queue.sequences(model) if any(item.pool for item in items) else 0
                seconds = max(error.tokens / self._throughput.tokens_per_second, sequences / per_second)
                raise _overloaded(seconds) from None
            self._changed.notify()

    def _withdraw(self, call: Call) -> None:
        """Let what is left of a call wait no more."""
        with self._changed:
            self._queue.withdraw(call.items)
        for item in call.items:
            if isinstance(item.payload, LongPrompt):
                item.payload.leave()

    def _wake(self, text: Prefill) -> None:
        """Take note that a text's caller has left or reads on."""
        with self._changed:
            if text.left and text.item is not None:
                self._queue.withdraw([text.item])
            self._changed.notify()

    # The model's thread.

    def _serve(self) -> None:
        try:
            while (batch := self._schedule()) is not None:
                began = time.monotonic()
                work = [item.payload for item in batch if isinstance(item.payload, Work)]
                if work:
                    self._reply(self._batches.run(work))
                    insert_prefixes(work[0].call.model, self._runners[work[0].call.model])
                self._generations.step([item.payload for item in batch if isinstance(item.payload, Prefill)])
                if batch:
                    tokens = sum(max(item.tokens, self._shortest) for item in batch)
                    self._throughput.note(tokens, time.monotonic() - began)
        except BaseException as error:  # A server without its model's thread must not seem alive.
            _logger.critical("the model's thread died", exc_info=error)
            self._to_loop(self._crash, error)

    def _schedule(self) -> tuple[Item[Work | Prefill], ...] | None:
        """Wait for work and take the next batch, empty if only texts are to grow; None when the engine stops."""
        with self._changed:
            while not self._stopping:
                schedule = self._queue.take(time.monotonic(), self._generations.free())
                for item in schedule.expired:
                    self._to_loop(self._expire, item.payload)
                if schedule.batch or self._generations.busy:
                    return schedule.batch
                self._changed.wait()
        return None

    def _wait(self, text: Prefill) -> None:
        """Let a text wait for its next chunk, or for a place, unless its caller has left."""
        with self._changed:
            if text.item is not None:
                self._queue.withdraw([text.item])
            if not text.left:
                text.item = self._generations.item(text)
                self._queue.put(text.item)

    def _reply(self, done: Done) -> None:
        """Hand the values over to the event loop. What is left of a call that failed runs no more."""
        for work, value in zip(done.work, done.values, strict=True):
            if isinstance(value, Exception):
                self._withdraw(work.call)
        self._to_loop(done.deliver)

    def _to_loop(self, callback: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # The loop has closed: nobody waits any more.
            self._stopping = True

    # Back on the event loop.

    def _expire(self, expired: Work | Prefill) -> None:
        if isinstance(expired, LongPrompt):
            expired = expired.work
        if isinstance(expired, Work):  # a text's caller leaves by itself
            self._metrics.of_model(expired.model).dropped.inc()
            expired.call.answer.cancel()

    def _crash(self, error: BaseException) -> None:
        if not self.crashed.done():
            self.crashed.set_exception(RuntimeError(f"the model's thread died: {error!r}"))

    @property
    def _max_tokens(self) -> float:
        """Tokens that may wait at the throughput of late."""
        return self._waiting_seconds * self._throughput.tokens_per_second


def _overloaded(seconds: float) -> OverloadedError:
    """What a caller is told for whom it would take `seconds` to have a turn."""
    return OverloadedError(min(max(seconds, _SHORTEST_RETRY), _LONGEST_RETRY))
