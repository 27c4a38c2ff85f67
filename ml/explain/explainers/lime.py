"""LIME: an interpretable model fitted around the prompt, with weights (Ribeiro, Singh & Guestrin 2016).

The definition is that of the text explainer of the authors' `lime` package: the number of removed features uniform in
1..d, drawn without replacement; the whole prompt as the first sample; the cosine distance to it times 100; the kernel
√exp(−distance² / width²); ridge with α = 1 and an intercept on all features; weighted R².

The textbook estimator also makes the package's draws, so that equal seeds give the package's coefficients. The other
one estimates the mean of the package's results with 1,000 samples: a fit to all coalitions, each weighted by how often
it is drawn. It is exact where all coalitions are within the budget; otherwise importance sampling and control variates
come close.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ml import spec
from ml.explain.control_variates.control import Control
from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.process import Draws
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game
from ml.explain.explainers.lime_draws import Coefficients, Sizes, draw, kernel
from ml.explain.sampling.anytime import CONTROLLED_GROWTH, PLAIN_GROWTH, anytime
from ml.explain.sampling.draws import DEFAULT_SAMPLES, is_enumerable
from ml.explain.sampling.errors import stratified
from ml.explain.sampling.fits import exactly_fitted, fitted, in_order
from ml.explain.sampling.stopping import Stopping
from ml.explain.sampling.surrogates import DecisionTree, Fit, Fitter, Lasso, Ridge, r_squared
from ml.result import StopReason, SurrogateFit
from ml.spec import SurrogateKind

_MIN_FOR_CONTROL = 4  # samples per feature
_DEFAULT_ALPHA = {SurrogateKind.RIDGE: 1.0, SurrogateKind.LASSO: 0.01}


@dataclass(frozen=True)
class LimeExplainer:
    """LIME with growing numbers of samples: 64, then a quarter more each time, until a limit of the budget."""

    features: int
    method: spec.Lime
    budget: spec.Budget
    control: bool = False
    """Whether to draw coalitions by importance, or all of them where the budget allows, and to use control variates for
    the ridge where it does not; see `ml.explain.control_variates`."""

    @property
    def max_evaluations(self) -> int:
        """The samples, or all coalitions. Repeated draws of the package count each time."""
        return int(2**self.features) if self._every else self.budget.max_evaluations or DEFAULT_SAMPLES

    @property
    def min_evaluations(self) -> int:
        """Two, the fewest that a surrogate can be fitted to."""
        return 2

    def __call__(self, game: Game) -> Estimating:
        """Sample and fit, again and again.

        Errors are believed once there are two samples per coefficient: before that, the penalty keeps coefficients and
        their errors near 0 for any game. A ranking does not stop the package's ridge: its penalty weighs the more the
        fewer the samples are, so fewer would answer another question.
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

    def _plain(self, coalitions: BoolArray) -> Fitter:
        """The surrogate of `coalitions`, without control variates."""
        samples = coalitions.astype(np.float64)
        weights = self._sizes.weights(coalitions) if self._chooses else kernel(coalitions, self.method.kernel_width)
        match self.method.surrogate:
            case SurrogateKind.RIDGE if self._chooses:
                removed, counts = (~coalitions).sum(axis=1), self._sizes.counts
                return Ridge(
                    self._alpha, samples, weights, spread=lambda influences: stratified(influences, removed, counts)
                )
            case SurrogateKind.RIDGE:
                return Ridge(self._alpha, samples, weights, fixed=1)
            case SurrogateKind.LASSO:
                fitter: Fitter = Lasso(self._alpha, samples, weights, fixed=1)
            case SurrogateKind.DECISION_TREE:
                fitter = DecisionTree(self.method.max_depth or spec.DEFAULT_DEPTH, samples, weights, fixed=1)
        if not self._every:
            return fitter
        left_out = np.sqrt(
            1 - len(coalitions) / self.max_evaluations
        )  # correction for finite populations (Cochran 1977)

        def fit(values: FloatArray, *, errors: bool = True) -> Fit:
            found = fitter(values, errors=errors)
            return replace(found, standard_errors=left_out * found.standard_errors) if errors else found

        return fit

    def _controlled(self, coalitions: BoolArray, values: FloatArray) -> Fitter:
        """The ridge of all coalitions, with a game fitted to `values` of `coalitions` as control variate."""
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
        """Whether all coalitions are evaluated."""
        return self.control and is_enumerable(self.features, self.budget)

    @property
    def _controls(self) -> bool:
        return self._chooses and not self._every

    @property
    def _chooses(self) -> bool:
        """Whether the draw is by importance, and not the package's."""
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
        return _DEFAULT_ALPHA[self.method.surrogate] if self.method.alpha is None else self.method.alpha
