"""Whether a change made anything slower: the works of two checkouts side by side, in one run on one machine.

    python -m benchmarks.compare OLD_CHECKOUT NEW_CHECKOUT [--models transformer gpt2-small] [--only WORD ...]
                                 [--pairs 16] [--starts 4] [--share 1] [--json FILE]

Each checkout has a process of its own. The two take turns at one work after the other, so that what else the machine
does meets both alike; who begins alternates. Both are started anew some times, for where a process's memory happens to
lie can make it a few percent faster or slower than another of the same checkout. A work's figure is the median over
pairs of new ÷ old, with a 95 % interval (bootstrap over pairs): below 1, the new one is faster. The processor's
seconds, all threads together, are compared in the same way: where others use the machine too, they say more than the
clock does. How far apart equal things come out is shown by comparing a checkout with itself.

Works are those of `benchmarks.explain`, `.serve` and `.attention`, without a server between. The two checkouts share
this environment's packages. Wherever both return numbers, the largest difference is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.comparing.pairs import Comparison, Turns, compare, sides, take_turns
from benchmarks.machine import processor
from benchmarks.subjects import folder_of


def compared(options: argparse.Namespace, model: str) -> list[Comparison]:
    """All works that both have, of all starts."""
    turns: dict[str, Turns] = {}
    pairs = -(-options.pairs // options.starts)
    with folder_of(model) as folder:
        for start in range(options.starts):
            # Which of the processes is started first makes a percent or two, too.
            step = -1 if start % 2 else 1
            first, second = (options.old, options.new)[::step]
            with sides(first, second, folder, options.threads, options.share) as found:
                old, new = found[::step]
                for work in old.works:
                    if work not in new.works or (options.only and not any(word in work for word in options.only)):
                        continue
                    so_far = turns.setdefault(work, ([], []))
                    for known, more in zip(so_far, take_turns(work, old, new, pairs), strict=True):
                        known.extend(more)
                    print(f"{model}, start {start + 1}, {work}: {compare(work, so_far).wall}", file=sys.stderr)
    return [compare(work, found) for work, found in turns.items()]


def main() -> None:
    """Compare, print a table for each model, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, help="another one")
    parser.add_argument("--models", nargs="+", default=["transformer", "gpt2-small"], help="shipped names, folders")
    parser.add_argument("--only", nargs="*", default=[], help="works whose names hold one of these")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--starts", type=int, default=4, help="processes of each checkout, one after the other")
    parser.add_argument("--share", type=float, default=1.0, help="of an explanation's samples, for large models")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here, beside other models'")
    options = parser.parse_args()
    for name in options.models:
        found = compared(options, name)
        table = Table("work", "old ms", "new ÷ old", "95 %", "processor's time", "95 %", "difference")
        table.title = f"{name}, {options.pairs} pairs, {processor()}"
        for one in found:
            table.add_row(
                one.work,
                f"{one.old_milliseconds:,.1f}",
                *one.wall.columns,
                *one.processor.columns,
                "" if one.difference is None else f"{one.difference:.0e}",
            )
        Console(width=140).print(table)
        if options.json:
            write(options.json, name, options, found)


def write(file: Path, model: str, options: argparse.Namespace, found: list[Comparison]) -> None:
    """A model's comparisons, beside those of other models that the file holds."""
    figures = json.loads(file.read_text()) if file.exists() else {}
    known = {one["work"]: one for one in figures.get(model, {}).get("found", ())}
    figures[model] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor(),
        "threads": options.threads,
        "pairs": options.pairs,
        "starts": options.starts,
        "share": options.share,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "found": list((known | {one.work: asdict(one) for one in found}).values()),
    }
    file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
