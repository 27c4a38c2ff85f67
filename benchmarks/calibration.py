"""How honest the errors of sampled explanations are: coverage of intervals, and errors beside the spread over seeds.

    python -m benchmarks.calibration [--quick] [--processes 2] [--json FILE] [--folder FOLDER]
        [--page | --stopped] [--only TEXT]

Games with known answers, and prompts of the shipped models, are explained again and again with other seeds, by every
method that samples, at 1 to 40 features and 64 to 4,000 evaluations; and so is a target whose rows are these games.
Coverage is how often a 95 % interval holds the true answer; where the answer itself depends on the number of samples,
the mean over seeds. The ratio is the mean reported error beside the answers' standard deviation over seeds. A cell
counts as off where the ratio lies outside 0.8 to 1.25, or the coverage below 88 % less three binomial deviations. Cells
are written down as they come, and those that are there already are not measured again: the full run takes hours, and
may be stopped at any time. `--page` writes docs/calibration.md from what is known. `--stopped` measures, instead,
explanations that may end once the largest attributions are ranked. No figure but the seconds depends on the machine's
speed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.calibrating import games, models, stopped, table, truths
from benchmarks.calibrating.cells import ROWS, WAYS, Cell, Key, Task, Values, measure
from ml.explain.estimator import FloatArray

FEATURES = (1, 2, 3, 5, 8, 12, 20, 40)
EVALUATIONS = (64, 166, 333, 1000, 4000)
FEW_EVALUATIONS = (166, 1000)  # where every coalition costs a model's time
SEEDS = {64: 200, 166: 200, 333: 200, 1000: 200, 4000: 50}
"""How often a toy game is explained: the more evaluations, the longer takes a fit."""
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "calibration.jsonl"
STOPPED = ROOT / "benchmarks" / "results" / "stopped.jsonl"
PAGE = ROOT / "docs" / "calibration.md"


def tasks(*, quick: bool) -> Iterator[Task]:
    """All explanations of the table, those first that cost least."""
    subjects = (*games.NAMES, ROWS, *models.NAMES)
    for evaluations in (166, 1000) if quick else EVALUATIONS:
        for features in (2, 8, 12, 20) if quick else FEATURES:
            for subject in subjects:
                seeds = _seeds(subject, features, evaluations, quick=quick)
                for name, way in WAYS.items():
                    if seeds and way.matters(subject, features, evaluations):
                        yield Task(subject, name, features, evaluations, seeds)


def _seeds(subject: str, features: int, evaluations: int, *, quick: bool) -> int:
    """How often a subject is explained; 0 where it is not, as a model's time would be too long."""
    if subject not in models.NAMES:
        return 16 if quick else SEEDS[evaluations]
    if quick:
        return 16 if features in (8, 12) and evaluations == FEW_EVALUATIONS[0] else 0
    if features <= models.ENUMERATED:
        return min(50, SEEDS[evaluations])
    return 20 if evaluations in FEW_EVALUATIONS else 0


def solve(task: Task, folder: Path) -> list[Cell]:
    """Measure the cells of one task."""
    return measure(task, _games(task, folder), lambda game, kind: _truth(game, task.features, kind, folder))


def _games(task: Task, folder: Path) -> dict[str, Values]:
    return {name: _game(name, task.features, folder) for name in _names(task.subject)}


def _names(subject: str) -> tuple[str, ...]:
    """The subject, or the games whose sum it is."""
    return games.NAMES if subject == ROWS else (subject,)


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


def known(path: Path) -> dict[Key, Cell]:
    """What was measured before."""
    lines = path.read_text().splitlines() if path.exists() else []
    cells = [Cell(**json.loads(line)) for line in lines]
    return {cell.key: cell for cell in cells}


def measure_stopped(file: Path, only: str, processes: int) -> list[stopped.Stopped]:
    """Measure explanations that choose their end, those with `only` in their names that are not in `file` yet."""
    lines = file.read_text().splitlines() if file.exists() else []
    known = [stopped.Stopped(**json.loads(line)) for line in lines]
    found = {(each.subject, each.way, each.features): each for each in known}
    missing = [task for task in stopped.tasks() if task not in found and only in f"{task[0]} {task[1]}"]
    with ProcessPoolExecutor(processes) as pool, file.open("a") as kept:
        pending = [pool.submit(stopped.measure, *task) for task in missing]
        for each in (done.result() for done in as_completed(pending)):
            kept.write(json.dumps(asdict(each)) + "\n")
            kept.flush()
            found[each.subject, each.way, each.features] = each
    return [found[task] for task in stopped.tasks() if task in found]


def main() -> None:
    """Measure what is not known yet, write it down, and summarize all that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, budgets and seeds: within ten minutes")
    parser.add_argument("--only", default="", help="subjects or methods that contain this")
    parser.add_argument("--page", action="store_true", help=f"measure nothing, and write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--stopped", action="store_true", help=f"measure what ends early: {STOPPED.relative_to(ROOT)}")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS, help="cells, one to a line, which are added to")
    parser.add_argument("--folder", type=Path, default=Path("build/calibration"), help="the models' values, kept")
    options = parser.parse_args()
    if options.stopped:
        Console(width=120).print(stopped.table(measure_stopped(STOPPED, options.only, options.processes)))
        return
    wanted = [each for each in tasks(quick=options.quick) if options.only in f"{each.subject} {each.way}"]
    keys = [key for task in wanted for key in task.keys(_names(task.subject))]
    found = known(options.json)
    if not options.page:
        missing = [each for each in wanted if not found.keys() >= each.keys(_names(each.subject)).keys()]
        with ProcessPoolExecutor(options.processes) as pool, options.json.open("a") as file:
            pending = [pool.submit(solve, task, options.folder) for task in missing]
            done = track(as_completed(pending), "measuring", len(missing), console=Console(stderr=True), transient=True)
            for cell in (cell for task in done for cell in task.result()):
                file.write(json.dumps(asdict(cell)) + "\n")
                file.flush()
                found[cell.key] = cell
    if options.page:
        cells = table.best_measured(found.values())
        PAGE.write_text(table.page(cells))
    else:
        cells = [found[key] for key in keys if key in found]
    print(table.summary(cells))


if __name__ == "__main__":
    main()
