"""Texts in the making: slots, turns, callers that leave, failures. The models are tiny and real, or count."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ml.generation import FinishReason, Generation, GenerationSpec, Step
from ml.models.base import Chunk, LanguageModel, Runner, StepResult
from ml.models.loading import load
from server.batching import Limits
from server.engine import Engine
from server.errors import ModelFailedError, OverloadedError
from server.generation import GenerationLimits
from server.interpreter import SharedInterpreter
from server.metrics import Metrics
from server.running_sequences import RunningSequences
from server.sequences import CHUNK_TOKENS, ChunkedSequence
from server.shared_queue import SharedQueue
from server.tasks import NextTokenTask
from server.text_stream import Stream


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> LanguageModel:
    return load(str(tiny_llama), device="cpu")


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on an event loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


class Bench:
    """An engine over one model."""

    def __init__(
        self, model: LanguageModel, *, prefix_bytes: int = 0, queue: Limits | None = None, **limits: int
    ) -> None:
        self.model = model
        self.metrics = Metrics()
        models = {model.info.name: model}
        generation = GenerationLimits(**limits)
        self.engine = Engine(models, queue or Limits(), self.metrics, generation, prefix_bytes=prefix_bytes)

    def begin(self, ids: Sequence[int], *, caller: str | None = None, **settings: Any) -> Stream:
        spec = GenerationSpec(**settings)
        generation = Generation(spec, self.model.tokenizer, ids, spec.tokens(len(ids), self.model.info.context_length))
        return self.engine.generate(self.model.info.name, ids, generation, caller=caller)

    def gauge(self, state: str) -> float:
        return self.metrics.registry.get_sample_value("gloss_generations", {"state": state}) or 0.0


@asynccontextmanager
async def engine_of(model: LanguageModel, **limits: Any):
    bench = Bench(model, **limits)
    bench.engine.start()
    try:
        yield bench
    finally:
        await bench.engine.stop(10)


async def all_of(stream: Stream) -> list[Step]:
    return [step async for step in stream]


def ids_of(steps: Sequence[Step]) -> list[int]:
    return [step.token_id for step in steps]


@pytest.mark.parametrize("sequences", [1, 2, 8])
@on_a_loop
async def test_texts_in_company_are_what_they_are_alone(llama: LanguageModel, sequences: int):
    prompts = [[5 + i, 6, 7] * (i + 1) for i in range(5)]
    settings = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 9}
    async with engine_of(llama, sequences=1) as bench:
        alone = [ids_of(await all_of(bench.begin(ids, seed=i, **settings))) for i, ids in enumerate(prompts)]
    async with engine_of(llama, sequences=sequences) as bench:
        streams = [bench.begin(ids, seed=i, **settings) for i, ids in enumerate(prompts)]
        found = [ids_of(steps) for steps in await asyncio.gather(*map(all_of, streams))]
        assert found == alone
        assert bench.gauge("running") == 0


@pytest.mark.parametrize("length", [30, 31, 32, 63])
@on_a_loop
async def test_what_a_text_leaves_behind_is_what_was_read(llama: LanguageModel, length: int):
    """Its first token completes a block of the prefix cache, but has not been read when the prompt is noted."""
    ids = [5 + i % 50 for i in range(length)]
    async with engine_of(llama, prefix_bytes=1 << 22) as bench:
        first, *_ = ids_of(await all_of(bench.begin(ids, max_tokens=2)))
        longer = (*ids, first, *range(60, 90))
        answer = await bench.engine.submit(llama.info.name, [NextTokenTask(longer)])
    expected = torch.log_softmax(llama.logits([longer])[0][-1], dim=-1)
    assert answer.values[0].log_probabilities == pytest.approx([expected.max().item()], abs=1e-4)
    assert answer.values[0].entropy == pytest.approx(-(expected.exp() * expected).sum().item(), abs=1e-4)


@on_a_loop
async def test_who_leaves_frees_the_place(llama: LanguageModel):
    async with engine_of(llama, sequences=1) as bench:
        first = bench.begin([5, 6], max_tokens=120)
        await anext(first)
        second = bench.begin([7], max_tokens=2)
        first.abandon()
        steps = await all_of(second)
        assert steps[-1].finish is FinishReason.LENGTH
        assert await all_of(first) == []
        assert (bench.gauge("running"), bench.gauge("waiting")) == (0, 0)


@on_a_loop
async def test_a_caller_without_places_gets_one_of_whoever_holds_most(llama: LanguageModel):
    """It does not wait for the end of the other's texts, and these are what they would have been."""
    prompts = [[5 + i, 6, 7] * (i + 1) for i in range(4)]
    settings = {"temperature": 0.7, "max_tokens": 40}
    async with engine_of(llama, sequences=1) as bench:
        alone = [ids_of(await all_of(bench.begin(ids, seed=i, **settings))) for i, ids in enumerate(prompts)]
    async with engine_of(llama, sequences=4) as bench:
        streams = [bench.begin(ids, seed=i, caller="greedy", **settings) for i, ids in enumerate(prompts)]
        begun = [[await anext(stream)] for stream in streams]
        assert len(await all_of(bench.begin([7], caller="other", max_tokens=2))) == 2
        assert not any(stream.finished for stream in streams)
        rest = await asyncio.gather(*map(all_of, streams))
        assert [ids_of(first + more) for first, more in zip(begun, rest, strict=True)] == alone


def gave_way(bench: Bench, texts: Sequence[Stream], other: Stream) -> Stream:
    """Let `texts` run, without the model's thread, and `other` take the slot of one. Returns that one."""
    generations = bench.engine._generations
    generations.step(texts)
    generations.step([other])
    assert other.number is not None
    [found] = [text for text in texts if text.number is None]
    return found


def taken(bench: Bench) -> list[Any]:
    """The payloads of the next batch."""
    schedule = bench.engine._queue.take(bench.engine._generations)
    assert schedule is not None
    return [item.payload for item in schedule.batch]


@on_a_loop
async def test_who_gives_way_has_not_ended(llama: LanguageModel):
    """Else more would be let wait than end in time: it takes a slot again."""
    bench = Bench(llama, sequences=2)
    gave_way(bench, [bench.begin([5], caller="greedy") for _ in range(2)], bench.begin([7], caller="other"))
    assert bench.engine._generations.ends_per_second(llama.info.name) == float("inf")


@on_a_loop
async def test_all_time_in_slots_counts_when_a_text_ends(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    passed = 0.0
    monkeypatch.setattr("server.sequences.time", SimpleNamespace(monotonic=lambda: passed))
    bench = Bench(llama, sequences=2)
    generations = bench.engine._generations
    texts, other = [bench.begin([5], caller="greedy") for _ in range(2)], bench.begin([7], caller="other")
    generations.step(texts)
    passed = 30.0
    generations.step([other])
    other.abandon()
    generations.step([])  # after no time
    [text] = [text for text in texts if text.number is None]
    generations.step([text])
    passed = 40.0
    for each in texts:
        each.abandon()
    generations.step([])
    assert generations.ends_per_second(llama.info.name) == pytest.approx(2 / ((0 + 40 + 40) / 3))


@on_a_loop
async def test_who_gave_way_does_not_wait_for_what_its_caller_sent_since(llama: LanguageModel):
    bench = Bench(llama, sequences=2)
    texts = [bench.begin([5], caller="greedy") for _ in range(2)]
    assert taken(bench) == texts[:1]  # before the first one runs, the memory of a sequence is not known
    bench.engine._queue.withdraw([text.item for text in texts if text.item is not None])
    bench.begin([6], caller="greedy")
    other = bench.begin([7], caller="other")
    bench.engine._queue.withdraw([other.item] if other.item is not None else [])
    gave = gave_way(bench, texts, other)
    other.abandon()
    bench.engine._generations.step([])
    assert taken(bench) == [gave]


@on_a_loop
async def test_what_was_cached_of_a_prompt_that_gave_way_is_what_was_cached_before(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    """Not what the prompt itself left in the cache until then."""
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 32)
    prompts = [[5 + i % 40 for i in range(70)], [50 - 1 - i % 40 for i in range(70)]]
    bench = Bench(llama, sequences=2, prefix_bytes=1 << 22)
    gave = gave_way(bench, [bench.begin(ids, caller="greedy") for ids in prompts], bench.begin([7], caller="other"))
    running = [each for each in bench.engine._generations._all_running() if each is not gave]
    for each in running:
        each.abandon()
    for _ in range(3):
        bench.engine._generations.step([gave])
    assert gave.prefilled_from_cache >= 32
    assert gave.cached_tokens == 0


@on_a_loop
async def test_who_loses_its_memory_as_another_starts_waits_once(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    """It does not start beside its own item in the queue, by which it would later be prefilled with nothing."""
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 8)
    failing = Failing(llama.runner())
    monkeypatch.setattr(llama, "runner", lambda *_: failing)
    bench = Bench(llama)
    generations = bench.engine._generations
    long, new = bench.begin([5 + i for i in range(20)], max_tokens=3), bench.begin([6], max_tokens=3)
    generations.step([long])
    with monkeypatch.context() as patched:
        patched.setattr(failing, "begin", lambda: 1 / 0)
        generations.step([new, long])
    assert long.number is None
    bench.engine.start()
    assert len(await all_of(long)) == 3
    await bench.engine.stop(10)


@on_a_loop
async def test_nobody_gives_way_while_one_runs_whose_caller_has_left(llama: LanguageModel):
    bench = Bench(llama, sequences=3)
    generations = bench.engine._generations
    texts = [bench.begin([5], caller="greedy") for _ in range(3)]
    generations.step(texts)
    texts[1].abandon()
    other = bench.begin([7], caller="other")
    assert generations.slots()[llama.info.name].may_start("greedy")
    generations.step([other])
    assert [each.number is not None for each in (*texts, other)] == [True, False, True, True]


@on_a_loop
async def test_preempted_texts_beyond_the_bound_take_no_free_slot(llama: LanguageModel):
    """As after a failure, which preempts all of a model."""
    bench = Bench(llama, sequences=4, preempted=1)
    generations = bench.engine._generations
    generations.step([bench.begin([5], caller="greedy")])
    generations._preempted = [bench.begin([6]) for _ in range(4)]
    assert generations.slots()[llama.info.name].may_start("greedy")


@on_a_loop
async def test_who_is_cancelled_frees_the_place(llama: LanguageModel):
    async with engine_of(llama, sequences=1) as bench:
        waiting = asyncio.create_task(all_of(bench.begin([5, 6], max_tokens=120)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(await all_of(bench.begin([7], max_tokens=2))) == 2


@on_a_loop
async def test_too_many_waiting_texts_are_refused(llama: LanguageModel):
    bench = Bench(llama, sequences=1, queue=Limits(waiting_items=2))  # not started: all of them wait
    for _ in range(2):
        bench.begin([5])
    with pytest.raises(OverloadedError):
        bench.begin([5])


@on_a_loop
async def test_texts_may_arrive_at_any_moment(llama: LanguageModel):
    """They are offered on the event loop while the model's thread gives slots to those before them."""
    async with engine_of(llama, sequences=2) as bench:
        tasks = []
        for i in range(300):
            tasks.append(asyncio.create_task(all_of(bench.begin([5 + i % 40], caller=str(i % 7), max_tokens=1))))
            await asyncio.sleep(0)
        assert [len(steps) for steps in await asyncio.gather(*tasks)] == [1] * 300


@on_a_loop
async def test_other_work_goes_on_between_the_steps(llama: LanguageModel):
    async with engine_of(llama) as bench:
        stream = bench.begin([5, 6], max_tokens=120)
        await anext(stream)
        answer = await bench.engine.submit(llama.info.name, [NextTokenTask((5, 6, 7))])
        assert answer.values[0].ids
        assert not stream.abandoned
        stream.abandon()


@on_a_loop
async def test_the_models_thread_waits_for_the_loop_once_a_round(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    """Whatever the round is of: a batch, a step of the texts, or both."""
    log: list[str] = []

    class Logged(SharedInterpreter):
        @contextmanager
        def step(self, callers: Collection[Hashable] = ()) -> Iterator[None]:
            log.append("step")
            with super().step(callers):
                yield

        def let_loop_catch_up(self, seconds: float | None = None) -> None:
            log.append("wait")
            super().let_loop_catch_up(seconds)

    monkeypatch.setattr("server.engine.SharedInterpreter", Logged)
    task = NextTokenTask((5, 6, 7))
    async with engine_of(llama) as bench:
        await bench.engine.submit(llama.info.name, [task])
    assert log == ["step", "wait"]
    log.clear()
    async with engine_of(llama) as bench:
        await all_of(bench.begin([5, 6], max_tokens=9))
    assert log == 9 * ["step", "wait"]
    log.clear()
    async with engine_of(llama) as bench:
        async for _ in bench.begin([5, 6], max_tokens=100):
            await bench.engine.submit(llama.info.name, [task])
    assert "step step wait" in " ".join(log)


async def reached(bench: Bench, **states: int) -> None:
    """Wait until so many texts are in each state."""
    async with asyncio.timeout(20):
        while any(bench.gauge(state) != count for state, count in states.items()):  # noqa: ASYNC110 -- a thread counts
            await asyncio.sleep(0.001)


@on_a_loop
async def test_an_unread_text_pauses_and_goes_on_as_if_it_had_not(llama: LanguageModel):
    async with engine_of(llama) as bench:
        generated = functools.partial(
            bench.metrics.registry.get_sample_value,
            "gloss_tokens_total",
            {"model": llama.info.name, "kind": "generated"},
        )
        expected = await all_of(bench.begin([5, 6], max_tokens=100, top_k=50))
        before = generated()
        stream = bench.begin([5, 6], max_tokens=100, top_k=50)
        await reached(bench, paused=1, running=0)
        assert generated() - before == 32
        other = await all_of(bench.begin([7], max_tokens=100))
        assert len(other) == 100, "others go on"
        assert bench.gauge("paused") == 1
        found = await all_of(stream)
        assert ids_of(found) == ids_of(expected)
        assert [[id_ for id_, _ in step.top] for step in found] == [[id_ for id_, _ in step.top] for step in expected]


@on_a_loop
async def test_a_text_that_pauses_gives_its_place_to_whoever_wants_it(llama: LanguageModel):
    async with engine_of(llama, sequences=1) as bench:
        settings = {"max_tokens": 80, "temperature": 0.7, "seed": 3}
        expected = ids_of(await all_of(bench.begin([5, 6], **settings)))
        unread = [bench.begin([5, 6], **settings) for _ in range(3)]
        await reached(bench, paused=3, running=0, waiting=0)
        assert len(await all_of(bench.begin([7], max_tokens=100))) == 100
        unread[0].abandon()
        found = await asyncio.gather(*map(all_of, unread))
        assert [ids_of(steps) for steps in found] == [[], expected, expected]
        await reached(bench, paused=0, running=0, waiting=0)


@on_a_loop
async def test_what_is_unread_goes_with_its_caller(llama: LanguageModel):
    async with engine_of(llama, sequences=1) as bench:
        stream = bench.begin([5, 6], max_tokens=100)
        await reached(bench, paused=1)
        stream.abandon()
        assert stream._steps.empty()
        await reached(bench, paused=0)


@on_a_loop
async def test_cached_tokens_are_those_of_the_prompt(llama: LanguageModel):
    """A text that gave its place away reads itself anew, mostly from the prefix cache; its prompt was not cached."""
    ids = [5 + i % 50 for i in range(40)]
    async with engine_of(llama, sequences=1, prefix_bytes=1 << 22) as bench:
        first = bench.begin(ids, max_tokens=80)
        await reached(bench, paused=1)
        await all_of(bench.begin([7], max_tokens=2))
        await all_of(first)
        second = bench.begin(ids, max_tokens=2)
        await all_of(second)
        assert (first.cached_tokens, second.cached_tokens) == (0, 32)


def test_memory_bounds_the_places(llama: LanguageModel):
    assert GenerationLimits(sequences=16, bytes=3 * llama.sequence_bytes).capacity(llama) == 3
    assert GenerationLimits(sequences=16, bytes=1).capacity(llama) == 1
    assert GenerationLimits(sequences=2).capacity(llama) == 2


class Failing:
    """A runner whose decode rows fail, and some of whose prompts; and if need be, it cannot drop a sequence."""

    pads = False
    is_preemptible = False
    bytes = 0

    def __init__(self, runner: Runner, drops: bool = True) -> None:
        self.runner = runner
        self.drops = drops

    def begin(self) -> int:
        return self.runner.begin()

    def step(self, chunks: Sequence[Chunk]) -> StepResult:
        match list(chunks[0].ids):
            case [1]:
                raise RuntimeError("prompt")
            case [2]:
                return StepResult([torch.full((1, 50), float("nan"))], 1, 0, [0])
            case [3]:
                return StepResult([10 * torch.eye(50)[9:10]], 1, 0, [0])
            case [9]:
                raise RuntimeError("step")
        return self.runner.step(chunks)

    def drop(self, sequence: int) -> None:
        self.runner.drop(sequence)
        if not self.drops:
            raise RuntimeError("drop")

    def insert_prefixes(self) -> None:
        self.runner.insert_prefixes()


@pytest.mark.parametrize(("prompt", "message"), [([1], "prompt"), ([2], "not a number"), ([3], "step")])
@on_a_loop
async def test_a_failure_reaches_its_caller_and_no_other(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, prompt: list[int], message: str
):
    failing = Failing(llama.runner())
    monkeypatch.setattr(llama, "runner", lambda *_: failing)
    async with engine_of(llama) as bench:
        with pytest.raises(Exception, match=message):
            await all_of(bench.begin(prompt))
        assert bench.gauge("running") == 0
        await check_alive(bench)


async def check_alive(bench: Bench) -> None:
    """The model's thread goes on."""
    assert len(await all_of(bench.begin([5, 6], max_tokens=2))) == 2
    assert (bench.gauge("running"), bench.gauge("waiting")) == (0, 0)


@on_a_loop
async def test_sequences_that_cannot_be_measured_fail_their_callers_alone(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    async with engine_of(llama) as bench:
        with monkeypatch.context() as patched:
            patched.setattr(type(llama), "sequence_bytes", property(lambda _: 1 / 0))
            with pytest.raises(ModelFailedError, match=f"{llama.info.name}.* failed: ZeroDivisionError"):
                await all_of(bench.begin([5]))
        await check_alive(bench)


@on_a_loop
async def test_a_text_that_cannot_go_on_fails_alone(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    async with engine_of(llama) as bench:
        broken, good = bench.begin([5], max_tokens=3), bench.begin([6], max_tokens=3)
        monkeypatch.setattr(broken.generation, "advance", lambda _: 1 / 0)
        with pytest.raises(ModelFailedError, match="ZeroDivisionError"):
            await all_of(broken)
        assert len(await all_of(good)) == 3
        await check_alive(bench)


@pytest.mark.parametrize("tokens", [1, 5])
@on_a_loop
async def test_a_sequence_that_cannot_be_dropped_harms_nobody(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, tokens: int
):
    failing = Failing(llama.runner(), drops=False)
    monkeypatch.setattr(llama, "runner", lambda *_: failing)
    async with engine_of(llama) as bench:
        stream = bench.begin([3], max_tokens=tokens)
        if tokens == 1:
            assert len(await all_of(stream)) == 1
        else:
            await anext(stream)
            stream.abandon()
        failing.drops = True
        await check_alive(bench)


@on_a_loop
async def test_prompts_pay_for_their_tokens_of_a_step_only(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    """A long one is read while a text grows. Each step takes a second."""
    passed, shares, charged = 0.0, [], []
    run_step = RunningSequences.run

    def run(self: RunningSequences, step: dict[ChunkedSequence, Chunk]) -> StepResult:
        nonlocal passed
        passed += 1.0
        prompts = sum(len(chunk.ids) for sequence, chunk in step.items() if not sequence.is_prefilled)
        shares.append(prompts / sum(len(chunk.ids) for chunk in step.values()))
        return run_step(self, step)

    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 8)
    monkeypatch.setattr("server.generation.time", SimpleNamespace(monotonic=lambda: passed))
    monkeypatch.setattr(RunningSequences, "run", run)
    monkeypatch.setattr(
        SharedQueue, "note_run", lambda self, batch, seconds, model_seconds: charged.append(model_seconds)
    )
    bench = Bench(llama)
    streams = [bench.begin([5, 6, 7], max_tokens=30), bench.begin([5 + i for i in range(45)], max_tokens=1)]
    bench.engine.start()
    await asyncio.gather(*map(all_of, streams))
    await bench.engine.stop(10)
    assert charged == pytest.approx([share for share in shares if share])
    assert sum(share < 1 for share in charged) >= 4
