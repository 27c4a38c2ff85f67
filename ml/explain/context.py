"""Context attribution: which sources of a context an answer rests on (ContextCite; Cohen-Wang et al. 2024).

A lasso on the logit of the target's probability over random coalitions that keep each feature with probability ½. The
logit, log p/(1 − p), is closer to a sum over the sources than the probability or its logarithm. As in the authors'
`context_cite` package the penalty falls on standardized samples; unlike there, it does not grow with the target's
length. The sources are the caller's features: sentences, as in the paper, or others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ml import spec
from ml.explain.estimator import BoolArray, Estimating, FloatArray, Game
from ml.explain.sampling import DEFAULT_SAMPLES, anytime, fitted
from ml.explain.surrogates import Fit, lasso
from ml.models.objective import log_odds
from ml.spec import ContrastTarget, Scale

Link = Callable[[FloatArray], FloatArray]
"""From the value of a game to what is fitted, elementwise; NaN stays NaN."""

_MIN_PROBABILITY = 1e-300  # below, float64 loses its digits


def link(target: spec.Target) -> Link:
    """The logit of the target's probability, whichever scale its value is on.

    A contrast is a difference of log-probabilities, which already is the logit of A where A and B are the only
    answers, or where one of them continues the other: it is fitted as it is.
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


@dataclass(frozen=True)
class ContextExplainer:
    """The lasso with growing numbers of samples, until a limit of the budget. Attributions are in logits."""

    features: int
    method: spec.ContextAttribution
    budget: spec.Budget
    link: Link

    @property
    def max_evaluations(self) -> int:
        """The samples, those drawn more than once counted each time."""
        return self.budget.max_evaluations or DEFAULT_SAMPLES

    @property
    def min_evaluations(self) -> int:
        """Two, the least that a surrogate can be fitted to."""
        return 2

    def __call__(self, game: Game) -> Estimating:
        """Sample, fit, and tell, again and again. As for LIME, the limit waits for two samples a coefficient."""
        limit = self.budget.standard_error
        return anytime(
            game,
            (coalition[None] for coalition in draw(self.features, self.budget.seed)),
            lambda coalitions, values: fitted(self._fit, coalitions[:, 0], self.link(values[:, 0]), limit),
            rows=1,
            blocks=self.max_evaluations,
            limit=limit,
            enough=2 * (self.features + 1),
        )

    def _fit(self, coalitions: BoolArray, values: FloatArray, *, errors: bool) -> Fit:
        deviations = coalitions.std(axis=0)
        deviations[deviations == 0] = 1  # a feature that never changed has no coefficient
        fit = lasso(self.method.alpha, coalitions / deviations, values, np.ones(len(values)), errors=errors)
        return Fit(fit.attributions / deviations, fit.standard_errors / deviations, fit.surrogate)
