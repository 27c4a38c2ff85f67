"""Callers who ask engines elsewhere share what may wait."""

from __future__ import annotations

import asyncio

import pytest

from ml.generation import Generation, GenerationSpec
from ml.models.served.model import ServedModel
from server.errors import OverloadedError
from server.questions import NextTokenTask
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
