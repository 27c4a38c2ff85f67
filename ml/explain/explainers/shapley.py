"""Shapley values as a regression on pairs of coalitions.

Shapley values solve a weighted least-squares problem over all coalitions S but the empty and the whole one: v(S) fitted
by v(∅) + Σ φᵢ over i in S, weight (d − 1) / [C(d, s) · s · (d − s)] for s = |S|, under the constraint that the values
sum to v(N) − v(∅) (Charnes et al. 1988; Lundberg & Lee 2017). A coalition and its complement have equal weights, and
their two equations can be replaced by one for half of their difference, without the constraint and v(∅):

    [v(S) − v(N∖S)] / 2 − (s/d − ½) (v(N) − v(∅)) = Σ zᵢ γᵢ,    zᵢ = 1[i ∈ S] − s/d,    φ = [v(N) − v(∅)] / d + γ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ml.explain.estimator import (
    BoolArray,
    Estimate,
    Estimating,
    FloatArray,
    Game,
    IntArray,
    empty_and_full,
    with_rows,
)
from ml.explain.sampling.errors import free
from ml.result import StopReason

_SINGULAR = 1e-10  # eigenvalues below this part of the largest are rounding errors


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

    def regression(self, weights: FloatArray, pull: float = 0.0) -> Regression:
        """Weighted least squares for any differences of these pairs; `weights` are float64 [pairs].

        Influences are those of White (1980), with residuals as `errors.free` makes them show the error, with `pull`.
        """
        weighted = self.design * weights[:, None]
        # Σ zᵢ = 0 in every row, so that the matrix is singular, and the solution sums to 0.
        inverse = np.linalg.pinv(self.design.T @ weighted, rcond=_SINGULAR, hermitian=True)
        projector = weighted @ inverse  # [pairs, features]
        leverage = np.einsum("pf,pf->p", projector, self.design)
        divisors = free(leverage, pull)

        def regress(differences: FloatArray) -> tuple[FloatArray, FloatArray]:
            gamma: FloatArray = differences @ projector
            residuals = (differences - self.design @ gamma) / divisors
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
