"""Microseconds of linear layers in float32 by torch's own way and by oneDNN, and the rules that follow for a processor.

    python -m benchmarks.linear [--threads 2] [--seconds 1.5] [--json FILE] [--write]

`--write` puts the rules into the table that models are loaded by (`ml/kernels/processors.json`), for this machine's
kind of processor. All ways of a shape take turns in runs of a fifth of a millisecond, and each counts by its fastest:
what else the machine does slows most runs down, and rarely every one. On a machine so busy that it does, run this again
and again with one FILE, which keeps the fastest of all runs of equal conditions, until the rules stay.

A rule is chosen for all weights of a size class: the one whose times exceed the fastest way's by the least factor,
averaged over shapes and rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import processor
from ml.kernels.onednn_linear import PackedLinear, pointwise
from ml.kernels.processors import TABLE, Rule, processor_kind

CLASSES = (2**15, 2**17, 2**19, 2**21, None)
"""Numbers of the largest weight of each size class."""
SHAPES = (
    *((64, 64), (128, 128), (64, 256)),
    *((256, 256), (256, 768), (256, 1024), (1024, 256)),
    *((768, 768), (768, 2304), (768, 3072), (3072, 768)),
)
"""Inputs and outputs: those of toys, of a model of 8M parameters, and of GPT-2's 124M."""
ROWS = (1, 2, 4, 16, 64, 256, 1024)
LAYERS = 12
"""Weights of each shape, which take turns as a model's do: what the cache has of one is gone when it is read again."""
RUN_SECONDS = 2e-4
MIN_RUNS = 10

Times = Mapping[tuple[int, int, int], Mapping[str, float]]
"""Seconds of each way, by rows, inputs and outputs."""


def ways(rows: int, inputs: int, outputs: int) -> dict[str, Callable[[], Tensor]]:
    """What is timed: each way on weights as layers keep them for it. The first call of each has the same weight."""
    x, bias = torch.randn(rows, inputs), torch.randn(outputs)
    weights = [torch.randn(outputs, inputs) for _ in range(LAYERS)]

    def each(keep: Callable[[Tensor], Tensor], product: Callable[..., Tensor]) -> Callable[[], Tensor]:
        # Copies of its own: no way finds in the cache what another has read.
        following = itertools.cycle([keep(weight) for weight in weights])
        return lambda: product(x, next(following), bias)

    return {
        "torch": each(torch.clone, F.linear),
        "torch, by input": each(_by_input, F.linear),
        "oneDNN, by input": each(_by_input, pointwise),
        "oneDNN, packed": each(lambda weight: PackedLinear(weight, None).operand, pointwise),
    }


def _by_input(weight: Tensor) -> Tensor:
    return weight.T.contiguous().T


def fastest(ways: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Seconds of one call in the fastest run of each way. The ways take turns for `seconds` and `MIN_RUNS` each."""
    for way in ways.values():
        way()  # the first call makes kernels
    calls = {name: max(1, round(RUN_SECONDS / _seconds(way, 1))) for name, way in ways.items()}
    best = dict.fromkeys(ways, math.inf)
    began, runs = time.perf_counter(), 0
    while runs < MIN_RUNS or time.perf_counter() - began < seconds:
        for name, way in ways.items():
            best[name] = min(best[name], _seconds(way, calls[name]))
        runs += 1
    return best


def _seconds(way: Callable[[], object], calls: int) -> float:
    """Of one of several calls in a row."""
    began = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - began) / calls


def way_of(rule: Rule, rows: int) -> str:
    """The way that a layer under `rule` goes."""
    if rule.packed:
        return "oneDNN, packed"
    if rule.min_rows is None:
        return "torch"
    return "oneDNN, by input" if rows >= rule.min_rows else "torch, by input"


def rules(times: Times) -> list[Rule]:
    """The best rule of each size class that was measured, neighbours that agree as one. The last holds for any size."""
    classes: dict[int | None, list[tuple[int, Mapping[str, float]]]] = defaultdict(list)
    for (rows, inputs, outputs), found in times.items():
        largest = next(each for each in CLASSES if each is None or inputs * outputs <= each)
        classes[largest].append((rows, found))
    chosen: list[Rule] = []
    for max_numel in (each for each in CLASSES if each in classes):
        best = min(_candidates(max_numel), key=lambda rule: _excess(rule, classes[max_numel]))
        if chosen and (chosen[-1].min_rows, chosen[-1].packed) == (best.min_rows, best.packed):
            chosen.pop()
        chosen.append(best)
    return [*chosen[:-1], Rule(None, chosen[-1].min_rows, chosen[-1].packed)]


def _candidates(max_numel: int | None) -> list[Rule]:
    """Torch's own way first: it is kept where nothing is gained."""
    return [
        Rule(max_numel, None),
        *(Rule(max_numel, rows) for rows in ROWS),
        Rule(max_numel, 1, packed=True),
    ]


def _excess(rule: Rule, measured: list[tuple[int, Mapping[str, float]]]) -> float:
    """Logarithm of the mean factor by which a rule's times exceed the fastest way's."""
    return sum(math.log(found[way_of(rule, rows)] / min(found.values())) for rows, found in measured) / len(measured)


def write(chosen: list[Rule], threads: int, file: Path = TABLE) -> None:
    """Put the rules of this machine's processor into the table, one a line."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    measured = f"{day}, {processor()}, {threads} threads, torch {version('torch')}"
    rules = [{"max_numel": each.max_numel, "min_rows": each.min_rows, "packed": each.packed} for each in chosen]
    entries[processor_kind()] = {"measured": measured, "rules": rules}
    file.write_text(_text(entries), encoding="utf-8")


def _text(entries: dict[str, dict[str, object]]) -> str:
    """JSON with a line for each rule, so that a change of one reads as that."""
    parts = []
    for kind, entry in sorted(entries.items()):
        lines = ",\n".join(f"   {json.dumps(each)}" for each in entry["rules"])  # type: ignore[attr-defined]
        parts.append(
            f' {json.dumps(kind)}: {{\n  "measured": {json.dumps(entry["measured"])},\n  "rules": [\n{lines}\n  ]\n }}'
        )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def keep(
    times: dict[tuple[int, int, int], dict[str, float]], conditions: dict[str, object], file: Path
) -> dict[tuple[int, int, int], dict[str, float]]:
    """Write the times to `file`, and what it has of equal conditions where that is faster; return what is written."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known = before.get("microseconds", {}) if conditions.items() <= before.items() else {}
    merged = {
        shape: {name: min(each, known.get(_key(shape), {}).get(name, math.inf) / 1e6) for name, each in found.items()}
        for shape, found in times.items()
    }
    microseconds = {
        _key(shape): {name: round(1e6 * each, 1) for name, each in found.items()} for shape, found in merged.items()
    }
    figures = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **conditions, "microseconds": microseconds}
    file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return merged


def _key(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def main() -> None:
    """Measure, print the times and the rules, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each shape, or longer for ten runs of each way")
    parser.add_argument("--json", type=Path, help="keep the times here, the fastest of all runs")
    parser.add_argument("--write", action="store_true", help="write the rules into ml/kernels/processors.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    times: dict[tuple[int, int, int], dict[str, float]] = {}
    with torch.inference_mode():
        for inputs, outputs in SHAPES:
            for rows in ROWS:
                times[rows, inputs, outputs] = fastest(ways(rows, inputs, outputs), options.seconds)
    conditions = {
        "processor": processor(),
        "kind": processor_kind(),
        "threads": options.threads,
        "versions": {"torch": version("torch")},
    }
    if options.json:
        times = keep(times, conditions, options.json)
    chosen = rules(times)
    names = list(next(iter(times.values())))
    shown = Table("rows × inputs × outputs", *names, title=f"µs, {processor_kind()}, {options.threads} threads")
    for shape, found in times.items():
        shown.add_row(" × ".join(map(str, shape)), *(f"{1e6 * found[name]:.1f}" for name in names))
    Console().print(shown, *chosen, sep="\n")
    if options.write:
        write(chosen, options.threads)


if __name__ == "__main__":
    main()
