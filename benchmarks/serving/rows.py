"""What a server does beside answering: streams, cached prefixes, overload, explanations next door, its memory."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.serving import processes
from benchmarks.serving.figures import Figure, percentiles, prompts
from benchmarks.serving.load import Client, Flood, closed_loop, flood, requests
from gloss import AsyncClient
from gloss import v1 as pb

GLOSS = "gloss"
TOKENS = 64
SHARED, NEW = 480, 32


async def generate(address: str, vocabulary: int, counts: Sequence[int], repeats: int) -> list[Figure]:
    """Tokens a second of one and of several streams; the ratio is to one stream's."""
    found: list[Figure] = []
    for count in counts:
        texts = prompts(count * repeats, vocabulary, seed=count)

        async def one(mine: list[list[int]]) -> int:
            tokens = 0
            async with AsyncClient(address) as client:
                for ids in mine:
                    async for _ in client.generate(ids[:32], max_tokens=TOKENS, temperature=1.0, seed=1):
                        tokens += 1
            return tokens

        await one(texts[:1])
        began = perf_counter()
        tokens = await asyncio.gather(*(one(texts[number::count]) for number in range(count)))
        rate = sum(tokens) / (perf_counter() - began)
        ratio = rate / (found[0].rate or rate) if found else 1.0
        found.append(Figure(f"generate, {count} streams", GLOSS, rate, ratio=ratio, note="of one stream's tokens/s"))
    return found


async def cached_prefixes(address: str, vocabulary: int, repeats: int) -> list[Figure]:
    """A prefix of 480 tokens with 32 new ones behind it: the first time, and the second with others behind it."""
    random = np.random.default_rng(11)
    first, second = list[float](), list[float]()
    client = Client(address)
    for _ in range(repeats):
        shared = random.integers(2, vocabulary, SHARED).tolist()
        for times in (first, second):
            [request] = requests([shared + random.integers(2, vocabulary, NEW).tolist()])
            times.append(await client.ask(request))
    await client.close()
    ratio = float(np.median(first) / np.median(second))
    work = f"{SHARED} shared + {NEW} new tokens"
    return [
        Figure(f"{work}, first time", GLOSS, None, *percentiles(first)),
        Figure(f"{work}, second time", GLOSS, None, *percentiles(second), ratio=ratio, note="times faster"),
    ]


def overload(folder: Path, threads: int, vocabulary: int, seconds: float) -> list[Figure]:
    """Four times as many prompts as can be answered.

    What callers can bear is set to the median that 32 clients see, and prompts come at exponential intervals: first as
    many a second as those clients got answered, then four times as many.
    """

    async def at_capacity(address: str) -> tuple[float, list[float]]:
        return await closed_loop(address, 32, iter(requests(prompts(20_000, vocabulary, seed=5))), seconds)

    with processes.gloss(folder, threads) as served:
        capacity, times = asyncio.run(at_capacity(served.address))
    p50, p99 = percentiles(times)
    with processes.gloss(folder, threads, GLOSS_MAX_WAITING_SECONDS=f"{p50 / 1e3:.3f}") as served:
        at_one = asyncio.run(flood(served.address, capacity, vocabulary, seconds))
        at_four = asyncio.run(flood(served.address, 4 * capacity, vocabulary, seconds))
    found = [Figure("capacity: 32 clients", GLOSS, capacity, p50, p99)]
    for load, came in (("1 ×", at_one), ("4 ×", at_four)):
        accepted = percentiles(came.accepted)
        note = f"p99 of that at capacity; {_share(came):.0%} refused, waiting at most {p50:.0f} ms"
        rate = len(came.accepted) / seconds
        found.append(Figure(f"offered {load} capacity, accepted", GLOSS, rate, *accepted, accepted[1] / p99, note))
        if came.refused:
            refused = percentiles(came.refused)
            found.append(Figure(f"offered {load} capacity, refused", GLOSS, len(came.refused) / seconds, *refused))
    return found


def _share(came: Flood) -> float:
    return len(came.refused) / (len(came.refused) + len(came.accepted))


def beside_an_explanation(folder: Path, threads: int, vocabulary: int, seconds: float) -> list[Figure]:
    """One client's latency alone, and while a worker on the same cores explains."""
    text = " ".join(["The river ran past the old town and the bridge was closed in the winter of 1954 ."] * 4)
    lime = pb.Lime()

    async def measure(address: str) -> tuple[list[float], list[float]]:
        fresh = iter(requests(prompts(20_000, vocabulary, seed=6)))
        _, alone = await closed_loop(address, 1, fresh, seconds)
        async with AsyncClient(address) as client:
            spec = pb.ExplanationSpec(prompt=pb.Prompt(text=text), lime=lime, budget=pb.Budget(max_evaluations=200_000))
            explanation = await client.create(spec)
            async for update in client.watch(explanation.name):
                if update.state == pb.EXPLANATION_STATE_RUNNING:
                    break
            _, beside = await closed_loop(address, 1, fresh, seconds)
            state = (await client.get(explanation.name)).state
            if state != pb.EXPLANATION_STATE_RUNNING:
                raise SystemExit("the explanation ended too soon to measure anything beside it")
            await client.cancel(explanation.name)
        return alone, beside

    with (
        tempfile.TemporaryDirectory() as state,
        processes.worker(folder, threads, Path(state)) as redis,
        processes.gloss(folder, threads, GLOSS_REDIS_URL=redis) as served,
    ):
        alone, beside = asyncio.run(measure(served.address))
    ratio = float(np.median(beside) / np.median(alone))
    return [
        Figure("next token, the worker idle", GLOSS, None, *percentiles(alone)),
        Figure("next token beside an explanation", GLOSS, None, *percentiles(beside), ratio=ratio, note="of p50 alone"),
    ]


async def memory(served: processes.Served, vocabulary: int, calls: int, streams: int) -> list[Figure]:
    """Memory after a tenth of `calls`, and after all of them and `streams` streams that were cancelled."""
    asked = cycle(requests([ids[:64] for ids in prompts(512, vocabulary, seed=8)]))
    connections = [Client(served.address) for _ in range(8)]

    async def ask(count: int) -> None:
        async def some(client: Client) -> None:
            for _ in range(count // len(connections)):
                await client.ask(next(asked))

        await asyncio.gather(*map(some, connections))

    async def leave(client: AsyncClient, count: int) -> None:
        for _ in range(count):
            stream = client.generate([5, 6, 7, 8], max_tokens=100)
            await anext(aiter(stream))
            await stream.aclose()  # type: ignore[attr-defined]  # it is a generator

    async with AsyncClient(served.address) as client:
        await asyncio.gather(*(leave(client, streams // 80) for _ in range(8)))
        await ask(calls // 10)
        before = served.resident_bytes()
        await ask(calls - calls // 10)
        await asyncio.gather(*(leave(client, streams // 8) for _ in range(8)))
        await ask(8)
        after = served.resident_bytes()
    await asyncio.gather(*(one.close() for one in connections))
    note = f"{after / 2**20:.0f} MiB of {before / 2**20:.0f} MiB after {calls // 10} calls"
    return [Figure(f"memory after {calls} calls, {streams} cancelled streams", GLOSS, ratio=after / before, note=note)]
