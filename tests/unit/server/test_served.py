"""Callers who ask external engines: they share what may wait, and nothing that is cached."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ml.errors import EngineError
from ml.generation import Generation, GenerationSpec
from ml.models.served.model import ServedModel, open_model
from ml.models.served.options import EngineOptions
from server.errors import OverloadedError
from server.questions import NextTokenTask, ScoreTask
from server.served import ServedEngine
from tests.fixtures.engine import Fault, TestEngine
from tests.fixtures.models import byte_level
from tests.fixtures.served import LONGEST, SmallModel, engine, known_engine, served_model, small_model, tokenizer_folder

__all__ = ["engine", "known_engine", "served_model", "small_model", "tokenizer_folder"]

LIMIT = 8
TASK = NextTokenTask((1, 2, 3))


def test_whoever_fills_the_queue_fills_it_for_nobody_else(engine: TestEngine, served_model: ServedModel) -> None:
    engine.hold.clear()

    async def run() -> None:
        name = served_model.info.name
        served = ServedEngine({name: served_model.found}, lambda exchange: None, max_waiting=LIMIT)

        def generate(model: str, caller: str) -> object:
            return served.generate(model, (1,), generation, caller=caller)

        greedy = asyncio.create_task(served.submit(name, [TASK] * LIMIT, caller="greedy"))
        await asyncio.sleep(0)
        for refused in (served.check_capacity, generate):
            with pytest.raises(OverloadedError):
                refused(name, "greedy")
        with pytest.raises(OverloadedError):
            await served.submit(name, [TASK], caller="greedy")
        served.check_capacity(name, "modest")
        modest = asyncio.create_task(served.submit(name, [TASK] * (LIMIT // 2), caller="modest"))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            served.check_capacity(name, "modest")
        engine.hold.set()
        answers = await asyncio.gather(greedy, modest)
        assert [len(answer.values) for answer in answers] == [LIMIT, LIMIT // 2]
        for caller in ("greedy", "modest"):
            served.check_capacity(name, caller, LIMIT)
        await served.stop()

    generation = Generation(GenerationSpec(), served_model.tokenizer, (1,), 4)
    asyncio.run(asyncio.wait_for(run(), 30))


def test_each_engine_has_a_queue_of_its_own(engine: TestEngine, served_model: ServedModel) -> None:
    engine.hold.clear()

    async def run() -> None:
        models = dict.fromkeys(["slow", "other"], served_model.found)
        served = ServedEngine(models, lambda exchange: None, max_waiting=LIMIT)
        calls = [asyncio.create_task(served.submit("slow", [TASK] * LIMIT, caller="greedy"))]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            served.check_capacity("slow", "greedy")
        calls.append(asyncio.create_task(served.submit("other", [TASK] * LIMIT, caller="greedy")))
        await asyncio.sleep(0)
        engine.hold.set()
        assert [len(answer.values) for answer in await asyncio.gather(*calls)] == [LIMIT, LIMIT]
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_callers_take_turns_in_asking(engine: TestEngine, served_model: ServedModel) -> None:
    async def run() -> None:
        name, found = served_model.info.name, served_model.found
        one_at_once = replace(found, options=replace(found.options, concurrency=1))
        served = ServedEngine({name: one_at_once}, lambda exchange: None, max_waiting=100)
        engine.hold.clear()
        engine.asked.clear()
        callers = {"greedy": 6, "modest": 2, "another": 1}
        calls = [
            asyncio.create_task(served.submit(name, [NextTokenTask((7 + place,))], caller=caller))
            for place, (caller, count) in enumerate(callers.items())
            for _ in range(count)
        ]
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*calls)
        asked = [body["prompt"][0][0] - 7 for body in engine.asked if len(body["prompt"][0]) == 1]
        assert asked == [0, 0, 1, 2, 0, 1, 0, 0, 0]
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_tenants_have_salts_of_their_own(engine: TestEngine, served_model: ServedModel) -> None:
    async def salts(served: ServedEngine, namespace: str) -> set[str | None]:
        name = served_model.info.name
        engine.asked.clear()
        await served.submit(name, [TASK, ScoreTask((1, 2), (3,))], namespace=namespace)
        generation = Generation(GenerationSpec(), served_model.tokenizer, TASK.ids, 2)
        async for _ in served.generate(name, TASK.ids, generation, namespace=namespace):
            pass
        asked = [body for body in engine.asked if list(TASK.ids) in (body["prompt"], *body["prompt"])]
        assert len(asked) == 3
        return {body.get("cache_salt") for body in asked}

    async def run() -> None:
        served = ServedEngine({served_model.info.name: served_model.found}, lambda exchange: None, max_waiting=LIMIT)
        assert await salts(served, "") == {None}
        [[one], [again], [other]] = [await salts(served, namespace) for namespace in ("one", "one", "other")]
        assert one == again != other
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def with_id(token: int) -> Callable[[Any], Any]:
    """An answer in which each list of tokens has one more, the most likely of all."""

    def change(data: Any) -> Any:
        for choice in data["choices"]:
            logprobs = choice["logprobs"]
            for top in (logprobs or {}).get("top_logprobs") or ():
                top[f"token_id:{token}"] = -0.001
            for position in (choice.get("prompt_logprobs") or [])[1:]:
                position[str(token)] = {"logprob": -0.001, "rank": 1, "decoded_token": ""}
        return data

    return change


@pytest.mark.parametrize("token", [-1, 10**6, 2**31, 2**80])
@pytest.mark.parametrize("task", [NextTokenTask((1, 2), top_k=3), ScoreTask((1, 2), (3,), top_k=3)])
def test_ids_outside_the_vocabulary_are_no_answer(
    token: int, task: NextTokenTask | ScoreTask, engine: TestEngine, served_model: ServedModel
) -> None:
    async def run() -> None:
        name = served_model.info.name
        served = ServedEngine({name: served_model.found}, lambda exchange: None, max_waiting=LIMIT)
        await served.submit(name, [TASK])  # the fingerprint has just been looked at
        engine.faults = [Fault(change=with_id(token)) for _ in range(10)]
        with pytest.raises(EngineError, match="of no use"):
            await served.submit(name, [task])
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def named(token: int) -> Callable[[Any], Any]:
    """An event whose token is another."""

    def change(event: Any) -> Any:
        event["choices"][0]["logprobs"]["tokens"] = [f"token_id:{token}"]
        return event

    return change


BROKEN_EVENTS: dict[str, Callable[[Any], Any]] = {
    "an id that is none": named(10**6),
    "an id below all": named(-1),
    "an error": lambda _: {"error": {"message": "out of memory"}},
    "a list": lambda _: [],
    "null": lambda _: None,
    "a word": lambda _: "error",
}


BROKEN_STREAMS: dict[str, Fault] = {
    "events without end": Fault(content=lambda _: itertools.repeat(b"data: " + b" " * 2**16)),
    "a line without end": Fault(content=lambda _: itertools.repeat(b"0" * 2**16)),
    "no events": Fault(content=lambda _: [b"{}"], headers={"Content-Type": "application/json"}),
    "compressed ones": Fault(content=lambda _: [gzip.compress(bytes(2**20))], headers={"Content-Encoding": "gzip"}),
    "two of one name": Fault(content=lambda _: [b'data: {"choices": [], "choices": []}\n\n']),
    "cut off": Fault(content=lambda _: [b'data: {"choi'], headers={"Content-Length": "999"}),
    "nothing": Fault(content=lambda _: []),
}


@pytest.mark.parametrize("name", BROKEN_STREAMS)
def test_streams_that_are_none_end_a_text_with_an_error(
    name: str, engine: TestEngine, served_model: ServedModel
) -> None:
    async def run() -> None:
        model = served_model.info.name
        served = ServedEngine({model: served_model.found}, lambda exchange: None, max_waiting=LIMIT)
        await served.submit(model, [TASK])
        engine.faults = [BROKEN_STREAMS[name]] * 10
        generation = Generation(GenerationSpec(), served_model.tokenizer, TASK.ids, 4)
        with pytest.raises(EngineError):
            async for _ in served.generate(model, TASK.ids, generation):
                pass
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize("name", BROKEN_EVENTS)
def test_events_of_no_use_end_a_text_with_an_error(name: str, engine: TestEngine, served_model: ServedModel) -> None:
    async def run() -> None:
        model = served_model.info.name
        served = ServedEngine({model: served_model.found}, lambda exchange: None, max_waiting=LIMIT)
        await served.submit(model, [TASK])
        engine.faults = [Fault(change=BROKEN_EVENTS[name])]
        generation = Generation(GenerationSpec(), served_model.tokenizer, TASK.ids, 4)
        with pytest.raises(EngineError):
            async for _ in served.generate(model, TASK.ids, generation):
                pass
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_no_placeholder_is_generated_where_none_is_wanted(
    engine: TestEngine, served_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    [unknown] = served_model.tokenizer.special.placeholders
    plain = engine.logits

    def logits(ids: Any) -> Any:
        found = plain(ids).copy()
        found[..., unknown] += 50 * (tuple(ids[: len(TASK.ids)]) == TASK.ids)
        return found

    monkeypatch.setattr(engine, "logits", logits)

    async def run() -> None:
        name = served_model.info.name
        served = ServedEngine({name: served_model.found}, lambda exchange: None, max_waiting=LIMIT)
        for wanted in (True, False):
            asked = GenerationSpec(no_placeholders=not wanted)
            generation = Generation(asked, served_model.tokenizer, TASK.ids, 4)
            steps = [step async for step in served.generate(name, TASK.ids, generation)]
            assert all((step.token_id == unknown) == wanted for step in steps)
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_questions_are_answered_while_one_of_the_replicas_is_away(engine: TestEngine, small_model: SmallModel) -> None:
    other = TestEngine(byte_level(unknown="<unk>"), small_model, origin=engine.origin, longest=LONGEST)
    model = open_model(f"vllm+{engine.url};{other.url}/tiny", EngineOptions())
    other.close()

    async def run() -> None:
        name = model.info.name
        served = ServedEngine({name: model.found}, lambda exchange: None, max_waiting=LIMIT)
        for _ in range(4):
            answer = await served.submit(name, [TASK])
            assert len(answer.values) == 1
            generation = Generation(GenerationSpec(), model.tokenizer, TASK.ids, 2)
            assert [step async for step in served.generate(name, TASK.ids, generation)]
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))
    model.close()


def test_lists_that_an_engine_cuts_short_are_asked_for_in_another_way(
    engine: TestEngine, served_model: ServedModel
) -> None:
    prompts = [(1, 2, index) for index in range(6)]

    async def listed(served: ServedEngine) -> list[Any]:
        name = served_model.info.name
        found = []
        for top in (1, 2, 5):
            answer = await served.submit(name, [NextTokenTask(prompt, top_k=top) for prompt in prompts])
            found += [(value.ids, value.log_probabilities) for value in answer.values]
            for temperature in (0.0, 2.0):
                asked = GenerationSpec(top_k=top, temperature=temperature, seed=3)
                generation = Generation(asked, served_model.tokenizer, TASK.ids, 4)
                found += [step async for step in served.generate(name, TASK.ids, generation)]
        return found

    async def run() -> None:
        served = ServedEngine({served_model.info.name: served_model.found}, lambda exchange: None, max_waiting=LIMIT)
        whole = await listed(served)
        engine.cuts_lists = True
        assert await listed(served) == whole
        await served.stop()

    asyncio.run(asyncio.wait_for(run(), 30))
