"""LIME: a weighted interpretable model around the prompt (Ribeiro, Singh & Guestrin 2016), as it improves.

Everything that defines the numbers is that of the authors' `lime` package, text explainer: the number of removed
features uniform in 1..d, drawn without replacement; the whole prompt as the first sample; the cosine distance to it
times 100; the kernel √exp(−distance² / width²); ridge with α = 1 and an intercept on all features; weighted R².

The textbook's estimator makes even the package's own draws, so that the same seed gives the package's coefficients. The
other one estimates what the package finds of 1,000 samples on the average: a fit to all coalitions, each weighed by how
often it is drawn. It is exact where all coalitions are within the budget; elsewhere a draw by importance and control
variates come close to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from ml import spec
from ml.explain.control_variates.control import Control
from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.process import Draws
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game
from ml.explain.explainers.lime_draws import Coefficients, Sizes, draw, kernel
from ml.explain.explainers.shapley import is_enumerable
from ml.explain.sampling.anytime import (
    CONTROLLED_GROWTH,
    DEFAULT_SAMPLES,
    PLAIN_GROWTH,
    anytime,
    exactly_fitted,
    fitted,
    in_order,
    stratified,
)
from ml.explain.sampling.stopping import Stopping
from ml.explain.sampling.surrogates import Fit, Fitting, Ridge, Surrogate, decision_tree, lasso, r_squared, ridge
from ml.result import StopReason, SurrogateFit
from ml.spec import SurrogateKind

_MIN_FOR_CONTROL = 4  # samples a feature


def surrogate(method: spec.Lime) -> Surrogate:
    """The interpretable model that a method asks for, with its parameters."""
    match method.surrogate:
        case SurrogateKind.RIDGE:
            return partial(ridge, 1.0 if method.alpha is None else method.alpha)
        case SurrogateKind.LASSO:
            return partial(lasso, 0.01 if method.alpha is None else method.alpha)
        case SurrogateKind.DECISION_TREE:
            return partial(decision_tree, method.max_depth or spec.DEFAULT_DEPTH)


@dataclass(frozen=True)
class LimeExplainer:
    """LIME with growing numbers of samples: 64, then a quarter more each time, until a limit of the budget."""

    features: int
    method: spec.Lime
    budget: spec.Budget
    control: bool = False
    """Whether coalitions are drawn to tell the most, all of them where the budget has room, and control variates help
    the ridge where it has not; see `ml.explain.control_variates`."""

    @property
    def max_evaluations(self) -> int:
        """The samples, or all coalitions. The package's own draws are counted each time that they come."""
        return int(2**self.features) if self._every else self.budget.max_evaluations or DEFAULT_SAMPLES

    @property
    def min_evaluations(self) -> int:
        """Two, the least that a surrogate can be fitted to."""
        return 2

    def __call__(self, game: Game) -> Estimating:
        """Sample, fit, and tell, again and again.

        Errors are looked at once there are two samples a coefficient: before that, the penalty holds coefficients and
        their errors near 0 whatever the game. A ranking does not end the package's ridge, whose penalty weighs the more
        the fewer the samples: fewer would be another question.
        """
        seed, enough = self.budget.seed, 2 * (self.features + 1)
        draws = self._sizes.draw(seed) if self._chooses else draw(self.features, self.max_evaluations, seed)
        return anytime(
            game,
            (coalition[None] for coalition in draws),
            lambda coalitions, values: self._estimate(coalitions[:, 0], values[:, 0]),
            rows=1,
            blocks=self.max_evaluations,
            stopping=Stopping.of(self.budget, enough, ranks=self._converges and not self._every),
            growth=CONTROLLED_GROWTH if self._controls else PLAIN_GROWTH,
            end=StopReason.COMPLETE if self._every else StopReason.EVALUATIONS,
        )

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        if len(values) < self.min_evaluations:
            return Estimate.nothing(self.features)
        if self._every and len(values) == self.max_evaluations:
            coalitions, values = in_order(coalitions, values)
            return exactly_fitted(self._plain(coalitions), coalitions, values)
        if self._controls and len(values) >= _MIN_FOR_CONTROL * self.features:
            fitting = self._controlled(coalitions, values)
        else:
            fitting = self._plain(coalitions)
        freedom = max(1, len(values) - self.features - 1)

        def fit(values: FloatArray, *, errors: bool = True) -> Fit:
            found = fitting(values, errors=errors)
            return replace(found, freedom=min(found.freedom, freedom))

        return fitted(fit, self._plain, coalitions, values, self.budget.standard_error, fixed=1)

    def _plain(self, coalitions: BoolArray) -> Fitting:
        """The surrogate of `coalitions`, without control variates."""
        samples = coalitions.astype(np.float64)
        if self._chooses and self.method.surrogate is SurrogateKind.RIDGE:
            removed = (~coalitions).sum(axis=1)
            weights = self._sizes.weights(coalitions)
            return Ridge(
                self._alpha, samples, weights, spread=lambda pulls: stratified(pulls, removed, self._sizes.counts)
            )
        weights = self._sizes.weights(coalitions) if self._chooses else kernel(coalitions, self.method.kernel_width)
        if self.method.surrogate is SurrogateKind.RIDGE:
            return Ridge(self._alpha, samples, weights, fixed=1)
        # The sampling theory's correction for finite populations (Cochran 1977).
        left_out = np.sqrt(1 - len(coalitions) / self.max_evaluations) if self._every else 1.0
        found = surrogate(self.method)

        def fit(values: FloatArray, *, errors: bool = True) -> Fit:
            fit = found(samples, values, weights, errors=errors, fixed=1)
            return replace(fit, standard_errors=left_out * fit.standard_errors) if errors else fit

        return fit

    def _controlled(self, coalitions: BoolArray, values: FloatArray) -> Fitting:
        """The ridge of all coalitions, as a game knows them that is fitted to `values` of `coalitions`."""
        removed = (~coalitions).sum(axis=1)
        draws = Draws(fixed=1, rows=1, strata=removed[1:], counts=self._sizes.counts)
        early = slice(Covariance.first_samples(self.features))
        first = self._plain(coalitions[early])(values[early], errors=False).attributions
        answers = Control(first, coalitions, values, draws).answers(Coefficients(self._sizes, self._alpha))
        samples, weights = coalitions.astype(np.float64), self._sizes.weights(coalitions)

        def fit(values: FloatArray, *, errors: bool = True) -> Fit:
            [found] = answers(values[None])
            intercept = float(np.average(values - samples @ found.values, weights=weights))
            explained = r_squared(values, intercept + samples @ found.values, weights)
            return Fit(
                found.values,
                found.standard_errors,
                SurrogateFit(SurrogateKind.RIDGE, explained, intercept),
                found.freedom,
            )

        return fit

    @property
    def _every(self) -> bool:
        """Whether all coalitions are within the budget, so that nothing has to be left to chance."""
        return self.control and is_enumerable(self.features, self.budget)

    @property
    def _controls(self) -> bool:
        return self._chooses and not self._every

    @property
    def _chooses(self) -> bool:
        """Whether the draw is ours to choose, and not the package's."""
        return self._every or (self.control and self.method.surrogate is SurrogateKind.RIDGE)

    @property
    def _converges(self) -> bool:
        """Whether more samples change how well it is known what the surrogate is, and not what it is."""
        return self._chooses or self.method.surrogate is not SurrogateKind.RIDGE

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes.of(self.features, self.method.kernel_width)

    @property
    def _alpha(self) -> float:
        return 1.0 if self.method.alpha is None else self.method.alpha
