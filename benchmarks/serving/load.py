"""Clients: they send requests that were serialized before, and do not take replies apart.

They share the machine's cores with the server, as they do on a laptop and not in production, so they cost it as little
as clients can; every server is asked by the same ones.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.serving.figures import Figure, percentiles, prompts
from gloss import v1 as pb

_SERVICE = "/gloss.v1.InferenceService"


def requests(texts: Sequence[Sequence[int]]) -> list[bytes]:
    """NextToken requests of one prompt each."""
    return [
        pb.NextTokenRequest(prompts=[pb.Prompt(token_ids=pb.TokenIds(ids=ids))]).SerializeToString() for ids in texts
    ]


class Client:
    """One connection that asks by one method."""

    def __init__(self, address: str, method: str = "NextToken") -> None:
        # Channels with equal options share a connection; a client has its own.
        self._channel = grpc.aio.insecure_channel(address, options=[("gloss.benchmark", random.getrandbits(31))])
        self._call: Any = self._channel.unary_unary(f"{_SERVICE}/{method}")

    async def ask(self, request: bytes) -> float:
        """Seconds until the answer."""
        began = time.perf_counter()
        await self._call(request, timeout=60)
        return time.perf_counter() - began

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


async def closed_loop(
    address: str, clients: int, asked: Iterator[bytes], seconds: float, method: str = "NextToken"
) -> tuple[float, list[float]]:
    """`clients` that send their next request when the last was answered. Answers a second, and each one's seconds."""
    times: list[float] = []
    connections = [Client(address, method) for _ in range(clients)]
    await asyncio.gather(*(one.ask(next(asked)) for one in connections))
    end = time.perf_counter() + seconds

    async def work(one: Client) -> None:
        while time.perf_counter() < end:
            times.append(await one.ask(next(asked)))

    began = time.perf_counter()
    await asyncio.gather(*map(work, connections))
    rate = len(times) / (time.perf_counter() - began)
    await asyncio.gather(*(one.close() for one in connections))
    return rate, times


async def clients(address: str, who: str, vocabulary: int, counts: Sequence[int], seconds: float) -> list[Figure]:
    """1, 8, 32 ... clients with prompts that never come again, so nothing is known of them."""
    found = []
    for count in counts:
        fresh = iter(requests(prompts(int(400 * seconds) + 100, vocabulary, seed=count)))
        rate, times = await closed_loop(address, count, fresh, seconds)
        found.append(Figure(f"next token, {count} clients", who, rate, *percentiles(times)))
    return found


@dataclass
class Flood:
    """What came of requests that were sent at a rate, whatever was answered."""

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)


async def flood(address: str, rate: float, vocabulary: int, seconds: float) -> Flood:
    """Send prompts at `rate` a second for `seconds`, at exponential intervals, from 16 connections."""
    found = Flood()
    connections = [Client(address) for _ in range(16)]
    await asyncio.gather(*(one.ask(requests([[5, 6, 7]])[0]) for one in connections))
    asked = requests(prompts(int(rate * seconds * 1.5) + 50, vocabulary, seed=7))
    intervals = random.Random(0)

    async def one(connection: Client, request: bytes) -> None:
        began = time.perf_counter()
        try:
            found.accepted.append(await connection.ask(request))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            found.refused.append(time.perf_counter() - began)

    tasks = []
    due = time.perf_counter()
    end = due + seconds
    for number, request in enumerate(asked):
        due += intervals.expovariate(rate)
        if due > end:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(connections[number % len(connections)], request)))
    await asyncio.gather(*tasks)
    await asyncio.gather(*(one.close() for one in connections))
    return found
