"""What LIME and context attribution share: a surrogate that is fitted to growing numbers of coalitions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game
from ml.explain.sampling.anytime import PLAIN_GROWTH, anytime
from ml.explain.sampling.draws import DEFAULT_SAMPLES
from ml.explain.sampling.fits import exactly_fitted, in_order
from ml.explain.sampling.stopping import Stopping
from ml.explain.sampling.surrogates import Fitter
from ml.result import StopReason

Method = TypeVar("Method", spec.Lime, spec.ContextAttribution)

_MIN_SAMPLES = 2


@dataclass(frozen=True)
class SurrogateExplainer(ABC, Generic[Method]):
    """Draws coalitions, and fits a surrogate to all of them again and again, until a limit of the budget.

    Subclasses say what is drawn, what is fitted, and how an estimate is made from a sample.
    """

    features: int
    method: Method
    budget: spec.Budget

    @property
    def max_evaluations(self) -> int:
        """The samples, or all coalitions. A coalition that is drawn repeatedly counts each time."""
        return int(2**self.features) if self.enumerates else self.budget.max_evaluations or DEFAULT_SAMPLES

    @property
    def min_evaluations(self) -> int:
        """Two, the fewest that a surrogate can be fitted to."""
        return _MIN_SAMPLES

    def __call__(self, game: Game) -> Estimating:
        """Sample and fit, again and again.

        Errors are believed once there are two samples per coefficient: before that, the penalty keeps coefficients and
        their errors near 0 for any game.
        """
        return anytime(
            game,
            (coalition[None] for coalition in self.draws()),
            lambda coalitions, values: self._estimate(coalitions[:, 0], values[:, 0]),
            rows=1,
            blocks=self.max_evaluations,
            stopping=Stopping.of(self.budget, 2 * (self.features + 1), ranks=self.converges and not self.enumerates),
            growth=self.growth,
            end=StopReason.COMPLETE if self.enumerates else StopReason.EVALUATIONS,
        )

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From `coalitions` [n, features] and their `values` [n]."""
        if len(values) < _MIN_SAMPLES:
            return Estimate.nothing(self.features)
        if self.enumerates and len(values) == self.max_evaluations:
            coalitions, values = in_order(coalitions, values)
            return exactly_fitted(self.surrogate(coalitions), coalitions, values)
        return self.estimate(coalitions, values)

    @property
    @abstractmethod
    def enumerates(self) -> bool:
        """Whether all coalitions are evaluated, each once."""

    @property
    def converges(self) -> bool:
        """Whether more samples change how well the surrogate is known, and not what it is."""
        return True

    @property
    def growth(self) -> float:
        """By how much the samples grow before each estimate."""
        return PLAIN_GROWTH

    @abstractmethod
    def draws(self) -> Iterator[BoolArray]:
        """At least `max_evaluations` coalitions, bool [features] each."""

    @abstractmethod
    def surrogate(self, coalitions: BoolArray) -> Fitter:
        """The surrogate of `coalitions` [n, features]."""

    @abstractmethod
    def estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From two or more `coalitions` [n, features] and their `values` [n], which are not all there are."""
