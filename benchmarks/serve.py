"""Next-token and generation speed: Gloss over loopback gRPC beside the bare model and a plain server.

    python -m benchmarks.serve [--model transformer | gpt2-small | FOLDER] [--seconds 5] [--json FILE]

The same prompts, of 16 to 256 tokens, to each: the bare model (one at a time, and at its best batch size), `python -m
server`, and `benchmarks.plain_server`, each server in a process of its own and alone at its time, asked by 1, 8 and 32
clients that send their next prompt when the last was answered. Clients share the machine's cores with the server, as
they do on a laptop and do not in production.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.explain import gpt2_small, processor
from gloss import AsyncClient
from ml.language_model import LanguageModel
from ml.models import load
from ml.models.files import PRETRAINED

CLIENTS = (1, 8, 32)
BATCHES = (1, 4, 8, 16, 32)
STREAMS = (1, 8)
TOKENS = 64


@dataclass(frozen=True)
class Measurement:
    """One way to serve."""

    work: str
    who: str
    rate: float
    """Prompts, or generated tokens, a second."""
    p50: float | None = None
    """Milliseconds from a request to its answer."""
    p99: float | None = None


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    """Token ids, of lengths that spread evenly from 16 to 256."""
    random = np.random.default_rng(0)
    lengths = np.linspace(16, 256, count).astype(int)
    random.shuffle(lengths)
    return [random.integers(2, vocabulary, length).tolist() for length in lengths]


def bare(model: LanguageModel, texts: Sequence[list[int]], seconds: float) -> list[Measurement]:
    """The model's own calls: alone for latency, and sorted by length at its best batch size for throughput."""
    times = []
    end = time.perf_counter() + seconds
    for ids in cycle(texts):
        began = time.perf_counter()
        model.logits([ids])[0].topk(10)
        times.append(time.perf_counter() - began)
        if times and time.perf_counter() > end:
            break
    ordered = sorted(texts, key=len)
    rates = {}
    for batch in BATCHES:
        began = time.perf_counter()
        for at in range(0, len(ordered), batch):
            model.logits(ordered[at : at + batch])
        rates[batch] = len(ordered) / (time.perf_counter() - began)
    best = max(rates, key=lambda batch: rates[batch])
    alone = Measurement("next token", "bare model", len(times) / sum(times), *percentiles(times))
    return [alone, Measurement("next token", f"bare model, batches of {best}", rates[best])]


def cycle(texts: Sequence[list[int]]) -> Iterator[list[int]]:
    """The texts over and over."""
    while True:
        yield from texts


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
    return float(p50), float(p99)


async def ask(address: str, who: str, texts: Sequence[list[int]], seconds: float) -> list[Measurement]:
    """Let 1, 8 and 32 clients ask a server."""
    found = []
    for clients in CLIENTS:
        times: list[float] = []
        end = time.perf_counter() + seconds

        async def one(start: int, times: list[float] = times, end: float = end) -> None:
            async with AsyncClient(address) as client:
                for ids in cycle([*texts[start:], *texts[:start]]):
                    began = time.perf_counter()
                    await client.next_token([ids], timeout=60)
                    times.append(time.perf_counter() - began)
                    if time.perf_counter() > end:
                        return

        began = time.perf_counter()
        await asyncio.gather(*(one(i * len(texts) // clients) for i in range(clients)))
        rate = len(times) / (time.perf_counter() - began)
        found.append(Measurement(f"next token, {clients} clients", who, rate, *percentiles(times)))
    return found


async def generate(address: str, texts: Sequence[list[int]]) -> list[Measurement]:
    """Generate with 1 and with 8 streams."""
    found = []
    for streams in STREAMS:

        async def one(ids: list[int]) -> int:
            async with AsyncClient(address) as client:
                return len([reply async for reply in client.generate(ids, max_tokens=TOKENS, temperature=1.0, seed=1)])

        began = time.perf_counter()
        counts = await asyncio.gather(*(one(ids[:32]) for ids in texts[:streams]))
        rate = sum(counts) / (time.perf_counter() - began)
        found.append(Measurement(f"generate, {streams} streams", "gloss", rate))
    return found


@contextmanager
def serving(command: Sequence[str], port: int, environment: dict[str, str]) -> Iterator[str]:
    """A server in a process of its own, until the block ends."""
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    address = f"127.0.0.1:{port}"
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=120)
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def measure(model: str, folder: Path, seconds: float, threads: int) -> list[Measurement]:
    """All of it."""
    resident = load(str(folder), device="cpu", threads=threads)
    texts = prompts(64, resident.info.vocabulary_size)
    found = bare(resident, texts, seconds)
    del resident

    def run(work: Callable[[str], Awaitable[list[Measurement]]], command: list[str], **environment: str) -> None:
        port = free_port()
        environment = {"GLOSS_PORT": str(port), "OMP_NUM_THREADS": str(threads), **environment}
        with serving([part.replace("PORT", str(port)) for part in command], port, environment) as address:
            found.extend(asyncio.run(work(address)))

    async def gloss(address: str) -> list[Measurement]:
        await settle(address)
        return [*await ask(address, "gloss", texts, seconds), *await generate(address, texts)]

    async def plain(address: str) -> list[Measurement]:
        await settle(address)
        return await ask(address, "plain server", texts, seconds)

    run(gloss, [sys.executable, "-m", "server"], GLOSS_MODEL=str(folder), GLOSS_METRICS_PORT="0")
    run(plain, [sys.executable, "-m", "benchmarks.plain_server", str(folder), "PORT"])
    return found


async def settle(address: str) -> None:
    """A few calls that nobody measures, once the server answers."""
    async with AsyncClient(address) as client:
        for _ in range(5):
            await client.next_token([[5, 6, 7]], timeout=60)


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name, folder, or gpt2-small")
    parser.add_argument("--seconds", type=float, default=5, help="of each figure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        shipped = PRETRAINED / options.model
        folder = shipped if shipped.is_dir() else Path(options.model)
        if options.model == "gpt2-small":
            folder = gpt2_small(Path(temporary) / "gpt2-small")
        found = measure(options.model, folder, options.seconds, options.threads)
    table = Table("work", "who", "a second", "p50 ms", "p99 ms", title=options.model)
    for one in found:
        latencies = ("" if ms is None else f"{ms:.1f}" for ms in (one.p50, one.p99))
        table.add_row(one.work, one.who, f"{one.rate:,.1f}", *latencies)
    Console().print(table)
    if options.json:
        figures = json.loads(options.json.read_text()) if options.json.exists() else {}
        figures[options.model] = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "processor": processor(),
            "threads": options.threads,
            "versions": {name: version(name) for name in ("torch", "transformers", "grpcio")},
            "found": [asdict(one) for one in found],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
