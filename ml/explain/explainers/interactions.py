"""Shapley interaction indices of all pairs of features, and Shapley values, from sampled coalitions.

The plain estimate from sampled coalitions (SHAP-IQ: Fumagalli et al. 2023) is unbiased, but far too noisy for the
evaluations that a prompt allows. So a Gaussian process is fitted to the values, whose indices are computed exactly; see
`ml.explain.control_variates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ml import spec
from ml.explain.control_variates.control import Answer, Control
from ml.explain.control_variates.draws import Draws
from ml.explain.control_variates.indices import Index
from ml.explain.estimator import (
    BoolArray,
    Estimate,
    Estimating,
    FloatArray,
    Game,
    Pairwise,
    with_ends,
)
from ml.explain.explainers.kernel_shap import Layers, draw
from ml.explain.explainers.shapley import Pairs, of_one_feature
from ml.explain.sampling.anytime import CONTROLLED_GROWTH, anytime_from_ends
from ml.explain.sampling.draws import DEFAULT_SAMPLES, is_enumerable
from ml.explain.sampling.errors import completeness_error, has_converged, stability
from ml.explain.sampling.stopping import Stopping
from ml.result import StopReason

_TILT = 1  # sizes are drawn nearly uniformly, as an index weights them, middle ones a little more often
_MIN_PAIRS = 2  # pairs of coalitions per feature: by then all single features are sampled
_FITTED = 2048  # coalitions that the process is fitted to: interactions need more than Shapley values
MAX_FEATURES = 128
"""8,128 pairs: some seconds for each estimate."""


@dataclass(frozen=True)
class InteractionsExplainer:
    """Interaction indices and Shapley values with growing numbers of coalitions, until a limit of the budget.

    Exact where all coalitions are within the budget. The standard-error limit is for both features and pairs.
    """

    features: int
    budget: spec.Budget
    pair_rows: bool = False
    """Whether to estimate interactions for the rows too."""

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition, and as many pairs of coalitions as the budget allows, or all."""
        return 2 + 2 * self._pairs

    @property
    def min_evaluations(self) -> int:
        """Enough for a fit, which is two pairs per feature; or all coalitions, if fewer."""
        return int(min(2 + 2 * _MIN_PAIRS * self.features, 2**self.features))

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for pairs of coalitions."""
        if self.features == 1:
            for step in of_one_feature(game):
                yield step and replace(step, interactions=Pairwise(np.zeros(0), np.zeros(0)))
            return
        yield from anytime_from_ends(
            game,
            draw(self.features, self.budget.seed, tilt=_TILT),
            self._estimate,
            nothing=self._nothing(),
            rows=2,
            blocks=self._pairs,
            stopping=Stopping(self.budget.standard_error),
            growth=CONTROLLED_GROWTH,
            end=StopReason.COMPLETE if is_enumerable(self.features, self.budget) else StopReason.EVALUATIONS,
        )

    @property
    def _pairs(self) -> int:
        limit = self.budget.max_evaluations or max(DEFAULT_SAMPLES, self.min_evaluations)
        return int(min(limit, 2**self.features) // 2 - 1)

    def _nothing(self) -> Estimate:
        pairs = math.comb(self.features, 2)
        nothing = Pairwise(np.zeros(pairs), np.full(pairs, np.inf))
        return replace(Estimate.nothing(self.features), interactions=nothing)

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From `coalitions` [pairs, 2, features], and the values of the empty, the full and these, [2 + 2 · pairs]."""
        many = len(coalitions)
        complete = many == 2 ** (self.features - 1) - 1
        if not complete and many < _MIN_PAIRS * self.features:
            return self._nothing()
        pairs, every = Pairs.of(coalitions), with_ends(coalitions)
        gain = float(values[1] - values[0])
        differences = pairs.differences(values[2:].reshape(-1, 2), gain)
        answers: list[_Answers]
        if complete:
            answers = [partial(_exact, index, every) for index in self._indices]
        else:
            draws = Draws(2, 2, pairs.sizes - 1, Layers.of(self.features).counts)
            first = gain / self.features + _regress(pairs, differences)
            fitted = Control(first, every, values, draws, max_samples=_FITTED)
            answers = [fitted.answers(index) for index in self._indices]
        [found] = self._estimates(answers, values[None])
        halves = [np.arange(many) // 2 % 2 == half for half in (0, 1)]  # by twos: every other pair is a single one
        of_rows = answers if self.pair_rows else answers[:1]
        return replace(
            found,
            converged=self._has_converged(found),
            stability=stability(*(_regress(pairs[half], differences[half]) for half in halves)) if many >= 4 else None,
            rows=lambda row_values: self._estimates(of_rows, row_values(every)),
        )

    def _estimates(self, answers: Sequence[_Answers], games: FloatArray) -> list[Estimate]:
        """An estimate for each of `games`, [games, n], by the answers for features and, if wanted, for pairs."""
        found = zip(*(of_index(games) for of_index in answers), strict=True)
        return [self._of_answers(*each, gain=float(game[1] - game[0])) for each, game in zip(found, games, strict=True)]

    def _of_answers(self, features: Answer, pairs: Answer | None = None, *, gain: float) -> Estimate:
        attributions = features.values + (gain - features.values.sum()) / self.features  # right but for rounding
        return Estimate(
            attributions=attributions,
            standard_errors=features.standard_errors,
            interactions=None if pairs is None else Pairwise(pairs.values, pairs.standard_errors),
            freedom=features.freedom,
            surprise=features.surprise,
            missed_in=features.missed_in,
            completeness_error=completeness_error(attributions, gain),
        )

    def _has_converged(self, found: Estimate) -> bool:
        pairs, limit = found.interactions, self.budget.standard_error
        if pairs is None or not has_converged(found.attributions, found.standard_errors, limit):
            return False
        # Interactions that are small beside the attributions need no precise values.
        enough = max(float(np.abs(pairs.values).max()) / 10, float(np.abs(found.attributions).max()) / 100)
        return has_converged(pairs.values, pairs.standard_errors, limit or enough)

    @property
    def _indices(self) -> tuple[Index, Index]:
        return Index.of_features(self.features), Index.of_pairs(self.features)


_Answers = Callable[[FloatArray], list[Answer]]
"""From the values of games for all sampled coalitions, [games, n], to an answer for each game."""


def _regress(pairs: Pairs, differences: FloatArray) -> FloatArray:
    """Rough attributions, without their mean. A layer's pairs share its weight."""
    layer_weights = Layers.of(pairs.design.shape[1]).layer_weights
    sizes = pairs.sizes - 1
    weights = (layer_weights / np.maximum(np.bincount(sizes, minlength=len(layer_weights)), 1))[sizes]
    return pairs.regression(weights)(differences)[0]


def _exact(index: Index, every: BoolArray, games: FloatArray) -> list[Answer]:
    """The index for each of `games`, from the values of all coalitions, with standard errors of 0."""
    found = np.hstack([games @ part.weights(every) for part in index.chunks(len(every))])
    return [Answer(each, np.zeros(len(each)), np.inf) for each in found]
