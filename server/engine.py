"""The engine: one thread that owns the models and runs what waits, batch after batch.

Where texts are being generated, each batch is followed by one step of all of them, and what a step reads of prompts
is bounded: so neither waits for the other's end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.generation import Generation
from ml.models.base import LanguageModel
from ml.runtime.device import in_front
from server.answers import Answer
from server.batching import Item, Limits, Queue, QueueOverflowError
from server.errors import OverloadedError, of_model
from server.generation import GenerationLimits, Generations, insert_prefixes
from server.metrics import Metrics
from server.questions import Task
from server.tasks import Outcome, batch_key, output_bytes, run
from server.text_stream import Stream

_logger = logging.getLogger(__name__)

_SHORTEST_RETRY, _LONGEST_RETRY = 0.05, 30.0
"""Seconds after which a refused caller is told to try again, at least and at most."""


class _Call:
    """A call's tasks on their way; only the event loop touches it."""

    def __init__(self, model: str, tasks: int, future: asyncio.Future[Answer], namespace: str) -> None:
        self.model = model
        self.namespace = namespace
        self.values: list[Any] = [None] * tasks
        self.cached_tokens = [0] * tasks
        self.left = tasks
        self.began = time.monotonic()
        self.model_seconds = 0.0
        self.future = future
        self.items: list[Item[_Work]] = []


@dataclass(frozen=True, slots=True)
class _Work:
    """What the queue holds: the task at `index` of its call."""

    call: _Call
    index: int
    task: Task


@dataclass(frozen=True)
class _Done:
    """A batch that has run: for each piece of work a value or an error, and its tokens from the prefix cache."""

    work: tuple[_Work, ...]
    values: Sequence[Any]
    cached_tokens: Sequence[int | None]
    seconds: float


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
            waiting_seconds: calls are refused while those that wait already will take the models longer than this.
        """
        self._models = models
        self._runners = {name: model.runner(prefix_bytes) for name, model in models.items()}
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._queue: Queue[_Work] = Queue(limits)
        self._changed = threading.Condition()  # Guards the queue, the texts that wait, and `_stopping`.
        self._generations = Generations(
            models,
            self._runners,
            generation,
            metrics,
            lambda stream, step: self._to_loop(stream.receive, step),
        )
        self._stopping = False
        self._waiting_seconds = waiting_seconds
        self._shortest = limits.shortest
        self._throughput = _Throughput()
        self.crashed: asyncio.Future[None] = self._loop.create_future()
        """Holds the error that ended the model's thread, should there ever be one."""
        self._thread = threading.Thread(target=in_front(self._serve), name="model", daemon=True)
        metrics.watch_queue(lambda: float(len(self._queue)))
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
        future: asyncio.Future[Answer] = self._loop.create_future()
        call = _Call(model, len(tasks), future, namespace)
        deadline = float("inf") if seconds is None else call.began + seconds
        items = [
            Item(
                _Work(call, index, task),
                tokens=len(task.ids),
                batch_key=batch_key(model, task),
                caller=caller,
                call=call,
                output_bytes=output_bytes(self._models[model], task),
                padded=self._runners[model].pads,
                deadline=deadline,
            )
            for index, task in enumerate(tasks)
        ]
        call.items = items
        with self._changed:
            try:
                self._queue.offer(items, self._waiting_seconds * self._throughput.tokens_per_second)
            except QueueOverflowError as error:
                raise OverloadedError(self._seconds_for(error.tokens)) from None
            self._changed.notify()
        try:
            return await future
        finally:
            if not future.done() or future.cancelled() or future.exception() is not None:
                with self._changed:
                    self._queue.withdraw(items)

    def check_capacity(self) -> None:
        """Spare whoever calls the work of preparing tasks that would be refused.

        Raises:
            OverloadedError: too much is waiting already.
        """
        with self._changed:
            tokens = self._queue.tokens
        if tokens and tokens >= self._waiting_seconds * self._throughput.tokens_per_second:
            raise OverloadedError(self._seconds_for(tokens))

    def forget_throughput(self) -> None:
        """Forget how long batches took: a model's first ones take longer than all others."""
        self._throughput = _Throughput()

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
            OverloadedError: too many texts wait already.
        """
        stream = Stream(model, ids, generation, self._wake, caller=caller, namespace=namespace)
        with self._changed:
            self._generations.offer(stream)
            self._changed.notify()
        return stream

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    # The model's thread.

    def _serve(self) -> None:
        try:
            while (batch := self._schedule()) is not None:
                began = time.monotonic()
                if batch:
                    done = self._run(batch)
                    self._reply(done)
                    insert_prefixes(batch[0].call.model, self._runners[batch[0].call.model])
                self._generations.step()
                if batch:
                    tokens = sum(max(len(work.task.ids), self._shortest) for work in batch)
                    self._throughput.note(tokens, time.monotonic() - began)
        except BaseException as error:  # A server without its model's thread must not seem alive.
            _logger.critical("the model's thread died", exc_info=error)
            self._to_loop(self._crash, error)

    def _schedule(self) -> tuple[_Work, ...] | None:
        """Wait for work and take the next batch, empty if only texts are to grow; None when the engine stops."""
        with self._changed:
            while not self._stopping:
                schedule = self._queue.take(time.monotonic())
                for item in schedule.expired:
                    self._to_loop(self._expire, item.payload.call)
                if schedule.batch or self._generations.busy:
                    return tuple(item.payload for item in schedule.batch)
                self._changed.wait()
        return None

    def _run(self, batch: tuple[_Work, ...]) -> _Done:
        """Run a batch and measure it."""
        began = time.monotonic()
        model = batch[0].call.model
        try:
            outcome = self._values(model, batch)
            seconds = time.monotonic() - began
            self._observe(batch, outcome, began, seconds)
        except Exception as error:  # noqa: BLE001 -- it belongs to the callers of the batch, not to this thread
            failed = [of_model(model, error)] * len(batch)
            return _Done(batch, failed, [None] * len(batch), time.monotonic() - began)
        return _Done(batch, outcome.values, outcome.cached_tokens, seconds)

    def _reply(self, done: _Done) -> None:
        """Hand the values over to the event loop. What is left of a call that failed runs no more."""
        for work, value in zip(done.work, done.values, strict=True):
            if isinstance(value, Exception):
                with self._changed:
                    self._queue.withdraw(work.call.items)
        self._to_loop(self._deliver, done)

    def _values(self, model: str, batch: Sequence[_Work]) -> Outcome:
        """Values of a batch. Where they fail together, each runs alone, so that only the culprit's caller sees it."""
        namespaces = [work.call.namespace for work in batch]
        try:
            return run(self._models[model], self._runners[model], [work.task for work in batch], namespaces)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it belongs to a caller, not to this thread
            if len(batch) == 1:
                return Outcome([of_model(model, error)], [None], 0)
            _logger.warning("batch of %d failed, running one by one: %s", len(batch), type(error).__name__)
            alone = [self._values(model, [work]) for work in batch]
            return Outcome(
                [value for outcome in alone for value in outcome.values],
                [tokens for outcome in alone for tokens in outcome.cached_tokens],
                sum(outcome.tokens_computed for outcome in alone),
                sum(outcome.tokens_padding for outcome in alone),
            )

    def _observe(self, batch: tuple[_Work, ...], outcome: Outcome, began: float, seconds: float) -> None:
        metrics = self._metrics.of_model(batch[0].call.model)
        useful = sum(len(work.task.ids) for work in batch)
        metrics.batch_size.observe(len(batch))
        metrics.batch_tokens.observe(outcome.tokens_computed + outcome.tokens_padding)
        metrics.batch_seconds.observe(seconds)
        metrics.prompt_tokens.inc(useful)
        metrics.padding_tokens.inc(outcome.tokens_padding)
        metrics.saved_tokens.inc(max(0, useful - outcome.tokens_computed))
        metrics.note_cached([tokens for tokens in outcome.cached_tokens if tokens is not None])
        for work in batch:
            metrics.queue_seconds.observe(began - work.call.began)

    def _to_loop(self, callback: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # The loop has closed: nobody waits any more.
            self._stopping = True

    # Back on the event loop.

    def _deliver(self, done: _Done) -> None:
        for call in {work.call: None for work in done.work}:
            call.model_seconds += done.seconds
        for work, value, cached in zip(done.work, done.values, done.cached_tokens, strict=True):
            call = work.call
            if call.future.done():
                continue
            if isinstance(value, Exception):
                call.future.set_exception(value)
                continue
            call.values[work.index], call.cached_tokens[work.index] = value, cached or 0
            call.left -= 1
            if call.left == 0:
                waited = max(0.0, time.monotonic() - call.began - call.model_seconds)
                answer = Answer(tuple(call.values), waited, call.model_seconds, tuple(call.cached_tokens))
                call.future.set_result(answer)

    def _expire(self, call: _Call) -> None:
        self._metrics.of_model(call.model).dropped.inc()
        call.future.cancel()

    def _crash(self, error: BaseException) -> None:
        if not self.crashed.done():
            self.crashed.set_exception(RuntimeError(f"the model's thread died: {error!r}"))

    def _seconds_for(self, tokens: int) -> float:
        return min(max(tokens / self._throughput.tokens_per_second, _SHORTEST_RETRY), _LONGEST_RETRY)


class _Throughput:
    """How fast waiting prompts are worked off of late, whatever the model's thread does between them."""

    _MEMORY_SECONDS = 2.0
    _EVIDENCE_SECONDS = 0.5

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Infinite while too little is known: nobody is refused for one slow batch."""
        return self._tokens / self._seconds if self._seconds >= self._EVIDENCE_SECONDS else float("inf")

    def note(self, tokens: int, seconds: float) -> None:
        """`tokens` took `seconds`."""
        share = math.exp(-seconds / self._MEMORY_SECONDS)
        self._tokens = share * self._tokens + tokens
        self._seconds = share * self._seconds + seconds
