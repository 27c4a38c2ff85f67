"""Calls in progress, and the results of their tasks. The event loop owns a call; other threads only read it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.batching import Item
from server.questions import Task


@dataclass(frozen=True)
class Answer:
    """The results of a call's tasks."""

    values: tuple[Any, ...]
    """One for each task, in order."""

    queue_seconds: float
    """How long the call waited for the model."""

    model_seconds: float
    """Time of the batches that its tasks ran in."""

    cached_tokens: tuple[int, ...]
    """How many first tokens of each task came from the prefix cache, in order."""


class Call:
    """A call whose tasks are in progress."""

    def __init__(self, model: str, tasks: int, answer: asyncio.Future[Answer], namespace: str) -> None:
        self.model = model
        self.namespace = namespace
        self.began = time.monotonic()
        self.model_seconds = 0.0
        self.answer = answer
        self.items: list[Item[Any]] = []
        """Its items in the queue."""
        self._values: list[Any] = [None] * tasks
        self._cached_tokens = [0] * tasks
        self._left = tasks

    def receive(self, index: int, value: Any, cached_tokens: int) -> None:
        """Store the value of the task at `index`, or the error that ends the call."""
        if self.answer.done():
            return
        if isinstance(value, Exception):
            self.answer.set_exception(value)
            return
        self._values[index], self._cached_tokens[index] = value, cached_tokens
        self._left -= 1
        if self._left == 0:
            waited = max(0.0, time.monotonic() - self.began - self.model_seconds)
            found = Answer(tuple(self._values), waited, self.model_seconds, tuple(self._cached_tokens))
            self.answer.set_result(found)


@dataclass(frozen=True, slots=True)
class Work:
    """The task at `index` of its call."""

    call: Call
    index: int
    task: Task

    @property
    def model(self) -> str:
        """The name of the model that is asked."""
        return self.call.model

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for its value any more."""
        return self.call.answer.done()


@dataclass(frozen=True)
class Done:
    """A batch that has run: a value or an error for each task, and its tokens from the prefix cache."""

    work: Sequence[Work]
    values: Sequence[Any]
    cached_tokens: Sequence[int | None]
    seconds: float

    def deliver(self) -> None:
        """Hand the values to their calls."""
        for call in {work.call: None for work in self.work}:
            call.model_seconds += self.seconds
        for work, value, cached in zip(self.work, self.values, self.cached_tokens, strict=True):
            work.call.receive(work.index, value, cached or 0)
