"""The table of calibration, as a page of the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from benchmarks.calibrating import games, models
from benchmarks.calibrating.cells import WAYS, Cell

HEAD = """\
# Calibration, cell by cell

Written by `python -m benchmarks.calibration --page` from [what was measured](../benchmarks/results/calibration.jsonl).
[How far the numbers can be trusted](fidelity.md) says what it means, and what falls outside and why.

An entry is the share of 95 % intervals that hold the true answer, on average over the subjects and, in brackets, for
the worst of them; then the least and the greatest ratio of the mean reported error to the spread of the answers over
seeds. `*` marks entries of which a subject lies outside of 0.8 to 1.25, or covers less than 0.88 less three binomial
deviations. The list below each table also has the ratio to the true error, the root mean square over seeds: what all
seeds miss alike is not in their spread, but in an honest error. And it has how often intervals hold the three largest
answers alone. *Exact*: errors of 0, and the true answer within 1e-6.
*Too few*: refused. Of cells that were measured with several numbers of seeds, the one with the most is shown.
"""


def page(cells: Sequence[Cell]) -> str:
    """The tables of toy games and of shipped models, with the cells that are off listed below each."""
    return "\n".join(
        [
            HEAD,
            *_section("Games with known answers", games.NAMES, cells),
            *_section("Shipped models", models.NAMES, cells),
        ]
    )


def best_measured(cells: Iterable[Cell]) -> list[Cell]:
    """Of cells that differ in their number of seeds alone, the one with the most. They come in a fixed order."""
    ways = [
        name for way in WAYS.values() for reading in way.readings for name in (reading.name, f"row of {reading.name}")
    ]
    ways.sort(key=lambda name: name.startswith("row of "))
    found: dict[tuple[int, int, int, str], Cell] = {}
    for cell in cells:
        key = (ways.index(cell.way), cell.features, cell.evaluations, cell.subject)
        if key not in found or found[key].seeds < cell.seeds:
            found[key] = cell
    return [found[key] for key in sorted(found)]


def summary(cells: Sequence[Cell]) -> str:
    """How many cells there are, how many are exact, the mean coverage of the others, and how many of them are off."""
    sampled = [cell for cell in cells if not (cell.exact or cell.refused)]
    measured = sum(not cell.refused for cell in cells)
    exact = sum(cell.exact for cell in cells)
    if not sampled:
        return f"{measured} cells, all of them exact."
    coverage = float(np.mean([cell.coverage for cell in sampled]))
    off = sum(cell.off for cell in sampled)
    right = sum(0.8 <= cell.true_ratio <= 1.25 for cell in sampled)
    return (
        f"{measured} cells, {exact} of them exact. The other {len(sampled)} cover {coverage:.3f} on average;"
        f" {off} are off, and {right} report 0.8 to 1.25 of the true error."
    )


def _section(title: str, subjects: Sequence[str], cells: Iterable[Cell]) -> Iterator[str]:
    own = [cell for cell in cells if cell.subject in subjects]
    budgets = _different(own, lambda cell: cell.evaluations)
    seeds = [cell.seeds for cell in own]
    yield from (
        f"## {title}",
        "",
        f"{', '.join(subjects).capitalize()}; {min(seeds)} to {max(seeds)} seeds. {summary(own)}",
        "",
    )
    yield "| method | features | " + " | ".join(f"{each:,} evaluations" for each in budgets) + " |"
    yield "|---|---|" + "---|" * len(budgets)
    for way in dict.fromkeys(cell.way for cell in own):
        for features in _different(own, lambda cell: cell.features):
            row = [cell for cell in own if (cell.way, cell.features) == (way, features)]
            entries = [_entry([cell for cell in row if cell.evaluations == each]) for each in budgets]
            if any(entries):
                yield f"| {way} | {features} | " + " | ".join(entries) + " |"
    yield from ("", "Off:", "")
    for cell in own:
        if cell.off:
            yield (
                f"- {cell.way}, {cell.subject}, {cell.features} features, {cell.evaluations:,} evaluations,"
                f" {cell.seeds} seeds: coverage {cell.coverage:.3f}, ratio {cell.ratio:.2f},"
                f" {cell.true_ratio:.2f} to the true error of {cell.error:.1e}"
                + ("" if cell.largest is None else f", coverage of the three largest {cell.largest:.2f}")
            )
    yield ""


def _different(cells: Iterable[Cell], what: Callable[[Cell], int]) -> list[int]:
    return sorted({what(cell) for cell in cells})


def _entry(cells: Sequence[Cell]) -> str:
    """What the subjects have in common."""
    if not cells:
        return ""
    if all(cell.refused for cell in cells):
        return "too few"
    sampled = [cell for cell in cells if not cell.exact]
    if not sampled:
        return "exact"
    coverage, ratio = [cell.coverage for cell in sampled], [cell.ratio for cell in sampled]
    mark = "*" if any(cell.off for cell in sampled) else ""
    return f"{np.mean(coverage):.2f} (≥ {min(coverage):.2f}); {min(ratio):.2f} to {max(ratio):.2f}{mark}"
