"""Long prompts are read in chunks, between and beside what others wait for. Steps are counted, no clocks read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ml.models.base import Chunk, LanguageModel, StepResult
from ml.runtime.prefix_cache import BLOCK
from server.errors import ModelFailedError
from server.sequences import CHUNK_TOKENS
from server.tasks import NextTokenTask
from tests.unit.server.test_generation import all_of, check_alive, engine_of, ids_of, on_a_loop
from tests.unit.server.test_poison import poisoned
from tests.unit.server.watched import CHUNK, LONG, begin_as, prompt, watched

POISON = 77
TOKENS = dict(CHUNK_TOKENS)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", CHUNK)


@on_a_loop
async def test_texts_are_those_of_prompts_read_in_one_pass(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    prompts = [LONG[:length] for length in (1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 45)]
    settings = {"max_tokens": 12, "temperature": 0.7, "top_p": 0.9}
    with monkeypatch.context() as patched:
        patched.setitem(CHUNK_TOKENS, "cpu", 1000)
        async with engine_of(model) as bench:
            whole = [ids_of(await all_of(bench.begin(ids, seed=i, **settings))) for i, ids in enumerate(prompts)]
    for prefix_bytes in (0, 1 << 22):
        async with engine_of(model, prefix_bytes=prefix_bytes) as bench:
            for _ in range(2 if prefix_bytes else 1):  # with little cached, and with all of it
                streams = [bench.begin(ids, seed=i, **settings) for i, ids in enumerate(prompts)]
                assert [ids_of(steps) for steps in await asyncio.gather(*map(all_of, streams))] == whole


def test_chunks_end_where_blocks_of_the_prefix_cache_do():
    assert all(tokens % BLOCK == 0 for tokens in TOKENS.values())


@on_a_loop
async def test_a_chunk_is_cached_like_a_prompt(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", 32)
    ids = [5 + i % 50 for i in range(100)]
    async with engine_of(llama, prefix_bytes=1 << 22) as bench:
        streams = [bench.begin(ids, max_tokens=2) for _ in range(2)]
        first = ids_of(await all_of(streams[0]))
        assert ids_of(await all_of(streams[1])) == first
        third = bench.begin(ids, max_tokens=2)
        assert ids_of(await all_of(third)) == first
        assert (streams[0].cached_tokens, third.cached_tokens) == (0, 96)


@on_a_loop
async def test_a_step_reads_few_tokens_of_prompts(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    async with watched(llama, monkeypatch) as (bench, runner):
        await asyncio.gather(*(all_of(bench.begin(prompt(50 + i, 10 * i), max_tokens=3)) for i in range(1, 5)))
        assert all(sum(len(c.ids) for c in step if len(c.ids) > 1) <= CHUNK for step in runner.steps)
        assert not runner.sequences


@on_a_loop
async def test_a_next_token_is_answered_before_a_long_prompt_is_read(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    async with watched(model, monkeypatch, held=True) as (bench, runner):
        text = asyncio.create_task(all_of(bench.begin(LONG, max_tokens=2)))
        await runner.hold()
        answer = asyncio.create_task(bench.engine.submit(model.info.name, [NextTokenTask((5, 6, 7))]))
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(text, answer)
        [asked] = [i for i, step in enumerate(runner.steps) if step[0].sequence is None]
        assert asked == 1, "right after the chunk that it met"
        assert runner.read_of(LONG) == [0, 2, 3, 4, 5, 6]


@on_a_loop
async def test_others_grow_with_every_chunk_that_is_read(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    async with watched(llama, monkeypatch, held=True) as (bench, runner):
        short = asyncio.create_task(all_of(bench.begin([50], max_tokens=20)))
        await runner.hold()
        long = asyncio.create_task(all_of(bench.begin(LONG, max_tokens=2)))
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(short, long)
        assert runner.read_of(LONG) == [1, 2, 3, 4, 5, 6]
        assert all([len(chunk.ids) for chunk in step][:-1] == [1] for step in runner.steps[1:7])


@pytest.mark.parametrize("cancelled", [False, True])
@on_a_loop
async def test_who_leaves_while_the_prompt_is_read_frees_the_place(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, *, cancelled: bool
):
    async with watched(model, monkeypatch, held=True, sequences=1) as (bench, runner):
        stream = bench.begin(LONG)
        reader = asyncio.create_task(all_of(stream))
        await runner.hold()
        other = asyncio.create_task(all_of(bench.begin([7], max_tokens=3)))
        await asyncio.sleep(0)
        if cancelled:
            reader.cancel()
            await asyncio.wait([reader])
        else:
            stream.abandon()
            reader.cancel()
        runner.gate.set()
        assert len(await other) == 3
        assert runner.read_of(LONG) == [0]
        assert not runner.sequences
        assert (bench.gauge("running"), bench.gauge("waiting")) == (0, 0)


@on_a_loop
async def test_a_prompt_that_fails_midway_fails_its_caller_alone(model: LanguageModel):
    prompts = [[5, 6, 7], LONG, prompt(9, 30), [11]]
    async with engine_of(model) as bench:
        expected = [ids_of(await all_of(bench.begin(ids, max_tokens=6))) for ids in prompts]
        assert not any(POISON in text for text in expected)
        for index in (0, 20, 44):
            bad = [*LONG[:index], POISON, *LONG[index + 1 :]]
            with poisoned(model, POISON):
                streams = [bench.begin(ids, max_tokens=6) for ids in (*prompts[:2], bad, *prompts[2:])]
                found = await asyncio.gather(*map(all_of, streams), return_exceptions=True)
            failed = found.pop(2)
            assert isinstance(failed, ModelFailedError), index
            assert [ids_of(steps) for steps in found] == expected, index
            await check_alive(bench)


@on_a_loop
async def test_a_prompt_is_not_blamed_for_what_others_meet_while_it_is_read(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    """Two texts fail whenever they share a step, so often that a long prompt is read anew again and again."""

    async with watched(llama, monkeypatch) as (bench, runner):
        expected = [ids_of(await all_of(bench.begin(ids, max_tokens=9))) for ids in ([50], [51], LONG)]
        step = runner.step

        def failing(chunks: Sequence[Chunk]) -> StepResult:
            result = step(chunks)
            if len(chunks) > 1:
                raise MemoryError
            return result

        monkeypatch.setattr(runner, "step", failing)
        streams = [bench.begin(ids, max_tokens=9) for ids in ([50], [51], LONG)]
        assert [ids_of(steps) for steps in await asyncio.gather(*map(all_of, streams))] == expected
        assert not runner.sequences


@on_a_loop
async def test_callers_take_turns_in_getting_places(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    async with watched(llama, monkeypatch, held=True, sequences=1) as (bench, runner):
        tasks = [begin_as(bench, "first", [40])]
        await runner.hold()
        asked = {"greedy": [50, 51, 52, 53], "modest": [60, 61], "late": [70]}
        tasks += [begin_as(bench, caller, [id_]) for caller, ids in asked.items() for id_ in ids]
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(*tasks)
        prompts = [step[0].ids[0] for step in runner.steps][::2]
        assert prompts == [40, 50, 60, 70, 51, 61, 52, 53]


@on_a_loop
async def test_callers_take_turns_in_having_their_prompts_read(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    async with watched(llama, monkeypatch, held=True) as (bench, runner):
        tasks = [begin_as(bench, "greedy", prompt(first)) for first in (50, 51, 52)]
        await runner.hold()
        tasks += [begin_as(bench, "modest", prompt(60, 2 * CHUNK)), begin_as(bench, "short", prompt(70, 3))]
        await asyncio.sleep(0)
        runner.gate.set()
        await asyncio.gather(*tasks)
        assert runner.read_of(prompt(60, 2 * CHUNK)) == [1, 4]
        assert runner.read_of(prompt(70, 3)) == [2], "before those who have had more"
        ends = [runner.read_of(prompt(first))[-1] for first in (50, 51, 52)]
        assert max(ends) - min(ends) <= 2, "those of one caller take turns too"
