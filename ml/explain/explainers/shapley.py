"""Shapley values as a regression on pairs of coalitions, and from all coalitions.

Shapley values solve a weighted least-squares problem over all coalitions S but the empty and the whole one: v(S) fitted
by v(∅) + Σ φᵢ over i in S, weight (d − 1) / [C(d, s) · s · (d − s)] for s = |S|, under the constraint that the values
sum to v(N) − v(∅) (Charnes et al. 1988; Lundberg & Lee 2017). A coalition and its complement have equal weights, and
their two equations can be replaced by one for half of their difference, without the constraint and v(∅):

    [v(S) − v(N∖S)] / 2 − (s/d − ½) (v(N) − v(∅)) = Σ zᵢ γᵢ,    zᵢ = 1[i ∈ S] − s/d,    φ = [v(N) − v(∅)] / d + γ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ml import spec
from ml.explain.estimator import (
    BoolArray,
    Estimate,
    Estimating,
    FloatArray,
    Game,
    IntArray,
    empty_and_full,
    with_ends,
    with_rows,
)
from ml.explain.sampling.anytime import anytime_from_ends
from ml.explain.sampling.errors import completeness_error, has_converged, root_sum_of_squares
from ml.explain.sampling.stopping import Stopping
from ml.result import StopReason

_SINGULAR = 1e-10  # eigenvalues below this part of the largest are rounding errors
_MIN_FREE = 1e-6  # the least value of 1 − leverage


Regression = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""From pairs' differences, float64 [pairs], to gamma [features] and each pair's influence on it, [pairs, features].

The squares of the influences sum to the variance of gamma.
"""


@dataclass(frozen=True)
class Pairs:
    """Pairs of a coalition and its complement, as rows of the regression.

    Attributes:
        sizes: of the first coalition of each pair, int64 [pairs].
        share: s/d above, float64 [pairs].
        design: z above, float64 [pairs, features].
    """

    sizes: IntArray
    share: FloatArray
    design: FloatArray

    @classmethod
    def of(cls, coalitions: BoolArray) -> Pairs:
        """From `coalitions` [pairs, 2, features]."""
        kept = coalitions[:, 0]
        share = kept.mean(axis=1)
        return cls(kept.sum(axis=1), share, kept - share[:, None])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, chosen: BoolArray) -> Pairs:
        """The pairs where `chosen`, bool [pairs], is True."""
        return Pairs(self.sizes[chosen], self.share[chosen], self.design[chosen])

    def differences(self, values: FloatArray, gain: float) -> FloatArray:
        """The left side of the equation above, float64 [pairs], from `values` [pairs, 2]; `gain` is v(N) − v(∅)."""
        differences: FloatArray = (values[:, 0] - values[:, 1]) / 2 - (self.share - 0.5) * gain
        return differences

    def regression(self, weights: FloatArray) -> Regression:
        """Weighted least squares for any differences of these pairs; `weights` are float64 [pairs].

        Influences are those of White (1980) with the residuals of HC2 (MacKinnon & White 1985). HC3 has the residuals
        of fits without their own pair, which are too large where pairs are few.
        """
        weighted = self.design * weights[:, None]
        # Σ zᵢ = 0 in every row, so that the matrix is singular, and the solution sums to 0.
        inverse = np.linalg.pinv(self.design.T @ weighted, rcond=_SINGULAR, hermitian=True)
        projector = weighted @ inverse  # [pairs, features]
        leverage = np.einsum("pf,pf->p", projector, self.design)
        free = np.sqrt(np.maximum(1 - leverage, _MIN_FREE))

        def regress(differences: FloatArray) -> tuple[FloatArray, FloatArray]:
            gamma: FloatArray = differences @ projector
            residuals = (differences - self.design @ gamma) / free
            influences: FloatArray = projector * residuals[:, None]
            return gamma, influences

        return regress


def kernel(features: int) -> FloatArray:
    """The Shapley kernel's weight of all coalitions of each size 1..d−1 together, float64 [features − 1], sum 1."""
    sizes = np.arange(1, features)
    layer_weights = 1 / (sizes * (features - sizes))
    share: FloatArray = layer_weights / layer_weights.sum()
    return share


def of_one_feature(game: Game) -> Estimating:
    """The exact Shapley value of a single feature."""
    coalitions = empty_and_full(1)
    values = yield from game(coalitions)
    if not np.isfinite(values).all():
        yield Estimate.nothing(1, StopReason.DURATION)
        return

    def estimate(values: FloatArray) -> Estimate:
        return Estimate(np.diff(values), np.zeros(1), converged=True, completeness_error=0.0)

    yield replace(with_rows(estimate, coalitions, values), stop=StopReason.COMPLETE)


@dataclass(frozen=True)
class EnumerationExplainer:
    """Shapley values from all coalitions, which are evaluated in random order.

    So when time runs out there is a sample without replacement, whose standard errors shrink to 0 as it becomes
    complete.
    """

    features: int
    budget: spec.Budget

    @property
    def max_evaluations(self) -> int:
        """All coalitions."""
        return int(2**self.features)

    @property
    def min_evaluations(self) -> int:
        """All coalitions."""
        return self.max_evaluations

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for the pairs between them."""
        if self.features == 1:
            return of_one_feature(game)
        return anytime_from_ends(
            game,
            self._draws(),
            self._estimate,
            nothing=Estimate.nothing(self.features),
            rows=2,
            blocks=self._pairs,
            stopping=Stopping(self.budget.standard_error, enough=4 * self.features),
            end=StopReason.COMPLETE,
        )

    @property
    def _pairs(self) -> int:
        return self.max_evaluations // 2 - 1

    def _draws(self) -> Iterator[BoolArray]:
        """Every pair once, by its first coalition's number: the members in binary, without the last feature."""
        members = 1 << np.arange(self.features, dtype=np.int64)
        for number in np.random.default_rng(self.budget.seed).permutation(self._pairs) + 1:
            coalition = (number & members) > 0
            yield np.stack([coalition, ~coalition])

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From `coalitions` [pairs, 2, features], and the values of the empty, the full and these, [2 + 2 · pairs]."""
        pairs = Pairs.of(coalitions)
        left_out = 1 - len(pairs) / self._pairs
        if left_out and len(pairs) < 2 * self.features:
            return Estimate.nothing(self.features)
        each = kernel(self.features) / [math.comb(self.features, size) for size in range(1, self.features)]
        regress = pairs.regression(each[pairs.sizes - 1])

        def estimate(values: FloatArray) -> Estimate:
            gain = float(values[1] - values[0])
            gamma, influences = regress(pairs.differences(values[2:].reshape(-1, 2), gain))
            attributions = gain / self.features + gamma
            # `left_out` is the correction for finite populations (Cochran 1977).
            standard_errors = math.sqrt(left_out) * root_sum_of_squares(influences)
            return Estimate(
                attributions=attributions,
                standard_errors=standard_errors,
                converged=has_converged(attributions, standard_errors, self.budget.standard_error),
                completeness_error=completeness_error(attributions, gain),
            )

        return with_rows(estimate, with_ends(coalitions), values)
