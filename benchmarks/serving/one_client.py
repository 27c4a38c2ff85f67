"""One client: models without a server, a plain server and Gloss take turns at the same prompts.

And what a call of each of Gloss's verbs takes beside the model.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from benchmarks.serving.figures import Figure, percentiles, prompts
from benchmarks.serving.load import Client, requests
from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub

Way = Callable[[Sequence[int]], Awaitable[float]]
"""Seconds that a prompt's next token takes."""

PROMPTS = 64
"""Prompts that a way answers in a row: enough for a server to notice that the cores are its own again."""
TOKENS, CONTINUED = 64, 16


def without_server(run: Callable[[Sequence[int]], object]) -> Way:
    """A model's in this process, which `run` asks."""

    async def ask(ids: Sequence[int]) -> float:
        began = time.perf_counter()
        run(ids)
        return time.perf_counter() - began

    return ask


def served(address: str) -> Way:
    """A server's, over a connection of its own."""
    client = Client(address)

    async def ask(ids: Sequence[int]) -> float:
        [request] = requests([ids])
        return await client.ask(request)

    return ask


async def turns(ways: Mapping[str, Way], vocabulary: int, rounds: int) -> list[Figure]:
    """Latencies of each way, the first of which is what the others are compared with."""
    times: dict[str, list[float]] = {who: [] for who in ways}
    texts = prompts(PROMPTS * (rounds + 1), vocabulary, seed=12)
    for number in range(rounds + 1):
        order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        for who in order:
            taken = [await ways[who](ids) for ids in texts[PROMPTS * number : PROMPTS * (number + 1)]]
            if number:  # what a way does only the first time is not counted
                times[who] += taken
    first = float(np.median(next(iter(times.values()))))
    note = f"of p50 of {next(iter(ways))}"
    return [
        Figure("next token, one client in turns", who, None, *percentiles(taken), np.median(taken) / first, note)
        for who, taken in times.items()
    ]


async def verbs(address: str, vocabulary: int, calls: int) -> list[Figure]:
    """What a call of each verb takes beside the time that it says the model took."""
    found = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = InferenceServiceStub(channel)
        for verb, asked in _requests(vocabulary, calls).items():
            beside = []
            for request in asked:
                began = time.perf_counter()
                timings = await _timings(getattr(stub, verb)(request))
                beside.append(time.perf_counter() - began - timings.model_duration.ToMicroseconds() / 1e6)
            found.append(Figure(f"{verb} beside the model", "gloss", None, *percentiles(beside[calls // 10 :])))
    return found


async def _timings(call: Any) -> pb.Timings:
    """The timings of a reply, or of the last message of a stream."""
    if not isinstance(call, grpc.aio.UnaryStreamCall):
        return (await call).timings  # type: ignore[no-any-return]
    return [reply async for reply in call][-1].timings  # type: ignore[no-any-return]


def _requests(vocabulary: int, calls: int) -> dict[str, list[Any]]:
    """By verb, about prompts of as many tokens that never come again."""
    rows = iter(np.random.default_rng(13).integers(2, vocabulary, (4 * calls, TOKENS)).tolist())

    def prompt(ids: Sequence[int]) -> pb.Prompt:
        return pb.Prompt(token_ids=pb.TokenIds(ids=ids))

    def scored(ids: Sequence[int]) -> pb.ScoreItem:
        continuation = pb.Continuation(token_ids=pb.TokenIds(ids=ids[-CONTINUED:]))
        return pb.ScoreItem(prompt=prompt(ids[:-CONTINUED]), continuation=continuation)

    makers: dict[str, Callable[[Sequence[int]], Any]] = {
        "NextToken": lambda ids: pb.NextTokenRequest(prompts=[prompt(ids)]),
        "Score": lambda ids: pb.ScoreRequest(items=[scored(ids)]),
        "Attention": lambda ids: pb.AttentionRequest(prompt=prompt(ids), layers=[0]),
        "Generate": lambda ids: pb.GenerateRequest(prompt=prompt(ids), max_tokens=1),
    }
    return {verb: [make(next(rows)) for _ in range(calls)] for verb, make in makers.items()}
