"""Long prompts that nothing follows are read in chunks too, and callers take turns whatever they ask."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from ml.models.base import LanguageModel
from server.calls import Answer
from server.errors import ModelFailedError, OverloadedError
from server.sequences import CHUNK_TOKENS
from server.tasks import NextTokenTask, ScoreTask, Task, values_of
from tests.unit.server.test_generation import Bench, all_of, check_alive, engine_of, ids_of, on_a_loop
from tests.unit.server.test_poison import poisoned
from tests.unit.server.watched import CHUNK, LONG, begin_as, prompt, watched

POISON = 77


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", CHUNK)


VERBS = {
    "next token": lambda ids: NextTokenTask(tuple(ids), top_k=5),
    "score": lambda ids: ScoreTask(tuple(ids[:-3]), tuple(ids[-3:]), top_k=2),
    "score of all": lambda ids: ScoreTask(tuple(ids[:1]), tuple(ids[1:])),
}


def submit(bench: Bench, task: Task, **how: Any) -> asyncio.Task[Answer]:
    return asyncio.create_task(bench.engine.submit(bench.model.info.name, [task], **how))


@pytest.mark.parametrize("verb", VERBS)
@on_a_loop
async def test_long_prompts_are_answered_as_if_read_as_a_whole(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, verb: str
):
    tasks = [VERBS[verb](prompt(50 + i, length)) for i, length in enumerate((33, 40, 41, 45))]
    with monkeypatch.context() as patched:
        patched.setitem(CHUNK_TOKENS, "cpu", 1000)
        async with engine_of(model) as bench:
            whole = [(await submit(bench, task)).values[0] for task in tasks]
    async with engine_of(model, prefix_bytes=1 << 22) as bench:
        for _ in range(2):  # with nothing cached, and with most of it
            answers = await asyncio.gather(*(submit(bench, task) for task in tasks))
            for answer, expected in zip(answers, whole, strict=True):
                found = answer.values[0]
                assert found.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)
                assert answer.model_seconds > 0
        assert (bench.gauge("running"), bench.gauge("waiting")) == (0, 0)


@on_a_loop
async def test_scoring_a_long_prompt_is_time_of_the_model(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    """Else its caller reads that it waited for others."""
    passed = 0.0

    def scored(*arguments: Any) -> list[Any]:
        nonlocal passed
        passed += 100.0
        return values_of(*arguments)

    monkeypatch.setattr("server.sequences.values_of", scored)
    monkeypatch.setattr("server.generation.time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed))
    async with engine_of(llama) as bench:
        answer = await submit(bench, VERBS["score"](LONG))
    assert 100 <= answer.model_seconds < 200


@pytest.mark.parametrize("verb", ["next token", "score"])
@on_a_loop
async def test_nobody_waits_for_a_long_prompt(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, verb: str):
    async with watched(llama, monkeypatch, held=True) as (bench, runner):
        text = asyncio.create_task(all_of(bench.begin([50], max_tokens=20, caller="text")))
        await runner.hold()
        long = submit(bench, VERBS[verb](LONG), caller="long")
        short = submit(bench, NextTokenTask((60,)), caller="short")
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(text, long, short)
        reads = [i for i, step in enumerate(runner.steps) if any(len(chunk.ids) > 1 for chunk in step)]
        assert len(reads) == len(set(reads)) >= 2
        for i in reads[:-1]:
            assert [chunk.ids[0] for chunk in runner.steps[i] if len(chunk.ids) == 1], "the text grows beside it"
        [answered] = [i for i, step in enumerate(runner.steps) if step[0].ids == (60,)]
        assert answered <= 2
        assert not runner.sequences


@on_a_loop
async def test_callers_take_turns_whatever_they_ask(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    async with watched(llama, monkeypatch, held=True, sequences=4) as (bench, runner):
        tasks = [begin_as(bench, "first", [40])]
        await runner.hold()
        tasks += [begin_as(bench, "greedy", prompt(first)) for first in (50, 51, 52)]
        tasks += [submit(bench, NextTokenTask(tuple(prompt(60)), top_k=1), caller="greedy")]
        tasks += [submit(bench, NextTokenTask(tuple(prompt(70))), caller="modest")]
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(*tasks)
        modest, others = runner.read_of(prompt(70)), [runner.read_of(prompt(first)) for first in (50, 51, 52, 60)]
        assert modest[-1] < min(read[-1] for read in others)
        assert modest[-1] - modest[0] <= 2 * len(modest), "every second chunk is of the one who asks for little"


@pytest.mark.parametrize("how", ["cancelled", "expired"])
@on_a_loop
async def test_a_long_prompt_that_nobody_waits_for_is_read_no_further(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, how: str
):
    async with watched(llama, monkeypatch, held=True) as (bench, runner):
        long = submit(bench, NextTokenTask(tuple(LONG)), seconds=0.5 if how == "expired" else None)
        await runner.hold()
        if how == "cancelled":
            long.cancel()
            await asyncio.wait([long])
        else:
            await asyncio.sleep(0.6)  # that its time is up is what it is about
        runner.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await long
        await check_alive(bench)
        assert runner.read_of(LONG) == [0]
        assert not runner.sequences


@on_a_loop
async def test_a_long_prompt_that_fails_fails_its_call_alone(model: LanguageModel):
    long = prompt(9)
    bad = [*LONG[:20], POISON, *LONG[21:]]
    async with engine_of(model) as bench:
        expected = (await submit(bench, NextTokenTask(tuple(long)))).values[0].ids
        text = ids_of(await all_of(bench.begin([5, 6, 7], max_tokens=6)))
        assert POISON not in text
        with poisoned(model, POISON):
            failed = submit(bench, NextTokenTask(tuple(bad)))
            answered, stream = submit(bench, NextTokenTask(tuple(long))), bench.begin([5, 6, 7], max_tokens=6)
            with pytest.raises(ModelFailedError):
                await failed
            assert (await answered).values[0].ids == expected
            assert ids_of(await all_of(stream)) == text
        await check_alive(bench)


@on_a_loop
async def test_texts_that_would_wait_too_long_for_a_place_are_refused(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    async with watched(llama, monkeypatch, sequences=1) as (bench, runner):
        await all_of(bench.begin([5], max_tokens=2))
        bench.engine._generations._turnovers[llama.info.name].note(10.0)  # a text takes about five seconds
        bench.engine._queue._waiting_seconds = 12.0
        runner.close()
        texts = [begin_as(bench, "first", [40])]
        await runner.hold()
        texts += [begin_as(bench, "greedy", [50 + i]) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as caught:
            bench.begin([60], caller="greedy")
        assert 5 < caught.value.retry_seconds < 15
        texts.append(begin_as(bench, "modest", [70]))
        await asyncio.sleep(0)
        answer = submit(bench, NextTokenTask((5, 6)), caller="greedy")
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(answer, *texts)
