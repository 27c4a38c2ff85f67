"""What callers do to each other: next tokens beside generated texts, beside large calls, and streams that nobody reads.

    python -m benchmarks.contention [--model transformer | FOLDER] [--only PART ...] [--runs 5] [--json FILE]

The server is a process of its own, and so is whoever asks for what is dear. Each figure is taken alone and beside it,
in turn, as often as there are runs; printed are medians. `cores` says how many there were: clients share them.

scheduler   Four clients ask for the token after 64 tokens, again and again. Beside them texts of 16 tokens are
            generated from prompts of 450 that share nothing, begun at exponential intervals, at half the rate that 16
            streams reach.
large       One client sends 12 KB of prompts again and again. Beside it four send 4 MB each: studies of 4,000 prompts
            that are only checked, one prompt that is refused, or prompts whose replies have 4 MB.
unread      60 streams with a thousand alternatives a token, of which nothing is read: memory before, with them, after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.machine import processor
from benchmarks.serve import show
from benchmarks.serving import processes
from benchmarks.serving.beside import (
    LARGE_CLIENTS,
    NEW_TOKENS,
    STREAM_TOKENS,
    STREAMS,
    Load,
    beside,
    calls_always,
    fresh,
    streams_always,
    streams_at,
)
from benchmarks.serving.figures import Figure, percentiles
from benchmarks.serving.load import closed_loop, requests
from benchmarks.subjects import folder_of
from gloss import v1 as pb

GLOSS = "gloss"
CLIENTS, CLIENT_TOKENS = 4, 64
UNREAD_STREAMS = 60

_TEXT = "The river ran past the old town and the bridge was closed in the winter of 1954 . "
_NUMBERS = 2**32
_NARROW = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
"""Options of a connection that takes in little before it is read."""

Ask = Callable[[float], tuple[float, float]]
"""Asks for so many seconds. Gives median and 99th percentile of the answers' times, in milliseconds."""


def asking(address: str, clients: int, asked: Iterator[bytes]) -> Ask:
    """Some clients, each with a request under way at any time."""
    return lambda seconds: percentiles(asyncio.run(closed_loop(address, clients, asked, seconds))[1])


@dataclass(frozen=True)
class Bench:
    """One model's figures."""

    folder: Path
    threads: int
    vocabulary: int
    runs: int
    seconds: float

    def compared(self, work: str, ask: Ask, load: Load, *arguments: Any) -> list[Figure]:
        """Latencies alone and beside `load`, medians of some runs."""
        alone, crowded, rates = [], [], []
        for _ in range(self.runs):
            alone.append(ask(self.seconds))
            with beside(load, *arguments, self.seconds + 2) as rate:
                crowded.append(ask(self.seconds))
                rates.append(rate())
        ratios = sorted(round(b / a, 2) for (_, a), (_, b) in zip(alone, crowded, strict=True))
        note = f"of p99 alone, median of {ratios}; {statistics.median(rates):.1f} a second beside"
        (p50, p99), (p50_beside, p99_beside) = (map(statistics.median, zip(*x, strict=True)) for x in (alone, crowded))
        return [
            Figure(f"{work}, alone", GLOSS, None, p50, p99),
            Figure(f"{work}, beside", GLOSS, None, p50_beside, p99_beside, statistics.median(ratios), note),
        ]

    def scheduler(self) -> list[Figure]:
        """Next tokens beside texts that are generated at half of what can be."""
        with processes.gloss(self.folder, self.threads) as served:
            with beside(streams_always, served.address, self.vocabulary, self.seconds) as rate:
                capacity = rate()
            ask = asking(served.address, CLIENTS, (requests([ids])[0] for ids in fresh(self.vocabulary, CLIENT_TOKENS)))
            work = f"next token after {CLIENT_TOKENS}, {CLIENTS} clients"
            found = self.compared(work, ask, streams_at, served.address, self.vocabulary, capacity / 2)
        return [Figure(f"texts of {STREAM_TOKENS} + {NEW_TOKENS} tokens, {STREAMS} streams", GLOSS, capacity), *found]

    def large(self) -> list[Figure]:
        """12 KB of prompts beside calls of 4 MB."""
        service = "/gloss.v1.{}Service/{}"
        study = pb.GlobalSurrogate(prompts=[pb.Prompt(text=f"{n} {_TEXT * 11}") for n in range(4000)])
        check = pb.CreateExplanationRequest(study=pb.StudySpec(global_surrogate=study), validate_only=True)
        long = pb.NextTokenRequest(prompts=[pb.Prompt(text=_TEXT * 48_000)])
        ids = [pb.Prompt(token_ids=pb.TokenIds(ids=[n + 2])) for n in range(64)]
        kinds = {
            "checks of 4,000 prompts": (service.format("Explanation", "CreateExplanation"), check),
            "a prompt of 4 MB": (service.format("Inference", "NextToken"), long),
            "replies of 4 MB": (service.format("Inference", "NextToken"), pb.NextTokenRequest(prompts=ids, top_k=800)),
        }
        found = []
        with processes.gloss(self.folder, self.threads) as served:
            ask = asking(served.address, 1, map(_twelve_kilobytes, fresh(_NUMBERS, 8)))
            for kind, (method, request) in kinds.items():
                work = f"12 KB, {LARGE_CLIENTS} × {kind}"
                found += self.compared(work, ask, calls_always, served.address, method, request.SerializeToString())
        return found

    def unread(self) -> list[Figure]:
        """Streams that nobody reads."""

        async def hold(served: processes.Served) -> tuple[int, int, int]:
            request = pb.GenerateRequest(
                prompt=pb.Prompt(token_ids=pb.TokenIds(ids=[5, 6, 7])), max_tokens=400, top_k=min(1000, self.vocabulary)
            )
            before = served.resident_bytes()
            async with grpc.aio.insecure_channel(served.address, _NARROW) as channel:
                call: Any = channel.unary_stream("/gloss.v1.InferenceService/Generate")
                streams = [call(request.SerializeToString()) for _ in range(UNREAD_STREAMS)]
                await asyncio.sleep(4 * self.seconds)
                held = served.resident_bytes()
                for stream in streams:
                    stream.cancel()
            await asyncio.sleep(2)
            return before, held, served.resident_bytes()

        with processes.gloss(self.folder, self.threads) as served:
            asking(served.address, CLIENTS, (requests([ids])[0] for ids in fresh(self.vocabulary, 64)))(self.seconds)
            before, held, after = asyncio.run(hold(served))
        note = f"MiB: {before / 2**20:.0f} before, {held / 2**20:.0f} with them, {after / 2**20:.0f} after"
        return [
            Figure(f"memory of {UNREAD_STREAMS} unread streams, cancelled", "gloss", ratio=after / before, note=note)
        ]


def _twelve_kilobytes(numbers: list[int]) -> bytes:
    """Prompts of 1.5 KB that begin with a number each."""
    prompts = [pb.Prompt(text=f"{number} {_TEXT * 18}") for number in numbers]
    return pb.NextTokenRequest(prompts=prompts).SerializeToString()


PARTS = {"scheduler": Bench.scheduler, "large": Bench.large, "unread": Bench.unread}


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name, folder, or gpt2-small")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    found: dict[str, list[Figure]] = {}
    with folder_of(options.model) as folder:
        vocabulary: int = json.loads((folder / "config.json").read_text())["vocab_size"]
        bench = Bench(folder, options.threads, vocabulary, options.runs, options.seconds)
        for name in options.only:
            found[name] = PARTS[name](bench)
    show(options.model, [each for part in found.values() for each in part])
    if options.json:
        figures = {name: [asdict(each) for each in part] for name, part in found.items()}
        machine = {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads}
        options.json.write_text(json.dumps({"model": options.model, **machine, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
