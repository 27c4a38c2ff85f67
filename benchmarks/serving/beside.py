"""What is asked beside what is measured, by a process of its own: many texts, or large calls, again and again."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import numpy as np

from gloss import AsyncClient

STREAMS, STREAM_TOKENS, NEW_TOKENS = 16, 450, 16
LARGE_CLIENTS = 4

_LARGE_REPLIES = [("grpc.max_receive_message_length", -1)]

Load = Callable[..., Coroutine[Any, Any, float]]


def fresh(vocabulary: int, tokens: int) -> Iterator[list[int]]:
    """Prompts that never come again, in any process."""
    numbers = np.random.default_rng(random.SystemRandom().getrandbits(64))
    while True:
        yield numbers.integers(2, vocabulary, tokens).tolist()


async def streams_at(address: str, vocabulary: int, rate: float, seconds: float) -> float:
    """Begin texts at `rate` a second for `seconds`. Returns how many ended a second."""
    intervals, ended, tasks = random.Random(0), 0, set()
    async with AsyncClient(address, timeout=60) as client:

        async def one(ids: list[int]) -> None:
            nonlocal ended
            async for _ in client.generate(ids, max_tokens=NEW_TOKENS):
                pass
            ended += 1

        began = due = time.perf_counter()
        for ids in fresh(vocabulary, STREAM_TOKENS):
            due += intervals.expovariate(rate)
            if due > began + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.add(asyncio.create_task(one(ids)))
        await asyncio.gather(*tasks)
    return ended / (time.perf_counter() - began)


async def streams_always(address: str, vocabulary: int, seconds: float) -> float:
    """Texts a second of 16 streams, each begun when another has ended."""
    ended, end = 0, time.perf_counter() + seconds
    began = time.perf_counter()
    async with AsyncClient(address, timeout=60) as client:

        async def one() -> None:
            nonlocal ended
            for ids in fresh(vocabulary, STREAM_TOKENS):
                async for _ in client.generate(ids, max_tokens=NEW_TOKENS):
                    pass
                ended += 1
                if time.perf_counter() > end:
                    return

        await asyncio.gather(*(one() for _ in range(STREAMS)))
    return ended / (time.perf_counter() - began)


async def calls_always(address: str, method: str, request: bytes, seconds: float) -> float:
    """Calls a second of four clients that send `request` again and again until they leave, whatever is answered."""
    ended, end = 0, time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal ended
        async with grpc.aio.insecure_channel(address, [*_LARGE_REPLIES, ("gloss.benchmark", number)]) as channel:
            call: Any = channel.unary_unary(method)
            while (left := end - time.perf_counter()) > 0:
                with suppress(grpc.aio.AioRpcError):
                    await call(request, timeout=left)
                ended += 1

    await asyncio.gather(*map(one, range(LARGE_CLIENTS)))
    return ended / seconds


@contextmanager
def beside(load: Load, *arguments: Any) -> Iterator[Callable[[], float]]:
    """Run `load` in another process, from before the block on. Gives a function that waits for what it returns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(load, arguments, theirs), daemon=True)
    process.start()
    ours.recv()  # it has begun
    try:
        yield ours.recv
    finally:
        process.join(timeout=120)
        process.kill()


def _run(load: Load, arguments: tuple[Any, ...], connection: Any) -> None:
    connection.send("begun")
    connection.send(asyncio.run(load(*arguments)))
