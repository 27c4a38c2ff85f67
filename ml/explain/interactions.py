"""Shapley interaction indices of all pairs of features, with their Shapley values, from sampled coalitions.

The plain estimate from sampled coalitions (SHAP-IQ: Fumagalli et al. 2023) is unbiased, but for a prompt's evaluations
far too noisy. So a Gaussian process is fitted to the values, whose indices can be had exactly; see
`ml.explain.control`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ml import spec
from ml.explain.control import Answer, Control, Draws
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game, Pairwise, empty_and_full
from ml.explain.indices import Index
from ml.explain.kernel_shap import Layers, draw
from ml.explain.sampling import CONTROLLED_GROWTH, DEFAULT_SAMPLES, anytime, has_converged, stability
from ml.explain.shapley import Pairs, completeness_error, is_enumerable
from ml.result import StopReason

_TILT = 1  # sizes are drawn nearly evenly, as they count for an index, middle ones a little more often
_MIN_PAIRS = 2  # pairs of coalitions a feature: by then all single features are known
_FITTED = 2048  # coalitions that the process is fitted to: interactions are more to learn than what single ones do
MAX_FEATURES = 128
"""8,128 pairs: some seconds for each estimate."""


@dataclass(frozen=True)
class InteractionsExplainer:
    """Interaction indices and Shapley values with growing numbers of coalitions, until a limit of the budget.

    Exact where all coalitions are within the budget. The standard-error limit is one for features and for pairs.
    """

    features: int
    budget: spec.Budget

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition and as many pairs of coalitions as the budget has room for, or all."""
        return 2 + 2 * self._pairs

    @property
    def min_evaluations(self) -> int:
        """Enough for a fit, which is two pairs a feature; or all coalitions, where they are fewer."""
        return int(min(2 + 2 * _MIN_PAIRS * self.features, 2**self.features))

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for pairs of coalitions."""
        empty, whole = yield from game(empty_and_full(self.features))
        if not np.isfinite(whole - empty):
            yield self._nothing(StopReason.DURATION)
            return
        if self.features == 1:
            none = Pairwise(np.zeros(0), np.zeros(0))
            found = Estimate(np.array([whole - empty]), np.zeros(1), interactions=none, completeness_error=0.0)
            yield replace(found, stop=StopReason.COMPLETE, converged=True)
            return
        steps = anytime(
            game,
            draw(self.features, self.budget.seed, tilt=_TILT),
            lambda coalitions, values: self._estimate(coalitions, values, float(empty), float(whole)),
            rows=2,
            blocks=self._pairs,
            limit=None,
            growth=CONTROLLED_GROWTH,
            end=StopReason.COMPLETE if is_enumerable(self.features, self.budget) else StopReason.EVALUATIONS,
        )
        for step in steps:
            if step is not None and step.stop is not StopReason.COMPLETE and self._within_limit(step):
                yield replace(step, stop=StopReason.STANDARD_ERROR)
                return
            yield step

    @property
    def _pairs(self) -> int:
        limit = self.budget.max_evaluations or max(DEFAULT_SAMPLES, self.min_evaluations)
        return int(min(limit, 2**self.features) // 2 - 1)

    def _within_limit(self, found: Estimate) -> bool:
        """Whether features and pairs are both known as well as asked for."""
        limit, pairs = self.budget.standard_error, found.interactions
        if limit is None or pairs is None:
            return False
        return float(max(found.standard_errors.max(), pairs.standard_errors.max())) < limit

    def _nothing(self, stop: StopReason | None = None) -> Estimate:
        pairs = math.comb(self.features, 2)
        nothing = Pairwise(np.zeros(pairs), np.full(pairs, np.inf))
        return replace(Estimate.nothing(self.features, stop), interactions=nothing)

    def _estimate(self, coalitions: BoolArray, values: FloatArray, empty: float, whole: float) -> Estimate:
        many, gain = len(values), whole - empty
        complete = many == 2 ** (self.features - 1) - 1
        if not complete and many < _MIN_PAIRS * self.features:
            return self._nothing()
        pairs = Pairs.of(coalitions, values, gain)
        known = np.concatenate([empty_and_full(self.features), coalitions.reshape(-1, self.features)])
        every = np.array([empty, whole, *values.flat])
        indices = Index.of_features(self.features), Index.of_pairs(self.features)
        if complete:
            answers = [_exact(index, known, every) for index in indices]
        else:
            draws = Draws(2, 2, pairs.sizes - 1, Layers.of(self.features).counts)
            fitted = Control(gain / self.features + _regress(pairs), known, every, draws, max_samples=_FITTED)
            answers = [fitted.estimate(index) for index in indices]
        attributions, errors = answers[0].values, answers[0].standard_errors
        attributions = attributions + (gain - attributions.sum()) / self.features  # known, but for rounding
        interactions, pair_errors = answers[1].values, answers[1].standard_errors
        # Where there are hardly any interactions, it is enough to know that.
        enough = max(float(np.abs(interactions).max()) / 10, float(np.abs(attributions).max()) / 100)
        halves = [pairs[np.arange(many) // 2 % 2 == half] for half in (0, 1)]  # by twos, as every other pair is single
        return Estimate(
            attributions=attributions,
            standard_errors=errors,
            converged=has_converged(attributions, errors, self.budget.standard_error)
            and has_converged(interactions, pair_errors, self.budget.standard_error or enough),
            interactions=Pairwise(interactions, pair_errors),
            stability=stability(*map(_regress, halves)) if many >= 4 else None,
            freedom=answers[0].freedom,
            completeness_error=completeness_error(attributions, gain),
        )


def _regress(pairs: Pairs) -> FloatArray:
    """First attributions, but for their mean. A layer has its weight, however many of its pairs are here."""
    layer_weights = Layers.of(pairs.design.shape[1]).layer_weights
    sizes = pairs.sizes - 1
    return pairs.regress((layer_weights / np.maximum(np.bincount(sizes, minlength=len(layer_weights)), 1))[sizes])[0]


def _exact(index: Index, every: BoolArray, values: FloatArray) -> Answer:
    """The index from the values of all coalitions, with standard errors of 0."""
    found = np.concatenate([part.weights(every).T @ values for part in index.chunks(len(every))])
    return Answer(found, np.zeros(len(found)), np.inf)
