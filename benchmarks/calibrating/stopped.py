"""What intervals are worth where sampling chose its own end, as it does if no number of evaluations is asked for.

Fewer features than `FEATURES` are enumerated, and their answers exact. Context attribution with so many samples is
compared with the lasso of all coalitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from benchmarks.calibrating import games, truths
from benchmarks.calibrating.cells import WAYS, Way, Whole
from ml.explain.estimator import Estimate, FloatArray
from ml.explain.sampling.interval import two_sided_95
from ml.result import StopReason
from ml.spec import Budget

FEATURES = (12, 20, 40)
SEEDS = 60
_ENOUGH = 12
NAMES = (*games.NAMES, *games.NEARLY_FITTED)
_TRUTHS: Mapping[str, Callable[[games.ToyGame], FloatArray]] = {
    "LIME, ridge": truths.lime_ridge,
    "KernelSHAP": truths.shapley,
    "KernelSHAP, textbook": truths.shapley,
    "permutations": truths.shapley,
    "context attribution": truths.context_lasso,
}


@dataclass(frozen=True)
class Stopped:
    """What a method reports of a game where it may stop.

    Attributes:
        stopped: the share of seeds that stopped before the most evaluations.
        evaluations: their mean over all seeds.
        coverage: how often 95 % intervals of those that stopped held the true answer; None if none did.
        ratio: their mean reported error beside the true one, both root mean squares over features and seeds.
        error: that true error, beside the largest attribution.
    """

    subject: str
    way: str
    features: int
    seeds: int
    stopped: float
    evaluations: float
    coverage: float | None
    ratio: float | None
    error: float | None


def measure(subject: str, way: str, features: int, seeds: int = SEEDS) -> Stopped:
    """Explain a game with so many seeds, each to the end that its method chooses."""
    game = games.toy(subject, features)
    truth = _TRUTHS[way](game)
    found: list[tuple[Estimate, int]] = []
    for seed in range(seeds):
        found.append(_explained(WAYS[way], game, seed))
        if seed + 1 == _ENOUGH and all(each.stop is not StopReason.RANKED for each, _ in found):
            break  # it does not stop, and other seeds would hardly say otherwise
    ended = [each for each, _ in found if each.stop is StopReason.RANKED]
    coverage = ratio = error = None
    if ended:
        missed = np.array([each.attributions for each in ended]) - truth
        errors = np.array([each.standard_errors for each in ended])
        reach = np.array([two_sided_95(each.freedom) for each in ended])[:, None]
        coverage = float((np.abs(missed) <= reach * errors + 1e-9).mean())
        true = float(np.sqrt((missed**2).mean()))
        error = true / float(np.abs(truth).max())
        ratio = float(np.sqrt((errors**2).mean())) / true if true > 1e-9 else None
    evaluations = float(np.mean([asked for _, asked in found]))
    return Stopped(subject, way, features, len(found), len(ended) / len(found), evaluations, coverage, ratio, error)


def _explained(way: Way, game: games.ToyGame, seed: int) -> tuple[Estimate, int]:
    """The last estimate, and how many coalitions it took."""
    whole = Whole(game.features, game)
    *_, last = (step for step in way.make(game.features, Budget(seed=seed))(whole) if step is not None)
    return last, whole.asked


def tasks() -> Iterator[tuple[str, str, int]]:
    """The game, the method and the features of all cells."""
    return ((subject, way, features) for features in FEATURES for way in _TRUTHS for subject in NAMES)


def table(found: Iterable[Stopped]) -> Table:
    """One line a cell that stopped."""
    drawn = Table("method", "game", "features", "stopped", "evaluations", "coverage", "errors", "true error")
    for each in found:
        figures = "" if each.coverage is None else f"{each.coverage:.2f}"
        ratio = "" if each.ratio is None else f"{each.ratio:.2f} times"
        error = "" if each.error is None else f"{each.error:.1e}"
        evaluations = f"{each.evaluations:.0f}"
        drawn.add_row(
            each.way, each.subject, str(each.features), f"{each.stopped:.2f}", evaluations, figures, ratio, error
        )
    return drawn
