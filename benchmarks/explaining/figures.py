"""Figures: how they are taken, shown and kept."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.machine import processor

Values = npt.NDArray[np.float64]

_PACKAGES = ("torch", "transformers", "captum", "inseq", "lime", "shap")
_WARM_SECONDS = 2
"""A first round that takes less is not counted: libraries prepare themselves for shapes that they have not seen."""


@dataclass(frozen=True)
class Measurement:
    """One way to one explanation: the median of its seconds, and how its numbers agree with Gloss's in float32."""

    work: str
    who: str
    seconds: float
    difference: float | None = None
    """Largest absolute one, where both compute the same numbers."""
    correlation: float | None = None
    """Pearson's, where both estimate the same numbers."""
    precision: str = "float32"


def correlation(one: Values, other: Values) -> float:
    """Pearson's."""
    return float(np.corrcoef(one, other)[0, 1])


def timed(who: str, way: Callable[[], Values], repeats: int) -> tuple[float, Values]:
    """The median of `repeats` rounds' seconds, each printed to standard error, and the last round's values."""
    return taking_turns({who: way}, repeats)[who]


def taking_turns(
    ways: Mapping[str, Callable[[], Values]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, tuple[float, Values]]:
    """As `timed`, of several ways of which each has its turn in every round."""
    times: dict[str, list[float]] = {who: [] for who in ways}
    values: dict[str, Values] = {}
    warm = False
    while min(map(len, times.values())) < repeats:
        seconds = {}
        for who, way in ways.items():
            begin = clock()
            values[who] = way()
            seconds[who] = clock() - begin
        if warm or max(seconds.values()) > _WARM_SECONDS:
            for who, taken in seconds.items():
                times[who].append(taken)
                _tell(f"  {who}: {taken:.3g} s")
        warm = True
    _tell("\n")
    return {who: (float(np.median(times[who])), values[who]) for who in ways}


def _tell(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def show(model: str, found: Sequence[Measurement]) -> None:
    """A table for each work: all ways to it, beside Gloss's in float32."""
    ours = {one.work: one.seconds for one in found if one.who == "gloss, float32"}
    for work, reference in ours.items():
        table = Table("who", "seconds", "÷ gloss's", "largest difference", "correlation", "precision")
        table.title = f"{model}: {work}"
        for one in (each for each in found if each.work == work):
            difference = "" if one.difference is None else f"{one.difference:.1e}"
            agreement = "" if one.correlation is None else f"{one.correlation:.5f}"
            ratio = f"{one.seconds / reference:.2f}"
            table.add_row(one.who, f"{one.seconds:.3f}", ratio, difference, agreement, one.precision)
        Console().print(table)


def write(file: Path, model: str, threads: int, clock: str, found: Sequence[Measurement]) -> None:
    """The figures of a work on `model`, beside those of others that the file holds; `clock` names what was counted."""
    figures = json.loads(file.read_text()) if file.exists() else {}
    figures.setdefault(model, {})[found[0].work] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor(),
        "threads": threads,
        "clock": clock,
        "versions": {name: version(name) for name in _PACKAGES if find_spec(name)},
        "found": [asdict(one) for one in found],
    }
    file.write_text(json.dumps(figures, indent=1) + "\n")
