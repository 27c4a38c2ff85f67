"""Callers who ask engines elsewhere: they share what may wait, and nothing that is cached."""

from __future__ import annotations

import asyncio

import pytest

from ml.generation import Generation, GenerationSpec
from ml.models.served.model import ServedModel
from server.errors import OverloadedError
from server.questions import NextTokenTask, ScoreTask
from server.served import ServedEngine
from tests.fixtures.engine import TestEngine
from tests.fixtures.served import engine, served_model, small_model, tokenizer_folder

__all__ = ["engine", "served_model", "small_model", "tokenizer_folder"]

LIMIT = 8
TASK = NextTokenTask((1, 2, 3))


def test_whoever_fills_the_queue_fills_it_for_nobody_else(engine: TestEngine, served_model: ServedModel) -> None:
    engine.hold.clear()

    async def run() -> None:
        name = served_model.info.name
        served = ServedEngine({name: served_model.found}, lambda exchange: None, max_waiting=LIMIT)
        greedy = asyncio.create_task(served.submit(name, [TASK] * LIMIT, caller="greedy"))
        await asyncio.sleep(0)
        for refused in (served.check_capacity, lambda who: served.generate(name, (1,), generation, caller=who)):
            with pytest.raises(OverloadedError):
                refused("greedy")
        with pytest.raises(OverloadedError):
            await served.submit(name, [TASK], caller="greedy")
        served.check_capacity("modest")
        modest = asyncio.create_task(served.submit(name, [TASK] * (LIMIT // 2), caller="modest"))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            served.check_capacity("modest")
        engine.hold.set()
        answers = await asyncio.gather(greedy, modest)
        assert [len(answer.values) for answer in answers] == [LIMIT, LIMIT // 2]
        for caller in ("greedy", "modest"):
            served.check_capacity(caller, LIMIT)
        await served.stop()

    generation = Generation(GenerationSpec(), served_model.tokenizer, (1,), 4)
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
