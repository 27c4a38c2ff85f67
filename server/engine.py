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
from server.batches import Batches
from server.batching import Item, Limits
from server.calls import Answer, Call, Done, Work
from server.generation import GenerationLimits, Generations, insert_prefixes
from server.interpreter import SharedInterpreter
from server.metrics import Metrics
from server.questions import AttentionTask, Task
from server.sequences import ChunkedSequence, LongPrompt, is_long, shared_tokens
from server.shared_queue import SharedQueue, Waiting
from server.tasks import batch_key, one_of_each_kind, output_bytes
from server.text_stream import Stream

_logger = logging.getLogger(__name__)

_MAX_PREEMPTIONS = 3
"""How often an item's step ends early: each of those who are refused gets at least a quarter of their steps."""


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
        self._interpreter = SharedInterpreter(self._loop, self._to_loop)
        self._queue = SharedQueue(limits, waiting_seconds, self._interpreter)
        self._generations = Generations(
            models,
            self._runners,
            generation,
            metrics,
            wait=lambda sequence: self._queue.put(sequence, self._generations.item(sequence)),
            deliver=lambda sequence, answer: self._to_loop(sequence.receive, answer),
        )
        self._batches = Batches(models, self._runners, metrics)
        self._on_cpu = all(model.info.device == "cpu" for model in models.values())
        self.crashed: asyncio.Future[None] = self._loop.create_future()
        """The error that ended the model's thread, if there was one."""
        self._thread = threading.Thread(target=in_front(self._serve), name="model", daemon=True)
        metrics.watch_queue(lambda: float(len(self._queue)))
        metrics.generations.labels("waiting").set_function(lambda: float(self._queue.sequences))
        for name, runner in self._runners.items():
            metrics.watch_prefixes(name, runner)

    def start(self) -> None:
        """Start the model's thread."""
        self._thread.start()

    async def warm_up(self) -> None:
        """Let each model answer each kind of task once: a first answer takes longer than others, and is not typical."""
        for name, model in self._models.items():
            began = time.perf_counter()
            for task in one_of_each_kind(model):
                try:
                    await self.submit(name, [task])
                except Exception as error:  # noqa: BLE001 -- callers of this kind of task get the error
                    _logger.warning("model=%s cannot answer %s: %s", name, type(task).__name__, error)
            _logger.info("warm model=%s seconds=%.2f", name, time.perf_counter() - began)
        self._queue.forget_throughput()

    async def stop(self, seconds: float) -> None:
        """Stop after the batch in progress, or stop waiting for the thread after `seconds`."""
        self._queue.stop()
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
        self._queue.offer(call.items, self._generations.ends_per_second(model))
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

    def check_capacity(self, model: str, caller: Hashable = None) -> None:
        """Refuse early, before the work of preparing a call.

        Raises:
            OverloadedError: too much waits for `model` already.
        """
        self._queue.check_capacity(model, caller)

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
        stream = Stream(model, ids, generation, self._queue.wake, caller=caller, namespace=namespace)
        stream.item = self._generations.item(stream)
        self._queue.offer([stream.item], self._generations.ends_per_second(model))
        return stream

    def _item(self, work: Work, caller: Hashable, deadline: float) -> Waiting:
        """The queue's item for a task."""
        name, task = work.call.model, work.task
        model = self._models[name]
        if not isinstance(task, AttentionTask) and is_long(model.info, len(task.ids)):
            prompt = LongPrompt(work, task, self._queue.wake, caller, deadline)
            prompt.item = self._generations.item(prompt)
            return prompt.item
        return Item(
            work,
            tokens=len(task.ids),
            model=name,
            batch_key=batch_key(work),
            caller=caller,
            call=work.call,
            output_bytes=output_bytes(model, task),
            padded=self._runners[name].pads,
            deadline=deadline,
            shared_tokens=None if self._runners[name].pads else shared_tokens(model.info),
        )

    def _withdraw(self, call: Call) -> None:
        """Take what still waits of a call out of the queue."""
        self._queue.withdraw(call.items)
        for item in call.items:
            if isinstance(item.payload, LongPrompt):
                item.payload.abandon()

    # The model's thread.

    def _serve(self) -> None:
        try:
            with FreeCores() as cores:
                while (schedule := self._queue.take(self._generations)) is not None:
                    for item in schedule.expired:
                        self._to_loop(self._expire, item.payload)
                    cores.share()
                    self._run(schedule.batch)
        except BaseException as error:  # A server without its model's thread must not seem alive.
            _logger.critical("the model's thread died", exc_info=error)
            self._to_loop(self._crash, error)

    def _run(self, batch: Sequence[Waiting]) -> None:
        """Answer a batch, and let all running sequences take a step."""
        began = time.monotonic()
        work = [item.payload for item in batch if isinstance(item.payload, Work)]
        chunks = [item.payload for item in batch if isinstance(item.payload, ChunkedSequence)]
        steps = bool(chunks) or self._generations.busy
        model_seconds = 0.0
        if work:
            runner = self._runners[work[0].call.model]
            may_end_early = runner.is_preemptible and not chunks
            may_end_early &= all(item.times_put_back < _MAX_PREEMPTIONS for item in batch)
            try:
                with self._interpreter.step([item.caller for item in batch] if may_end_early else ()):
                    done = self._batches.run(work, lambda: self._interpreter.is_preempted)
                    # Beside an event loop that refuses calls, this takes ten times as long. Else replies come first.
                    inserted = self._interpreter.is_shared
                    if inserted:
                        insert_prefixes(work[0].call.model, runner)
            except PreemptedError:
                self._queue.put_back(batch, time.monotonic() - began)
                return
            model_seconds += done.seconds
            self._reply(done)
            if not steps:  # else sequences would wait for the event loop twice per token
                self._interpreter.let_loop_catch_up()
                self._queue.let_replies_leave(self._generations)
            if not inserted:
                insert_prefixes(work[0].call.model, runner)
        if steps:
            with self._interpreter.step():
                model_seconds += self._generations.step(chunks)
            # A token takes a few milliseconds. However many calls are refused, texts have two thirds of the time.
            self._interpreter.let_loop_catch_up((time.monotonic() - began) / 2)
        if batch:
            self._queue.note_run(batch, time.monotonic() - began, model_seconds)

    def _reply(self, done: Done) -> None:
        """Send the values to the event loop, and withdraw the rest of a call that failed."""
        for work, value in zip(done.work, done.values, strict=True):
            if isinstance(value, Exception):
                self._withdraw(work.call)
        self._queue.note_replies()
        self._to_loop(self._deliver, done)

    def _to_loop(self, callback: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # The loop is closed: no caller waits.
            self._queue.stopping = True

    # Back on the event loop.

    def _deliver(self, done: Done) -> None:
        done.deliver()
        # The calls that were woken run first, and write their replies.
        self._loop.call_soon(self._queue.note_replies_written)

    def _expire(self, expired: Work | ChunkedSequence) -> None:
        if isinstance(expired, LongPrompt):
            expired = expired.work
        if isinstance(expired, Work):  # the caller of a generated text leaves by itself
            self._metrics.of_model(expired.model).dropped.inc()
            expired.call.answer.cancel()

    def _crash(self, error: BaseException) -> None:
        if not self.crashed.done():
            self.crashed.set_exception(RuntimeError(f"the model's thread died: {error!r}"))
