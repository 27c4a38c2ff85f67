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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ml import spec
from ml.explain.control_variates.control import Control
from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.draws import Draws
from ml.explain.estimator import BoolArray, Estimate, FloatArray
from ml.explain.explainers.lime_draws import Coefficients, Sizes, draw, kernel
from ml.explain.explainers.surrogate import SurrogateExplainer
from ml.explain.sampling.anytime import CONTROLLED_GROWTH, PLAIN_GROWTH
from ml.explain.sampling.draws import is_enumerable
from ml.explain.sampling.errors import stratified
from ml.explain.sampling.fits import fitted
from ml.explain.sampling.surrogates import DecisionTree, Fit, Fitter, Lasso, Ridge, r_squared
from ml.result import SurrogateFit
from ml.spec import SurrogateKind

_MIN_FOR_CONTROL = 2  # samples per feature
_DEFAULT_ALPHA = {SurrogateKind.RIDGE: 1.0, SurrogateKind.LASSO: 0.01}


@dataclass(frozen=True)
class LimeExplainer(SurrogateExplainer[spec.Lime]):
    """LIME with growing numbers of samples: 64, then a quarter more each time, until a limit of the budget."""

    control: bool = False
    """Whether to draw coalitions by importance, or all of them where the budget allows, and to use control variates for
    the ridge where it does not; see `ml.explain.control_variates`."""

    @property
    def enumerates(self) -> bool:
        """See `SurrogateExplainer`. The textbook estimator never does: it makes the package's draws."""
        return self.control and is_enumerable(self.features, self.budget)

    @property
    def converges(self) -> bool:
        """See `SurrogateExplainer`. The penalty of the package's ridge weighs the more the fewer the samples are."""
        return self._by_importance or self.method.surrogate is not SurrogateKind.RIDGE

    @property
    def growth(self) -> float:
        """See `SurrogateExplainer`."""
        return CONTROLLED_GROWTH if self._uses_control_variates else PLAIN_GROWTH

    def draws(self) -> Iterator[BoolArray]:
        """See `SurrogateExplainer`. The whole prompt comes first."""
        if self._by_importance:
            return self._sizes.draw(self.budget.seed)
        return draw(self.features, self.max_evaluations, self.budget.seed)

    def estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """See `SurrogateExplainer`."""
        if self._uses_control_variates and len(values) >= _MIN_FOR_CONTROL * self.features:
            fitting = self._controlled(coalitions, values)
        else:
            fitting = self.surrogate(coalitions)
        freedom = max(1, len(values) - self.features - 1)

        def fit(values: FloatArray, *, errors: bool = True) -> Fit:
            found = fitting(values, errors=errors)
            return replace(found, freedom=min(found.freedom, freedom))

        return fitted(fit, self.surrogate, coalitions, values, self.budget.standard_error, fixed=1)

    def surrogate(self, coalitions: BoolArray) -> Fitter:
        """See `SurrogateExplainer`. It uses no control variates."""
        samples = coalitions.astype(np.float64)
        width = self.method.kernel_width
        weights = self._sizes.weights(coalitions) if self._by_importance else kernel(coalitions, width)
        match self.method.surrogate:
            case SurrogateKind.RIDGE if self._by_importance:
                removed, counts = (~coalitions).sum(axis=1), self._sizes.counts
                return Ridge(
                    self._alpha, samples, weights, spread=lambda influences: stratified(influences, removed, counts)
                )
            case SurrogateKind.RIDGE:
                return Ridge(self._alpha, samples, weights, fixed=1)
            case SurrogateKind.LASSO:
                fitter: Fitter = Lasso(self._alpha, samples, weights, fixed=1, is_exact=self.enumerates)
            case SurrogateKind.DECISION_TREE:
                fitter = DecisionTree(self.method.max_depth or spec.DEFAULT_DEPTH, samples, weights, fixed=1)
        if not self.enumerates:
            return fitter
        share = len(coalitions) / self.max_evaluations
        left_out = np.sqrt(1 - share)  # correction for finite populations (Cochran 1977)

        def fit(values: FloatArray, *, errors: bool = True) -> Fit:
            found = fitter(values, errors=errors)
            return replace(found, standard_errors=left_out * found.standard_errors) if errors else found

        return fit

    def _controlled(self, coalitions: BoolArray, values: FloatArray) -> Fitter:
        """The ridge of all coalitions, with a game fitted to `values` of `coalitions` as control variate."""
        removed = (~coalitions).sum(axis=1)
        draws = Draws(fixed=1, rows=1, strata=removed[1:], counts=self._sizes.counts)
        early = slice(Covariance.first_samples(self.features))
        first = self.surrogate(coalitions[early])(values[early], errors=False).attributions
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
                found.surprise,
                found.missed_in,
            )

        return fit

    @property
    def _by_importance(self) -> bool:
        """Whether coalitions are drawn by importance, and not as the package draws them."""
        return self.enumerates or (self.control and self.method.surrogate is SurrogateKind.RIDGE)

    @property
    def _uses_control_variates(self) -> bool:
        return self._by_importance and not self.enumerates

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes.of(self.features, self.method.kernel_width)

    @property
    def _alpha(self) -> float:
        return _DEFAULT_ALPHA[self.method.surrogate] if self.method.alpha is None else self.method.alpha
