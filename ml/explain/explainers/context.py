"""Context attribution: which sources in its context an answer rests on (ContextCite; Cohen-Wang et al. 2024).

A lasso on the logit of the target's probability over random coalitions that keep each feature with probability ½. The
logit, log p/(1 − p), is closer to a sum over the sources than the probability or its logarithm. As in the authors'
`context_cite` package, samples are standardized before the penalty; unlike there, the penalty does not grow with the
target's length. The sources are the caller's features: sentences, as in the paper, or others. Where all coalitions are
within the budget all are evaluated, which is the limit of ever more draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimate, FloatArray
from ml.explain.explainers.surrogate import SurrogateExplainer
from ml.explain.sampling.draws import is_enumerable
from ml.explain.sampling.fits import fitted
from ml.explain.sampling.surrogates import Fit, Fitter, Lasso
from ml.models.objective import log_odds
from ml.spec import ContrastTarget, Scale

Link = Callable[[FloatArray], FloatArray]
"""From the value of a game to what is fitted, elementwise; NaN stays NaN."""

_MIN_PROBABILITY = 1e-300  # below, float64 loses its digits


def link(target: spec.Target) -> Link:
    """From the target's value, on either scale, to the logit of its probability.

    A contrast is fitted as it is: a difference of log-probabilities is already the logit of A if A and B are the only
    answers, or one is a prefix of the other.
    """
    if isinstance(target.kind, ContrastTarget):
        return np.asarray
    return log_odds_of_probability if target.scale is Scale.PROBABILITY else log_odds


def log_odds_of_probability(values: FloatArray) -> FloatArray:
    """log p − log(1 − p) from p."""
    return log_odds(np.log(np.maximum(values, _MIN_PROBABILITY)))


def draw(features: int, seed: int) -> Iterator[BoolArray]:
    """Coalitions, bool [features], without end."""
    random = np.random.default_rng(seed)
    while True:
        yield random.random(features) < 0.5


def draw_every(features: int, seed: int) -> Iterator[BoolArray]:
    """All coalitions, bool [features] each, in random order: if time runs out, those evaluated are a random sample."""
    members = 1 << np.arange(features, dtype=np.int64)
    for number in np.random.default_rng(seed).permutation(2**features):
        yield (number & members) > 0


@dataclass(frozen=True)
class ContextExplainer(SurrogateExplainer[spec.ContextAttribution]):
    """The lasso with growing numbers of samples, until a limit of the budget. Attributions are in logits."""

    link: Link

    @property
    def enumerates(self) -> bool:
        """See `SurrogateExplainer`."""
        return is_enumerable(self.features, self.budget)

    def draws(self) -> Iterator[BoolArray]:
        """See `SurrogateExplainer`."""
        return (draw_every if self.enumerates else draw)(self.features, self.budget.seed)

    def surrogate(self, coalitions: BoolArray) -> Fitter:
        """See `SurrogateExplainer`."""
        return self._lasso(coalitions)

    def estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """See `SurrogateExplainer`."""
        fit = self._lasso(coalitions, known=len(values) / self.max_evaluations if self.enumerates else 0.0)
        return fitted(fit, self.surrogate, coalitions, values, self.budget.standard_error)

    def _lasso(self, coalitions: BoolArray, *, known: float = 0.0) -> Fitter:
        """The lasso of `coalitions`, which are a share `known` of all coalitions if drawn without replacement."""
        deviations = coalitions.std(axis=0)
        deviations[deviations == 0] = 1  # a feature that never changed has no coefficient
        samples, weights = coalitions / deviations, np.ones(len(coalitions))
        lasso = Lasso(self.method.alpha, samples, weights, is_exact=self.enumerates)
        left_out = np.sqrt(1 - known)  # the correction for finite populations

        def fit(values: FloatArray, *, errors: bool = True) -> Fit:
            found = lasso(self.link(values), errors=errors)
            standard_errors = left_out * found.standard_errors / deviations
            return Fit(found.attributions / deviations, standard_errors, found.surrogate)

        return fit
