"""Engines whose runner is watched: which steps it takes, and what they read."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ml.models.base import Chunk, LanguageModel, Runner, StepResult
from server.shared_queue import SharedQueue, Waiting
from tests.unit.server.test_generation import Bench, all_of, engine_of

CHUNK = 8
"""Tokens of a chunk, as tests set it."""
LONG = [5 + i % 40 for i in range(45)]
"""Six chunks, the last of five tokens."""


class Watched:
    """A runner that notes its steps, and can be held up in one."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.pads = runner.pads
        self.is_preemptible = runner.is_preemptible
        self.steps: list[list[Chunk]] = []
        self.sequences: set[int] = set()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    @property
    def bytes(self) -> int:
        return self._runner.bytes

    def begin(self) -> int:
        number = self._runner.begin()
        self.sequences.add(number)
        return number

    def step(self, chunks: Sequence[Chunk]) -> StepResult:
        self.steps.append(list(chunks))
        self.entered.release()
        assert self.gate.wait(20)
        return self._runner.step(chunks)

    def drop(self, sequence: int) -> None:
        self.sequences.discard(sequence)
        self._runner.drop(sequence)

    def insert_prefixes(self) -> None:
        self._runner.insert_prefixes()

    def close(self) -> None:
        """Hold it up in its next step."""
        self.gate.clear()
        while self.entered.acquire(blocking=False):
            pass

    async def hold(self) -> None:
        """Wait until it is held up in the step under way."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=20)

    def read_of(self, ids: Sequence[int]) -> list[int]:
        """In which steps the chunks of a prompt, which begins as no other one, were read."""
        first = next(i for i, step in enumerate(self.steps) for chunk in step if chunk.ids[0] == ids[0])
        [number] = {chunk.sequence for chunk in self.steps[first] if chunk.ids[0] == ids[0]}
        found, left = [], len(ids)
        for i, step in enumerate(self.steps[first:], first):
            for chunk in step:
                if chunk.sequence == number and left:
                    found.append(i)
                    left -= len(chunk.ids)
        return found


@asynccontextmanager
async def watched(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, *, held: bool = False, **limits: int
) -> AsyncIterator[tuple[Bench, Watched]]:
    """An engine over `model`, and its runner. `held`: in its first step. A token takes a second, on any machine."""

    def note_run(queue: SharedQueue, batch: Sequence[Waiting], *_: float) -> None:
        queue._queue.charge(batch, sum(item.tokens for item in batch), time.monotonic())

    monkeypatch.setattr(SharedQueue, "note_run", note_run)
    runner = Watched(model.runner())
    monkeypatch.setattr(model, "runner", lambda *_: runner)
    if held:
        runner.gate.clear()
    async with engine_of(model, **limits) as bench:
        try:
            yield bench, runner
        finally:
            runner.gate.set()


def prompt(first: int, tokens: int = len(LONG)) -> list[int]:
    """A prompt that begins as no other one."""
    return [first, *LONG[1:tokens]]


def begin_as(bench: Bench, caller: str, ids: Sequence[int]) -> asyncio.Task[list[object]]:
    return asyncio.create_task(all_of(bench.begin(ids, caller=caller, max_tokens=2)))
