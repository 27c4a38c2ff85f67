"""Serving speed: Gloss over loopback gRPC beside the bare model and a plain server, and what else a server does.

    python -m benchmarks.serve [--model transformer | gpt2-small | FOLDER] [--only PART ...] [--json FILE]

Prompts have 16 to 256 tokens. The bare model is transformers as it comes, one prompt at a time and at its best batch
size; the plain server is `benchmarks.plain_server`. Each server has a process of its own and is alone at its time.
Clients share the machine's cores with it, as they do on a laptop and not in production: they send requests that were
serialized before and do not take replies apart, and are the same for every server. Throughput is measured with prompts
that never come again, so that nothing is gained from having seen them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import processor
from benchmarks.serving import bare, load, one_client, processes, rows
from benchmarks.serving.figures import Figure, prompts
from benchmarks.subjects import folder_of
from ml.memory import keep_freed_memory
from ml.models.base import Chunk
from ml.models.loading import load as load_model

CLIENTS = (1, 8, 32)
STREAMS = (1, 8)


class Bench:
    """One model's figures, in parts that can be run alone."""

    def __init__(self, folder: Path, threads: int, seconds: float, calls: int) -> None:
        self._folder = folder
        self._threads = threads
        self._seconds = seconds
        self._calls = calls
        self._vocabulary: int = json.loads((folder / "config.json").read_text())["vocab_size"]
        self.parts: dict[str, Callable[[], list[Figure]]] = {
            "bare": self._bare,
            "one": self._one,
            "clients": self._clients,
            "generate": self._generate,
            "prefix": self._prefix,
            "overload": lambda: rows.overload(folder, threads, self._vocabulary, seconds),
            "explanation": lambda: rows.beside_an_explanation(folder, threads, self._vocabulary, seconds),
            "memory": self._memory,
        }

    def _bare(self) -> list[Figure]:
        torch.set_num_threads(self._threads)
        keep_freed_memory()  # as the server does
        model = load_model(str(self._folder), device="cpu", threads=self._threads)
        module = bare.load_bare(self._folder)
        texts = prompts(64, self._vocabulary)
        return [*bare.calls(module, model, texts, self._seconds), *bare.attention(module, model, repeats=20)]

    def _one(self) -> list[Figure]:
        torch.set_num_threads(self._threads)
        keep_freed_memory()
        rounds, calls = max(2, round(0.6 * self._seconds)), round(40 * self._seconds)
        module = bare.load_bare(self._folder)
        runner = load_model(str(self._folder), device="cpu", threads=self._threads).runner()
        with (
            processes.gloss(self._folder, self._threads) as ours,
            processes.plain(self._folder, self._threads) as plain,
        ):

            async def ask() -> list[Figure]:
                ways = {
                    bare.BARE: one_client.without_server(lambda ids: bare.logits(module, [ids])),
                    bare.OWN: one_client.without_server(lambda ids: runner.step([Chunk(ids)])),
                    "plain server": one_client.served(plain.address),
                    "gloss": one_client.served(ours.address),
                }
                found = await one_client.turns(ways, self._vocabulary, rounds)
                return [*found, *await one_client.verbs(ours.address, self._vocabulary, calls)]

            return asyncio.run(ask())

    def _clients(self) -> list[Figure]:
        found = []
        with processes.gloss(self._folder, self._threads) as served:
            note = "from the process's start to the first answer"
            found.append(Figure("start", "gloss", p50=1e3 * served.start_seconds, note=note))
            ask = load.clients(served.address, "gloss", self._vocabulary, CLIENTS, self._seconds)
            found += asyncio.run(ask)
        with processes.plain(self._folder, self._threads) as served:
            ask = load.clients(served.address, "plain server", self._vocabulary, CLIENTS, self._seconds)
            found += asyncio.run(ask)
        return found

    def _generate(self) -> list[Figure]:
        with processes.gloss(self._folder, self._threads) as served:
            return asyncio.run(rows.generate(served.address, self._vocabulary, STREAMS, repeats=3))

    def _prefix(self) -> list[Figure]:
        with processes.gloss(self._folder, self._threads) as served:
            return asyncio.run(rows.cached_prefixes(served.address, self._vocabulary, repeats=15))

    def _memory(self) -> list[Figure]:
        with processes.gloss(self._folder, self._threads) as served:
            return asyncio.run(rows.memory(served, self._vocabulary, self._calls, self._calls // 10))


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name, folder, or gpt2-small")
    parser.add_argument("--only", nargs="*", help="parts: bare one clients generate prefix overload explanation memory")
    parser.add_argument("--seconds", type=float, default=5, help="of each figure")
    parser.add_argument("--calls", type=int, default=10_000, help="of the memory's figure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with folder_of(options.model) as folder:
        bench = Bench(folder, options.threads, options.seconds, options.calls)
        found: list[Figure] = []
        for name, part in bench.parts.items():
            if options.only and name not in options.only:
                continue
            print(f"{options.model}: {name}", file=sys.stderr, flush=True)
            figures = part()
            found += figures
            if options.json:
                write(options.json, options.model, options.threads, name, figures)
    show(options.model, found)


def show(model: str, found: list[Figure]) -> None:
    """A table."""
    table = Table("work", "who", "a second", "p50 ms", "p99 ms", "ratio", "", title=model)
    for one in found:
        numbers = ((one.rate, ",.1f"), (one.p50, ",.1f"), (one.p99, ",.1f"), (one.ratio, ".2f"))
        table.add_row(one.work, one.who, *("" if x is None else f"{x:{form}}" for x, form in numbers), one.note)
    Console(width=160).print(table)


def write(file: Path, model: str, threads: int, part: str, found: list[Figure]) -> None:
    """A part's figures, beside those of other parts and models that the file holds."""
    figures = json.loads(file.read_text()) if file.exists() else {}
    versions = {name: version(name) for name in ("torch", "transformers", "grpcio")}
    figures.setdefault(model, {})[part] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor(),
        "threads": threads,
        "versions": versions,
        "found": [asdict(one) for one in found],
    }
    file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
