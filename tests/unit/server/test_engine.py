"""The engine: batches, turns, failures, callers that leave. Its model is a fake whose answers are known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ml.models.base import Chunk, ModelInfo, StepResult
from ml.runtime.preemption import end_if_preempted
from server.batching import Limits
from server.engine import Engine
from server.errors import ModelFailedError, OverloadedError
from server.metrics import Metrics
from server.tasks import NextTokenTask, ScoreTask
from tests.fixtures.runners import PromptRunner

VOCABULARY = 50
POISON = 49
LONG = 48
"""Its step is held up, and may end early."""


class PreemptibleRunner(PromptRunner):
    """Holds up prompts with the token `LONG`, and ends early meanwhile."""

    is_preemptible = True

    def __init__(self, model: FakeModel) -> None:
        super().__init__(model.logits)
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def step(self, chunks: Sequence[Chunk]) -> StepResult:
        if any(LONG in chunk.ids for chunk in chunks):
            self.entered.release()
            while not self.opened.wait(0.001):
                end_if_preempted()
        return super().step(chunks)


class FakeModel:
    """Holds the token after n to be n + 1. The gate holds its calls up; the poison fails the batch it is in."""

    tokenizer: Any = None

    def __init__(self) -> None:
        self.info = ModelInfo("fake", "0", "fake", 1, 1, 0, 1, VOCABULARY, 100, "cpu", "float32")
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[tuple[int, ...]]] = []

    def logits(
        self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        self.batches.append([tuple(sequence) for sequence in sequences])
        self.entered.release()
        assert self.gate.wait(10)
        if any(POISON in sequence for sequence in sequences):
            raise RuntimeError("poison")
        logit_counts = logit_counts or [1] * len(sequences)
        return [
            10 * torch.nn.functional.one_hot(torch.tensor(sequence[-tail:]) + 1, VOCABULARY).float()
            for sequence, tail in zip(sequences, logit_counts, strict=True)
        ]

    def runner(self, max_bytes: int = 0) -> PromptRunner:
        return PromptRunner(self.logits)

    def attention(self, *_: Any) -> None:
        raise AssertionError


class Bench:
    """An engine over a fake model."""

    def __init__(self, **limits: Any) -> None:
        self.model = FakeModel()
        self.metrics = Metrics()
        self.engine = Engine({"fake": self.model}, Limits(**limits), self.metrics)

    async def __aenter__(self) -> Bench:
        self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.model.gate.set()
        await self.engine.stop(5)

    def ask(self, *ids: int, caller: str = "a", seconds: float | None = None) -> asyncio.Task[Any]:
        """Ask for the token after each of `ids`, as one call."""
        tasks = [NextTokenTask((id_,)) for id_ in ids]
        return asyncio.create_task(self.engine.submit("fake", tasks, caller=caller, seconds=seconds))

    async def ask_while_busy(self, *calls: tuple[int, ...], **how: Any) -> list[asyncio.Task[Any]]:
        """Hold the model up with token 0, and ask behind it."""
        self.model.gate.clear()
        first = self.ask(0)
        await asyncio.to_thread(self.model.entered.acquire)
        tasks = [self.ask(*ids, **how) for ids in calls]
        await asyncio.sleep(0)  # All of them are queued now.
        return [first, *tasks]

    def sample(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None
        return value


def predicted(answer: Any) -> list[int]:
    return [value.ids[0] for value in answer.values]


def test_answers_come_in_the_calls_order():
    async def scenario():
        async with Bench(batch_items=2) as bench:
            answer = await bench.ask(5, 3, 9, 1, 7)
            assert predicted(answer) == [6, 4, 10, 2, 8]
            assert answer.model_seconds > 0
            assert answer.queue_seconds >= 0
            assert answer.cached_tokens == (0,) * 5

    asyncio.run(scenario())


def test_calls_that_wait_share_a_batch_whatever_they_ask():
    async def scenario():
        async with Bench() as bench:
            first, second = await bench.ask_while_busy((1, 2))
            score = asyncio.create_task(bench.engine.submit("fake", [ScoreTask((4,), (5, 6))]))
            await asyncio.sleep(0)
            bench.model.gate.set()
            await first
            assert predicted(await second) == [2, 3]
            assert (await score).values[0].ranks == (1, 1)
            assert [sorted(batch) for batch in bench.model.batches] == [[(0,)], [(1,), (2,), (4, 5)]]
            assert bench.sample("gloss_batch_size_sum", model="fake") == 4
            assert bench.sample("gloss_tokens_total", model="fake", kind="prompt") == 5
            assert bench.sample("gloss_tokens_total", model="fake", kind="padding") == 2

    asyncio.run(scenario())


def test_only_the_culprits_caller_sees_a_failure():
    async def scenario():
        async with Bench() as bench:
            _, good, bad, also_good = await bench.ask_while_busy((1,), (POISON,), (2, 3))
            bench.model.gate.set()
            assert predicted(await good) == [2]
            assert predicted(await also_good) == [3, 4]
            with pytest.raises(RuntimeError, match="poison"):
                await bad
            assert predicted(await bench.ask(8)) == [9]  # The thread lives on.

    asyncio.run(scenario())


def test_a_failed_call_takes_the_rest_of_its_tasks_with_it():
    async def scenario():
        async with Bench(batch_items=1) as bench:
            with pytest.raises(RuntimeError, match="poison"):
                await bench.ask(POISON, *range(20))
            await bench.ask(30)
            assert len(bench.model.batches) == 2

    asyncio.run(scenario())


def test_whoever_leaves_costs_no_batch():
    async def scenario():
        async with Bench() as bench:
            first, leaving, staying = await bench.ask_while_busy((1, 2, 3), (4,))
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert bench.sample("gloss_inference_queue_depth") == 1
            bench.model.gate.set()
            await asyncio.gather(first, staying)
            assert bench.model.batches == [[(0,)], [(4,)]]

    asyncio.run(scenario())


def test_work_whose_time_is_up_is_dropped_before_it_runs():
    async def scenario():
        async with Bench() as bench:
            first, late = await bench.ask_while_busy((1,), seconds=0.0)
            bench.model.gate.set()
            await first
            with pytest.raises(asyncio.CancelledError):
                await late
            assert bench.model.batches == [[(0,)]]
            assert bench.sample("gloss_inference_dropped_total", model="fake") == 1

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once_and_says_when_to_return():
    async def scenario():
        async with Bench(waiting_items=3) as bench:
            first, waiting = await bench.ask_while_busy((1, 2))
            with pytest.raises(OverloadedError) as caught:
                await bench.ask(3, 4)
            assert 0 < caught.value.retry_seconds <= 30
            third = bench.ask(5)
            bench.model.gate.set()
            assert predicted(await waiting) == [2, 3]
            assert predicted(await third) == [6]
            await first

    asyncio.run(scenario())


def test_calls_that_would_wait_too_long_are_refused_and_others_are_not():
    async def scenario():
        async with Bench() as bench:
            engine = Engine({"fake": bench.model}, Limits(shortest=1), Metrics(), waiting_seconds=2.05)
            throughput = engine._queue._throughputs["fake"]
            throughput.note(1, 0.1)  # one slow batch says little
            assert throughput.tokens_per_second == float("inf")
            throughput.note(9, 0.9)  # ten tokens a second: twenty may wait
            tasks = [NextTokenTask((1, 2, 3, 4, 5, 6, 7, 8))]
            calls = [asyncio.create_task(engine.submit("fake", tasks)) for _ in range(2)]
            await asyncio.sleep(0)
            engine.check_capacity("fake")
            with pytest.raises(OverloadedError) as caught:
                await engine.submit("fake", tasks)
            assert 1 < caught.value.retry_seconds < 3  # what 16 tokens take
            small = asyncio.create_task(engine.submit("fake", [NextTokenTask((1, 2, 3, 4))]))
            await asyncio.sleep(0)
            engine._queue._waiting_seconds = 1.0
            with pytest.raises(OverloadedError):
                engine.check_capacity("fake")
            engine.start()
            await asyncio.gather(*calls, small)
            await engine.stop(5)

    asyncio.run(scenario())


def test_one_call_does_not_wait_for_anothers_thousand():
    async def scenario():
        async with Bench(batch_items=4) as bench:
            _, bulk = await bench.ask_while_busy(tuple(n % 40 for n in range(1000)), caller="bulk")
            one = bench.ask(42, caller="one")
            await asyncio.sleep(0)
            bench.model.gate.set()
            await one
            assert (42,) in [sequence for batch in bench.model.batches[:3] for sequence in batch]
            assert not bulk.done()
            await bulk

    asyncio.run(scenario())


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no refusal is forgotten because a machine is slow."""
    monkeypatch.setattr("server.interpreter._REFUSED_SECONDS", 60)


class PreemptibleBench(Bench):
    """An engine over a fake model that is held up in a step of a caller who was refused."""

    def __init__(self, batch_items: int = 1) -> None:
        super().__init__()
        self.runner = PreemptibleRunner(self.model)
        self.model.runner = lambda *_: self.runner  # type: ignore[method-assign]
        self.other = FakeModel()
        models = {"fake": self.model, "other": self.other}
        self.engine = Engine(models, Limits(batch_items=batch_items), self.metrics)

    async def ask_and_hold(self, **how: Any) -> asyncio.Task[Any]:
        """Ask as a greedy caller, and let the model be in that step."""
        self.engine.note_refusal("greedy")
        greedy = self.ask(LONG, caller="greedy", **how)
        await asyncio.to_thread(self.runner.entered.acquire)
        return greedy

    @property
    def preempted(self) -> float:
        return self.sample("gloss_batches_preempted_total", model="fake")


def test_a_step_of_who_was_refused_ends_early_for_another_and_runs_again():
    async def scenario():
        async with PreemptibleBench() as bench:
            greedy = await bench.ask_and_hold()
            behind = bench.ask(LONG, 7, caller="greedy")
            assert predicted(await bench.ask(5, caller="modest")) == [6]
            assert not greedy.done()
            bench.runner.opened.set()
            assert predicted(await greedy) == [LONG + 1]
            assert predicted(await behind) == [LONG + 1, 8]
            assert bench.preempted == 1

    asyncio.run(scenario())


def test_it_ends_early_for_a_call_of_another_model_too():
    async def scenario():
        async with PreemptibleBench() as bench:
            greedy = await bench.ask_and_hold()
            answer = await bench.engine.submit("other", [NextTokenTask((5,))], caller="modest")
            assert predicted(answer) == [6]
            assert bench.other.batches == [[(5,)]]
            assert not greedy.done()
            bench.runner.opened.set()
            assert predicted(await greedy) == [LONG + 1]
            assert bench.preempted == 1

    asyncio.run(scenario())


def test_what_was_preempted_three_times_runs():
    async def scenario():
        async with PreemptibleBench() as bench:
            greedy = await bench.ask_and_hold()
            for _ in range(3):
                assert predicted(await bench.ask(5, caller="modest")) == [6]
                await asyncio.to_thread(bench.runner.entered.acquire)
            modest = bench.ask(5, caller="modest")
            await asyncio.sleep(0)
            bench.runner.opened.set()
            assert predicted(await greedy) == [LONG + 1]
            assert predicted(await modest) == [6]
            assert bench.preempted == 3

    asyncio.run(scenario())


def test_time_of_preempted_steps_counts_where_waits_are_predicted():
    async def scenario():
        async with PreemptibleBench() as bench:
            noted: list[tuple[int, float]] = []
            bench.engine._queue._throughputs["fake"].note = lambda *each: noted.append(each)  # type: ignore[method-assign]
            greedy = await bench.ask_and_hold()
            await bench.ask(5, caller="modest")
            bench.runner.opened.set()
            await greedy
            await bench.ask(5, caller="modest")  # behind the note of the one before
            assert [tokens for tokens, _ in noted[:3]] == [
                0,
                bench.engine._queue._shortest,
                bench.engine._queue._shortest,
            ]

    asyncio.run(scenario())


def test_a_preempted_batch_with_a_culprit_fails_its_call_alone():
    async def scenario():
        async with PreemptibleBench(batch_items=8) as bench:
            bench.engine.note_refusal("greedy")
            _, long, bad, good = await bench.ask_while_busy((LONG,), (POISON,), (3,), caller="greedy")
            bench.model.gate.set()
            await asyncio.to_thread(bench.runner.entered.acquire)
            modest = bench.ask(5, caller="modest")
            await asyncio.to_thread(bench.runner.entered.acquire)  # of a batch that the modest call is in, too
            assert not any(call.done() for call in (long, bad, good))
            bench.runner.opened.set()
            assert predicted(await modest) == [6]
            assert predicted(await long) == [LONG + 1]
            assert predicted(await good) == [4]
            with pytest.raises(RuntimeError, match="poison"):
                await bad
            assert bench.preempted == 1
            assert [(POISON,)] in bench.model.batches

    asyncio.run(scenario())


def test_a_culprit_is_not_to_blame_if_others_are_preempted_while_it_is_looked_for():
    async def scenario():
        async with PreemptibleBench(batch_items=8) as bench:
            bench.engine.note_refusal("greedy")
            bench.runner.opened.set()
            _, bad, long = await bench.ask_while_busy((POISON,), (LONG,), caller="greedy")
            alone = threading.Semaphore(0)
            logits = bench.model.logits

            def fail_then_hold(sequences: Sequence[Sequence[int]], *arguments: Any) -> list[torch.Tensor]:
                if len(sequences) > 1:  # what is run one by one is held up again
                    bench.runner.opened.clear()
                    alone.release()
                return logits(sequences, *arguments)

            bench.runner._logits = fail_then_hold
            while bench.runner.entered.acquire(blocking=False):
                pass
            bench.model.gate.set()
            await asyncio.to_thread(alone.acquire)
            for _ in range(2):  # in the batch, and alone
                await asyncio.to_thread(bench.runner.entered.acquire)
            bench.runner._logits = logits
            modest = bench.ask(5, caller="modest")
            await asyncio.to_thread(bench.runner.entered.acquire)  # of a batch that the modest call is in, too
            assert not bad.done()
            assert not long.done()
            bench.runner.opened.set()
            assert predicted(await modest) == [6]
            assert predicted(await long) == [LONG + 1]
            assert bench.preempted == 1
            with pytest.raises(RuntimeError, match="poison"):
                await bad

    asyncio.run(scenario())


def test_what_expires_while_it_is_preempted_is_dropped():
    async def scenario():
        async with PreemptibleBench() as bench:
            put_back = bench.engine._queue.put_back

            def put_back_late(batch: Sequence[Any], seconds: float) -> None:
                for item in batch:
                    item.deadline = 0.0
                put_back(batch, seconds)

            bench.engine._queue.put_back = put_back_late  # type: ignore[method-assign]
            late = await bench.ask_and_hold(seconds=60)
            assert predicted(await bench.ask(5, caller="modest")) == [6]
            with pytest.raises(asyncio.CancelledError):
                await late
            assert bench.sample("gloss_inference_dropped_total", model="fake") == 1
            assert bench.sample("gloss_inference_queue_depth") == 0
            assert bench.model.batches == [[(5,)]]

    asyncio.run(scenario())


def test_a_preempted_step_of_who_has_left_does_not_run_again():
    async def scenario():
        async with PreemptibleBench() as bench:
            greedy = await bench.ask_and_hold()
            greedy.cancel()
            await asyncio.wait([greedy])
            assert predicted(await bench.ask(5, caller="modest")) == [6]
            assert bench.preempted == 1
            assert bench.sample("gloss_inference_queue_depth") == 0
            assert bench.model.batches == [[(5,)]]

    asyncio.run(scenario())


def test_a_step_of_who_was_not_refused_does_not_end_early():
    async def scenario():
        async with PreemptibleBench() as bench:
            first = bench.ask(LONG, caller="modest")
            await asyncio.to_thread(bench.runner.entered.acquire)
            second = bench.ask(5, caller="another")
            await asyncio.sleep(0)
            bench.runner.opened.set()
            assert predicted(await first) == [LONG + 1]
            assert predicted(await second) == [6]
            assert bench.preempted == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("broken", ["_observe", "_values"])
def test_what_fails_beside_the_model_fails_its_call_alone(monkeypatch, broken: str):
    async def scenario():
        async with Bench() as bench:
            with monkeypatch.context() as patched:
                patched.setattr(bench.engine._batches, broken, lambda *_: 1 / 0)
                with pytest.raises(ModelFailedError, match="model 'fake' failed: ZeroDivisionError"):
                    await bench.ask(1)
            assert predicted(await bench.ask(8)) == [9]

    asyncio.run(scenario())


def test_a_runner_that_cannot_cache_harms_nobody(monkeypatch):
    async def scenario():
        async with Bench() as bench:
            monkeypatch.setattr(PromptRunner, "insert_prefixes", lambda *_: 1 / 0)
            assert predicted(await bench.ask(1)) == [2]
            assert predicted(await bench.ask(8)) == [9]

    asyncio.run(scenario())


def test_prefixes_are_cached_once_the_caller_has_written_its_reply(monkeypatch):
    monkeypatch.setattr("server.shared_queue._REPLY_SECONDS", 60)
    noted: list[str] = []
    monkeypatch.setattr(PromptRunner, "insert_prefixes", lambda *_: noted.append("cached"))

    async def call(bench: Bench, *ids: int) -> None:
        await bench.engine.submit("fake", [NextTokenTask((id_,)) for id_ in ids])
        noted.append("replied")

    async def scenario():
        async with Bench() as bench:
            await call(bench, 1)
            await call(bench, 2, 3)
        assert noted == ["replied", "cached"] * 2

    asyncio.run(scenario())


def test_a_dead_thread_is_told(monkeypatch):
    async def scenario():
        bench = Bench()
        monkeypatch.setattr(bench.engine._queue, "take", lambda *_: 1 / 0)
        bench.engine.start()
        call = bench.ask(1)
        with pytest.raises(RuntimeError, match="model's thread died"):
            await bench.engine.crashed
        call.cancel()

    asyncio.run(scenario())
