"""Callers of NextToken in a process of their own: `python -m tests.faults.flood`. They print one line of JSON.

They have a lower priority than others, because on one machine whoever floods a server takes the processor away from it,
too, and it is the server's queue that is looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import time
from collections import Counter

import grpc

from gloss import v1 as pb

_NICENESS = 19
_CONNECTIONS = 8
_TOKENS = 48


def request(number: int, vocabulary: int) -> bytes:
    """A prompt that never came before."""
    draw = random.Random(number)
    ids = [draw.randrange(2, vocabulary) for _ in range(_TOKENS)]
    return pb.NextTokenRequest(prompts=[pb.Prompt(token_ids=pb.TokenIds(ids=ids))]).SerializeToString()


async def flood(options: argparse.Namespace) -> dict[str, float]:
    """Ask at a rate, or as fast as answers come where none is given. Returns answers a second, and the codes."""
    channels = [grpc.aio.insecure_channel(options.address, [("gloss.flood", n)]) for n in range(_CONNECTIONS)]
    calls = [channel.unary_unary("/gloss.v1.InferenceService/NextToken") for channel in channels]
    metadata = [("authorization", f"Bearer {options.key}")]
    codes: Counter[str] = Counter()
    numbers = itertools.count(options.seed << 32)
    end = time.monotonic() + options.seconds

    async def one(number: int) -> None:
        try:
            await calls[number % len(calls)](request(number, options.vocabulary), metadata=metadata, timeout=60)
            codes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            codes[error.code().name] += 1

    async def closed() -> None:
        while time.monotonic() < end:
            await one(next(numbers))

    began = time.monotonic()
    if options.rate:
        tasks = set()
        due = began
        while due < end:
            due += random.expovariate(options.rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.add(task := asyncio.create_task(one(next(numbers))))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    else:
        await asyncio.gather(*(closed() for _ in range(4 * _CONNECTIONS)))
    answered = codes["OK"] / (time.monotonic() - began)
    for channel in channels:
        await channel.close()
    return {"answered_per_second": answered, **codes}


def main() -> None:
    """Flood."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--key", required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="calls a second; 0: as fast as answers come")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.nice(_NICENESS)
    print(json.dumps(asyncio.run(flood(options))))


if __name__ == "__main__":
    main()
