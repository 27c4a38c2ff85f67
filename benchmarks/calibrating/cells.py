"""Cells of the table: what one method reports of one game with one number of evaluations, over many seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, Explainer, FloatArray
from ml.explain.explainers.context import ContextExplainer
from ml.explain.explainers.enumeration import EnumerationExplainer
from ml.explain.explainers.interactions import InteractionsExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.sampling.draws import is_enumerable
from ml.explain.sampling.interval import two_sided_95
from ml.spec import Budget, SurrogateKind

ROWS = "rows"
"""The subject whose target has every toy game for a row: their sum is what is explained."""
_ZERO = 1e-6  # an exact answer's error, and what it may be off by
_MIN_SEEDS = 8
_LARGEST = 3  # answers whose coverage is looked at alone

Values = Callable[[BoolArray], FloatArray]
"""A game's values [n] of coalitions, bool [n, features]."""


@dataclass(frozen=True)
class Reading:
    """What a cell looks at in an explanation: attributions of features, or of pairs of them.

    Attributes:
        truth: what it is compared with: the name of a subject's true answer, or None for the mean over seeds, where the
            answer depends on the number of samples.
    """

    name: str
    truth: str | None = None
    pairs: bool = False


@dataclass(frozen=True)
class Way:
    """A method and how it uses its samples.

    Attributes:
        make: the explainer of so many features within a budget.
        readings: what its explanations are looked at for; each is a cell of its own.
        fits_rows: whether it fits each row of a target by itself, as it fits the whole, so that rows teach nothing new.
        otherwise_same: whether it is the way before it, except that it does not enumerate.
    """

    make: Callable[[int, Budget], Explainer]
    readings: tuple[Reading, ...]
    fits_rows: bool = False
    otherwise_same: bool = False

    @property
    def name(self) -> str:
        """The name of what is read first."""
        return self.readings[0].name

    def matters(self, subject: str, features: int, evaluations: int) -> bool:
        """Whether these cells are not another way's, and not exact for a reason that another cell shows."""
        enumerable = is_enumerable(features, Budget(max_evaluations=evaluations))
        if subject == ROWS:
            return not (enumerable or self.otherwise_same or self.fits_rows)
        return enumerable or not self.otherwise_same


@dataclass(frozen=True)
class Key:
    """Which cell it is."""

    subject: str
    way: str
    features: int
    evaluations: int
    seeds: int


@dataclass(frozen=True)
class Cell:
    """What was found, over features and seeds.

    Attributes:
        exact: whether all reported errors were 0, and all answers the true one.
        coverage: how often 95 % intervals held the true answer.
        ratio: the mean reported error beside the answers' standard deviation over seeds, both pooled over features.
        error: root mean square difference from the true answer.
        spread: the answers' standard deviation over seeds, pooled over features.
        seconds: of the processor, one explanation without the game's own.
        refused: whether so few evaluations are refused; then nothing was measured.
        largest: the coverage of the three largest true answers alone; None where it was not measured.
    """

    subject: str
    way: str
    features: int
    evaluations: int
    seeds: int
    exact: bool = False
    coverage: float = 1.0
    ratio: float = 1.0
    error: float = 0.0
    seconds: float = 0.0
    refused: bool = False
    spread: float = 0.0
    largest: float | None = None

    @property
    def true_ratio(self) -> float:
        """The mean reported error beside the root mean square of the true ones, which count what all seeds share."""
        return self.ratio * self.spread / self.error if self.error else 1.0

    @property
    def key(self) -> Key:
        """Which cell it is."""
        return Key(self.subject, self.way, self.features, self.evaluations, self.seeds)

    @property
    def off(self) -> bool:
        """Whether it lies outside of what is asked for."""
        least = 0.88 - 3 * np.sqrt(0.88 * 0.12 / self.seeds)
        return not (self.refused or self.exact) and (self.coverage < least or not 0.8 <= self.ratio <= 1.25)


class Whole:
    """A game that answers any number of coalitions at once, so that an explainer estimates no more often than it must.

    Attributes:
        asked: how many coalitions were asked for.
        seconds: of the processor, the game's own.
    """

    batch_size = 1 << 30

    def __init__(self, features: int, values: Values) -> None:
        self.features = features
        self.asked = 0
        self.seconds = 0.0
        self._values = values

    def __call__(self, coalitions: BoolArray) -> Generator[None, None, FloatArray]:
        """The values of `coalitions`."""
        begun = time.process_time()
        values = self._values(coalitions)
        self.seconds += time.process_time() - begun
        self.asked += len(coalitions)
        yield
        return values


@dataclass(frozen=True)
class Task:
    """The explanations of one subject by one way, over seeds: what several cells are read from."""

    subject: str
    way: str
    features: int
    evaluations: int
    seeds: int

    def keys(self, games: Iterable[str]) -> dict[Key, tuple[str, Reading]]:
        """The cells, each with the name of its game and what is read.

        Args:
            games: the name of the subject alone, or, where it is a sum, of all of its rows.
        """
        prefix = "row of " if self.subject == ROWS else ""
        return {
            Key(game, prefix + reading.name, self.features, self.evaluations, self.seeds): (game, reading)
            for game in games
            for reading in WAYS[self.way].readings
        }


def measure(task: Task, games: Mapping[str, Values], truths: Callable[[str, str], FloatArray]) -> list[Cell]:
    """Explain a subject with so many seeds.

    Args:
        games: the subject alone, or, where the subject is their sum, all of its rows.
        truths: the true answer of a game, float64 [features] or [pairs], by the names of both.
    """
    way, keys = WAYS[task.way], task.keys(games)
    found = {key: list[_Answer]() for key in keys}
    seconds = 0.0
    for seed in range(task.seeds):
        explainer = way.make(task.features, Budget(max_evaluations=task.evaluations, seed=seed))
        if explainer.min_evaluations > task.evaluations:
            return [Cell(**asdict(key), refused=True) for key in keys]
        whole = Whole(task.features, lambda coalitions: np.sum([game(coalitions) for game in games.values()], axis=0))
        begun = time.process_time()
        *_, last = (step for step in explainer(whole) if step is not None)
        estimates = dict.fromkeys(games, last)
        if task.subject == ROWS and last.rows is not None:
            rows = last.rows(lambda coalitions: np.stack([game(coalitions) for game in games.values()]))
            estimates = dict(zip(games, rows, strict=True))
        seconds += time.process_time() - begun - whole.seconds
        for key, (game, reading) in keys.items():
            found[key].append(_Answer.read(estimates[game], reading))
        if seed + 1 >= _MIN_SEEDS and all((each.errors == 0).all() for every in found.values() for each in every):
            break  # it is exact; other seeds would say the same
    each_takes = seconds / (seed + 1)
    return [
        _compared(key, found[key], truths(game, reading.truth) if reading.truth else None, each_takes)
        for key, (game, reading) in keys.items()
    ]


@dataclass(frozen=True)
class _Answer:
    """What one explanation says: attributions, their standard errors, and the errors' degrees of freedom."""

    attributions: FloatArray
    errors: FloatArray
    freedom: float

    @classmethod
    def read(cls, found: Estimate, reading: Reading) -> _Answer:
        if not reading.pairs:
            return cls(found.attributions, found.standard_errors, found.freedom)
        if found.interactions is None:
            raise AssertionError("interactions are what was asked for")
        return cls(found.interactions.values, found.interactions.standard_errors, found.freedom)


def _compared(key: Key, found: list[_Answer], truth: FloatArray | None, seconds: float) -> Cell:
    answers, errors = np.array([each.attributions for each in found]), np.array([each.errors for each in found])
    reach = np.array([two_sided_95(each.freedom) for each in found])[:, None]
    deviations = (answers - answers.mean(axis=0)) * np.sqrt(len(found) / (len(found) - 1))
    missed = deviations if truth is None else answers - truth
    exact = bool((errors < _ZERO).all() and (np.abs(missed) < _ZERO).all())
    spread = _rms(deviations)
    held = (np.abs(missed) <= reach * errors + 1e-9).mean(axis=0)
    largest = np.argsort(-np.abs(answers.mean(axis=0) if truth is None else truth), kind="stable")[:_LARGEST]
    return Cell(
        **asdict(key),
        exact=exact,
        coverage=float(held.mean()),
        ratio=1.0 if exact else _rms(errors.mean(axis=0)) / max(spread, 1e-12),
        error=_rms(missed),
        seconds=seconds,
        spread=spread,
        largest=float(held[largest].mean()),
    )


def _rms(each: FloatArray) -> float:
    return float(np.sqrt(np.mean(each**2)))


def _lime(surrogate: SurrogateKind, *, control: bool) -> Callable[[int, Budget], Explainer]:
    method = spec.Lime(surrogate=surrogate)
    return lambda features, budget: LimeExplainer(features, method, budget, control=control)


def _kernel_shap(*, control: bool) -> Callable[[int, Budget], Explainer]:
    def make(features: int, budget: Budget) -> Explainer:
        if is_enumerable(features, budget):
            return EnumerationExplainer(features, budget)
        return KernelShapExplainer(features, budget, control=control)

    return make


def _permutations(features: int, budget: Budget) -> Explainer:
    enumerable = is_enumerable(features, budget)
    return EnumerationExplainer(features, budget) if enumerable else PermutationExplainer(features, budget)


def _context(features: int, budget: Budget) -> Explainer:
    return ContextExplainer(features, spec.ContextAttribution(), budget, link=np.asarray)


_ALL = (
    Way(_lime(SurrogateKind.RIDGE, control=True), (Reading("LIME, ridge", "lime"),)),
    Way(_lime(SurrogateKind.RIDGE, control=False), (Reading("LIME, ridge, textbook"),)),
    Way(_lime(SurrogateKind.LASSO, control=True), (Reading("LIME, lasso"),), fits_rows=True),
    Way(_lime(SurrogateKind.LASSO, control=False), (Reading("LIME, lasso, textbook"),), otherwise_same=True),
    Way(_lime(SurrogateKind.DECISION_TREE, control=True), (Reading("LIME, tree"),), fits_rows=True),
    Way(_lime(SurrogateKind.DECISION_TREE, control=False), (Reading("LIME, tree, textbook"),), otherwise_same=True),
    Way(_kernel_shap(control=True), (Reading("KernelSHAP", "shapley"),)),
    Way(_kernel_shap(control=False), (Reading("KernelSHAP, textbook", "shapley"),)),
    Way(_permutations, (Reading("permutations", "shapley"),)),
    Way(_context, (Reading("context attribution"),), fits_rows=True),
    Way(
        lambda features, budget: InteractionsExplainer(features, budget, pair_rows=True),
        (
            Reading("interactions: features", "shapley"),
            Reading("interactions: pairs", "interactions", pairs=True),
        ),
    ),
)
WAYS: Mapping[str, Way] = {way.name: way for way in _ALL}
