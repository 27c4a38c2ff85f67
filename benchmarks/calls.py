"""What one small call costs a server beside the model: two checkouts side by side, on a model of one layer.

    python -m benchmarks.calls OLD_CHECKOUT NEW_CHECKOUT [--clients 1 32] [--pairs 10] [--seconds 1] [--json FILE]

Each checkout serves in a process of its own, and the two take turns at being asked, so that what else the machine does
meets both alike. A call has one prompt of 64 token ids, or of 48 with a continuation of 16. No prefixes are cached, and
clients are those of `benchmarks.serve`.

A call's processor time, of all the server's threads or of the event loop's alone, is the turn's divided by its calls. A
figure is the median over pairs of new ÷ old, with a 95 % interval (bootstrap over pairs).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.comparing.pairs import Ratio
from benchmarks.machine import processor
from benchmarks.serving import load, processes
from benchmarks.serving.processes import Served
from benchmarks.subjects import ONE_LAYER, folder_of
from gloss import v1 as pb

TOKENS, CONTINUED = 64, 16
_REQUESTS = 256
_WARM_UP_SECONDS = 2.0


@dataclass(frozen=True)
class Cost:
    """Of a call, in microseconds: a turn's processor time by calls, and the median time until the answer."""

    server: float
    event_loop: float
    latency: float


@dataclass(frozen=True)
class Comparison:
    """One kind of call from so many clients in both checkouts: medians over turns, and new ÷ old over pairs."""

    work: str
    old: Cost
    new: Cost
    server: Ratio
    event_loop: Ratio
    latency: Ratio


def requests(vocabulary: int) -> dict[str, list[bytes]]:
    """By method, requests of random ids."""
    rows = np.random.default_rng(0).integers(2, vocabulary, (_REQUESTS, TOKENS)).tolist()
    prompts = [pb.Prompt(token_ids=pb.TokenIds(ids=ids)) for ids in rows]
    asked = [pb.NextTokenRequest(prompts=[prompt]).SerializeToString() for prompt in prompts]
    items = [
        pb.ScoreItem(
            prompt=pb.Prompt(token_ids=pb.TokenIds(ids=ids[:-CONTINUED])),
            continuation=pb.Continuation(token_ids=pb.TokenIds(ids=ids[-CONTINUED:])),
        )
        for ids in rows
    ]
    scored = [pb.ScoreRequest(items=[item]).SerializeToString() for item in items]
    return {"NextToken": asked, "Score": scored}


def cost(served: Served, method: str, asked: Iterator[bytes], clients: int, seconds: float) -> Cost:
    """Ask a server for so many seconds, and divide what it took by the calls."""
    before = served.processor_seconds()
    _, times = asyncio.run(load.closed_loop(served.address, clients, asked, seconds, method))
    after = served.processor_seconds()
    calls = len(times) + clients  # with each connection's first
    server, event_loop = (1e6 * (late - early) / calls for early, late in zip(before, after, strict=True))
    return Cost(server, event_loop, 1e6 * float(np.median(times)))


@contextmanager
def serving(checkout: Path, folder: Path) -> Iterator[Served]:
    """A checkout's server with the model of `folder`, until the block ends."""
    # PYTHONSAFEPATH: what lies in the working directory is one checkout's own.
    environment = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(checkout.resolve()), "GLOSS_PREFIX_CACHE_BYTES": "0"}
    with processes.gloss(folder, 1, **environment) as served:
        yield served


def compared(options: argparse.Namespace) -> Iterator[Comparison]:
    """Each kind of call from each number of clients."""
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of(ONE_LAYER))
        vocabulary: int = json.loads((folder / "config.json").read_text())["vocab_size"]
        servers = [stack.enter_context(serving(checkout, folder)) for checkout in (options.old, options.new)]
        for method, bodies in requests(vocabulary).items():
            asked = itertools.cycle(bodies)
            for clients in options.clients:
                for served in servers:
                    cost(served, method, asked, clients, _WARM_UP_SECONDS)
                costs: tuple[list[Cost], list[Cost]] = [], []
                for pair in range(options.pairs):
                    for side in (0, 1) if pair % 2 else (1, 0):
                        costs[side].append(cost(servers[side], method, asked, clients, options.seconds))
                yield compare(f"{method}, {clients} clients", *costs)


def compare(work: str, old: list[Cost], new: list[Cost]) -> Comparison:
    """What the pairs of turns say."""

    def column(side: list[Cost], name: str) -> list[float]:
        return [getattr(each, name) for each in side]

    def median(side: list[Cost]) -> Cost:
        return Cost(**{name: float(np.median(column(side, name))) for name in names})

    names = ("server", "event_loop", "latency")
    ratios = {name: Ratio.of(column(old, name), column(new, name)) for name in names}
    return Comparison(work, median(old), median(new), **ratios)


def main() -> None:
    """Compare, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, help="another one")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    found = []
    for one in compared(options):
        print(f"{one.work}: {one.server}", file=sys.stderr)
        found.append(one)
    table = Table("work", "µs of a call", "old", "new", "new ÷ old", "95 %", title=processor())
    for one in found:
        rows = (
            ("processor, all threads", one.old.server, one.new.server, one.server),
            ("processor, event loop", one.old.event_loop, one.new.event_loop, one.event_loop),
            ("p50 until the answer", one.old.latency, one.new.latency, one.latency),
        )
        for what, old, new, ratio in rows:
            table.add_row(one.work, what, f"{old:,.0f}", f"{new:,.0f}", *ratio.columns)
    Console(width=140).print(table)
    if options.json:
        figures = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "processor": processor(),
            "pairs": options.pairs,
            "seconds": options.seconds,
            "versions": {name: version(name) for name in ("torch", "grpcio", "protobuf")},
            "found": [asdict(one) for one in found],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
