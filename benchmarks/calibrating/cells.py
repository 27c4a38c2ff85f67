"""A cell of the table: one way to explain one game with one number of evaluations, over many seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, Explainer, FloatArray
from ml.explain.explainers.context import ContextExplainer
from ml.explain.explainers.interactions import InteractionsExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.explainers.shapley import EnumerationExplainer, is_enumerable
from ml.explain.sampling.interval import two_sided_95
from ml.spec import Budget, SurrogateKind

_ZERO = 1e-6  # an exact answer's error, and what it may be off by
_MIN_SEEDS = 8

Values = Callable[[BoolArray], FloatArray]
"""A game's values [n] of coalitions, bool [n, features]."""


@dataclass(frozen=True)
class Way:
    """A method and how it uses its samples.

    Attributes:
        make: the explainer of so many features within a budget.
        truth: what its answers are compared with: the name of a subject's true answer, or None for the mean over seeds,
            where the answer depends on the number of samples.
    """

    name: str
    make: Callable[[int, Budget], Explainer]
    truth: str | None = None
    pairs: bool = False
    beside: bool = False
    """Whether the subject is one of the rows of a target, and the explained game its sum with the other subjects."""

    otherwise_same: bool = False
    """Whether it is the way before it, except that it does not enumerate."""

    def matters(self, features: int, evaluations: int) -> bool:
        """Whether this cell is not another way's."""
        enumerable = is_enumerable(features, Budget(max_evaluations=evaluations))
        return enumerable if self.otherwise_same else not (self.beside and enumerable)


@dataclass(frozen=True)
class Task:
    """What a cell is of."""

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
        seconds: of the processor, one explanation without the game's own.
        refused: whether so few evaluations are refused; then nothing was measured.
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

    @property
    def task(self) -> Task:
        """What it is of."""
        return Task(self.subject, self.way, self.features, self.evaluations, self.seeds)

    @property
    def off(self) -> bool:
        """Whether it lies outside of what is asked for."""
        least = 0.88 - 3 * np.sqrt(0.88 * 0.12 / self.seeds)
        return not (self.refused or self.exact) and (self.coverage < least or not 0.8 <= self.ratio <= 1.25)


class _Whole:
    """A game that answers any number of coalitions at once, so that an explainer estimates only once, at the end."""

    together = 1 << 30

    def __init__(self, features: int, values: Values) -> None:
        self.features = features
        self._values = values
        self.seconds = 0.0

    def __call__(self, coalitions: BoolArray) -> Generator[None, None, FloatArray]:
        begun = time.process_time()
        values = self._values(coalitions)
        self.seconds += time.process_time() - begun
        yield
        return values


def measure(way: Way, values: Values, truth: FloatArray | None, task: Task, beside: Values | None = None) -> Cell:
    """Explain a game with so many seeds.

    Args:
        beside: the game that is one with it in what is explained, of which it is then a row.
        truth: the true answer, float64 [features] or [pairs]; None for the mean over seeds.
    """
    features, evaluations, seeds = task.features, task.evaluations, task.seeds
    found, seconds = list[tuple[FloatArray, FloatArray, float]](), 0.0
    for seed in range(seeds):
        explainer = way.make(features, Budget(max_evaluations=evaluations, seed=seed))
        if explainer.min_evaluations > evaluations:
            return Cell(**asdict(task), refused=True)
        game = _Whole(features, values if beside is None else _sum(values, beside))
        begun = time.process_time()
        *_, last = (step for step in explainer(game) if step is not None)
        if last.rows is not None and beside is not None:
            [last] = last.rows(lambda coalitions: values(coalitions)[None])
        seconds += time.process_time() - begun - game.seconds
        found.append((*_read(last, pairs=way.pairs), last.freedom))
        if len(found) >= _MIN_SEEDS and all((errors == 0).all() for _, errors, _ in found):
            break  # it is exact; other seeds would say the same
    answers, errors = (np.array(each) for each in list(zip(*found, strict=True))[:2])
    reach = np.array([two_sided_95(freedom) for *_, freedom in found])[:, None]
    deviations = (answers - answers.mean(axis=0)) * np.sqrt(len(found) / (len(found) - 1))
    missed = deviations if truth is None else answers - truth
    exact = bool((errors < _ZERO).all() and (np.abs(missed) < _ZERO).all())
    return Cell(
        **asdict(task),
        exact=exact,
        coverage=float((np.abs(missed) <= reach * errors + 1e-9).mean()),
        ratio=1.0 if exact else _rms(errors.mean(axis=0)) / max(_rms(deviations), 1e-12),
        error=_rms(missed),
        seconds=seconds / len(found),
    )


def _sum(one: Values, other: Values) -> Values:
    return lambda coalitions: one(coalitions) + other(coalitions)


def _read(found: Estimate, *, pairs: bool) -> tuple[FloatArray, FloatArray]:
    if not pairs:
        return found.attributions, found.standard_errors
    if found.interactions is None:
        raise AssertionError("interactions are what was asked for")
    return found.interactions.values, found.interactions.standard_errors


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


_ALONE = (
    Way("LIME, ridge", _lime(SurrogateKind.RIDGE, control=True), "lime"),
    Way("LIME, ridge, textbook", _lime(SurrogateKind.RIDGE, control=False)),
    Way("LIME, lasso", _lime(SurrogateKind.LASSO, control=True)),
    Way("LIME, lasso, textbook", _lime(SurrogateKind.LASSO, control=False), otherwise_same=True),
    Way("LIME, tree", _lime(SurrogateKind.DECISION_TREE, control=True)),
    Way("LIME, tree, textbook", _lime(SurrogateKind.DECISION_TREE, control=False), otherwise_same=True),
    Way("KernelSHAP", _kernel_shap(control=True), "shapley"),
    Way("KernelSHAP, textbook", _kernel_shap(control=False), "shapley"),
    Way("permutations", _permutations, "shapley"),
    Way("context attribution", _context),
    Way("interactions: features", InteractionsExplainer, "shapley"),
    Way("interactions: pairs", partial(InteractionsExplainer, pair_rows=True), "interactions", pairs=True),
)
_REFITTED = ("LIME, lasso", "LIME, tree", "context attribution")
"""A row of these is fitted by itself, as the whole is."""
WAYS = (
    *_ALONE,
    *(
        replace(way, name=f"row of {way.name}", beside=True)
        for way in _ALONE
        if not (way.otherwise_same or way.name in _REFITTED)
    ),
)
