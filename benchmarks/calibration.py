"""How honest the errors of sampled explanations are, at every size: coverage of 95 % intervals, and errors told / true.

    python -m benchmarks.calibration [--quick] [--processes 2] [--json FILE] [--folder FOLDER]

Games with known answers, and prompts of the shipped models, are explained again and again with other seeds, by every
method that samples, at 1 to 40 features and 64 to 4,000 evaluations; and as one row of a target that is the sum of all
of these games, by the fit to the sum. Coverage is how often a 95 % interval holds the
true answer; where the answer itself depends on the number of samples, the mean over seeds. The ratio is the mean
reported error beside the answers' standard deviation over seeds. A cell counts as off where the ratio lies outside
0.8 to 1.25, or the coverage below 88 % less three binomial deviations. Cells are written down as they come, and those
that are there already are not measured again. No figure but the seconds depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.calibrating import games, models, truths
from benchmarks.calibrating.cells import WAYS, Cell, Task, Values, measure
from ml.explain.estimator import FloatArray

FEATURES = (1, 2, 3, 5, 8, 12, 20, 40)
EVALUATIONS = (64, 166, 333, 1000, 4000)
FEW_EVALUATIONS = (166, 1000)  # where every coalition costs a model's time
RESULTS = Path(__file__).parent / "results" / "calibration.jsonl"


def tasks(*, quick: bool) -> Iterator[Task]:
    """All cells of the table, those first that cost least."""
    for features in (2, 8, 12, 20) if quick else FEATURES:
        for subject in games.NAMES:
            for evaluations in (166, 1000) if quick else EVALUATIONS:
                yield from _ways(subject, features, evaluations, 16 if quick else 200)
    for features in (8, 12) if quick else FEATURES:
        enumerated = features <= models.ENUMERATED
        for subject in models.NAMES:
            for evaluations in (166,) if quick else EVALUATIONS if enumerated else FEW_EVALUATIONS:
                yield from _ways(subject, features, evaluations, 16 if quick else 50 if enumerated else 20)


def _ways(subject: str, features: int, evaluations: int, seeds: int) -> Iterator[Task]:
    for way in WAYS:
        if way.matters(features, evaluations) and not (way.beside and subject in models.NAMES):
            yield Task(subject, way.name, features, evaluations, seeds)


def solve(task: Task, folder: Path) -> Cell:
    """Measure one cell."""
    way = next(way for way in WAYS if way.name == task.way)
    truth = None if way.truth is None else _truth(task.subject, task.features, way.truth, folder)
    beside = _beside(task.subject, task.features) if way.beside else None
    return measure(way, _game(task.subject, task.features, folder), truth, task, beside)


def _beside(subject: str, features: int) -> Values:
    """The sum of all other games."""
    others = [games.toy(name, features) for name in games.NAMES if name != subject]
    return lambda coalitions: np.sum([other(coalitions) for other in others], axis=0)


@cache
def _game(subject: str, features: int, folder: Path) -> games.ToyGame | models.ModelGame:
    if subject in models.NAMES:
        return models.ModelGame(subject, features, folder)
    return games.toy(subject, features)


@cache
def _truth(subject: str, features: int, kind: str, folder: Path) -> FloatArray:
    game = _game(subject, features, folder)
    if isinstance(game, models.ModelGame):
        return game.truth(kind)
    return models.kept(folder / f"{subject}-{features}-{kind}.npy", lambda: truths.KINDS[kind](game))


def known(path: Path) -> dict[Task, Cell]:
    """What was measured before."""
    lines = path.read_text().splitlines() if path.exists() else []
    cells = [Cell(**json.loads(line)) for line in lines]
    return {cell.task: cell for cell in cells}


def tell(cells: Iterable[Cell], console: Console) -> None:
    """Print the table, with those that are off marked, and the means."""
    for kind, names in (("games with known answers", games.NAMES), ("shipped models", models.NAMES)):
        own = [cell for cell in cells if cell.subject in names and not cell.refused]
        if not own:
            continue
        table = Table("way", "features", *map(str, EVALUATIONS), title=f"{kind}: coverage, error told / true")
        for way in WAYS:
            for features in FEATURES:
                row = [cell for cell in own if (cell.way, cell.features) == (way.name, features)]
                if row:
                    table.add_row(way.name, str(features), *(_entry(row, each) for each in EVALUATIONS))
        console.print(table)
        counted = [cell for cell in own if not cell.exact]
        off = [cell for cell in counted if cell.off]
        console.print(
            f"{len(own)} cells, {len(own) - len(counted)} of them exact. Of the others the mean coverage is"
            f" {np.mean([cell.coverage for cell in counted]):.3f}, and {len(off)} are off:"
        )
        for cell in off:
            console.print(
                f"  {cell.way}, {cell.subject}, {cell.features} features, {cell.evaluations} evaluations:"
                f" coverage {cell.coverage:.3f}, ratio {cell.ratio:.2f}, error {cell.error:.1e}"
            )


def _entry(row: list[Cell], evaluations: int) -> str:
    """Mean coverage and ratio over subjects, marked where one of them is off."""
    own = [cell for cell in row if cell.evaluations == evaluations]
    if not own:
        return ""
    if all(cell.exact for cell in own):
        return "exact"
    counted = [cell for cell in own if not cell.exact]
    coverage, ratio = (np.mean([getattr(cell, each) for cell in counted]) for each in ("coverage", "ratio"))
    return f"{coverage:.2f}, {ratio:.2f}" + "*" * any(cell.off for cell in counted)


def main() -> None:
    """Measure what is not known yet, write it down, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, budgets and seeds: within ten minutes")
    parser.add_argument("--only", help="subjects or ways that contain this")
    parser.add_argument("--table", action="store_true", help="only print what is known")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS, help="cells, one to a line, which are added to")
    parser.add_argument("--folder", type=Path, default=Path("build/calibration"), help="the models' values, kept")
    options = parser.parse_args()
    wanted = [each for each in tasks(quick=options.quick) if (options.only or "") in f"{each.subject} {each.way}"]
    found = known(options.json)
    if not options.table:
        missing = [each for each in wanted if each not in found]
        with ProcessPoolExecutor(options.processes) as pool, options.json.open("a") as file:
            cells = pool.map(solve, missing, [options.folder] * len(missing))
            for cell in track(cells, "measuring", len(missing), console=Console(stderr=True), transient=True):
                file.write(json.dumps(asdict(cell)) + "\n")
                file.flush()
                found[cell.task] = cell
    tell([found[each] for each in wanted if each in found], Console(file=sys.stdout, width=140))


if __name__ == "__main__":
    main()
