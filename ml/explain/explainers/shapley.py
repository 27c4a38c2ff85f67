"""Shapley values as a regression on pairs of coalitions, and their exact enumeration.

Shapley values solve a weighted least-squares problem over all coalitions S but the empty and the whole one: v(S) fitted
by v(∅) + Σ φᵢ over i in S, weight (d − 1) / [C(d, s) · s · (d − s)] for s = |S|, under the constraint that the values
sum to v(N) − v(∅) (Charnes et al. 1988; Lundberg & Lee 2017). A coalition and its complement have equal weights, and
their two equations amount to one on half of their difference, free of the constraint and of v(∅):

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
from ml.explain.sampling.anytime import anytime
from ml.explain.sampling.errors import completeness_error, has_converged
from ml.explain.sampling.stopping import Stopping
from ml.result import StopReason

SINGULAR = 1e-10  # eigenvalues below this part of the largest are rounding
_FREE = 1e-6  # the least part of a row's residual that is taken for its own


Regression = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""From pairs' differences, float64 [pairs], to gamma [features] and what each pair pulls it by, [pairs, features].

The squares of the pulls sum to gamma's variance.
"""


@dataclass(frozen=True)
class Pairs:
    """Pairs of a coalition and its complement, as rows of the regression.

    Attributes:
        sizes: int64 [pairs], of the first of each pair.
        share: of all features, how many are in it, float64 [pairs].
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
        """Weighted least squares, which hold for whatever is observed of these pairs; `weights` are float64 [pairs].

        The pulls are those of White (1980), with residuals as in HC2 (MacKinnon & White 1985): HC3's are those of fits
        without their own pair, and where pairs are few these miss by more than the fit does.
        """
        weighted = self.design * weights[:, None]
        # Σ zᵢ = 0 in every row, so that the matrix is singular by one at least; so is the solution's sum 0.
        inverse = np.linalg.pinv(self.design.T @ weighted, rcond=SINGULAR, hermitian=True)
        projector = weighted @ inverse  # [pairs, features]
        leverage = np.einsum("pf,pf->p", projector, self.design)
        free = np.sqrt(np.maximum(1 - leverage, _FREE))

        def regress(differences: FloatArray) -> tuple[FloatArray, FloatArray]:
            gamma: FloatArray = differences @ projector
            residuals = (differences - self.design @ gamma) / free
            pulls: FloatArray = projector * residuals[:, None]
            return gamma, pulls

        return regress


def kernel(features: int) -> FloatArray:
    """The Shapley kernel's share of all coalitions of each size 1..d−1 together, float64 [features − 1], sum 1."""
    sizes = np.arange(1, features)
    layer_weights = 1 / (sizes * (features - sizes))
    share: FloatArray = layer_weights / layer_weights.sum()
    return share


def of_one_feature(ends: FloatArray) -> Estimate:
    """The exact answer of a game with a single feature, from the values of the empty and the full coalition, [2]."""
    return Estimate(np.diff(ends), np.zeros(1), converged=True, completeness_error=0.0)


@dataclass(frozen=True)
class EnumerationExplainer:
    """Shapley values from all coalitions, which are asked for in random order.

    So what is known when time runs out is a sample without replacement, with standard errors that shrink to 0 as it
    becomes the whole.
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
        ends = yield from game(empty_and_full(self.features))
        if not np.isfinite(ends).all():
            yield Estimate.nothing(self.features, StopReason.DURATION)
        elif self.features == 1:
            yield replace(with_rows(of_one_feature, empty_and_full(1), ends), stop=StopReason.COMPLETE)
        else:
            yield from anytime(
                game,
                self._draws(),
                lambda coalitions, values: self._estimate(coalitions, np.concatenate([ends, values.ravel()])),
                rows=2,
                blocks=self._pairs,
                stopping=Stopping(self.budget.standard_error, enough=4 * self.features),
                end=StopReason.COMPLETE,
            )

    @property
    def _pairs(self) -> int:
        return self.max_evaluations // 2 - 1

    def _draws(self) -> Iterator[BoolArray]:
        """Every pair once: the number of a pair's first coalition is its members in binary, the last one left out."""
        members = 1 << np.arange(self.features, dtype=np.int64)
        for number in np.random.default_rng(self.budget.seed).permutation(self._pairs) + 1:
            coalition = (number & members) > 0
            yield np.stack([coalition, ~coalition])

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From `coalitions` [pairs, 2, features], and the values of both ends and theirs, [2 + 2 · pairs]."""
        pairs = Pairs.of(coalitions)
        left_out = 1 - len(pairs) / self._pairs
        if left_out and len(pairs) < 2 * self.features:
            return Estimate.nothing(self.features)
        each = kernel(self.features) / [math.comb(self.features, size) for size in range(1, self.features)]
        regress = pairs.regression(each[pairs.sizes - 1])

        def estimate(values: FloatArray) -> Estimate:
            gain = float(values[1] - values[0])
            gamma, pulls = regress(pairs.differences(values[2:].reshape(-1, 2), gain))
            attributions = gain / self.features + gamma
            # The share that is left out is the sampling theory's correction for finite populations (Cochran 1977).
            standard_errors = np.sqrt(left_out * (pulls**2).sum(axis=0))
            return Estimate(
                attributions=attributions,
                standard_errors=standard_errors,
                converged=has_converged(attributions, standard_errors, self.budget.standard_error),
                completeness_error=completeness_error(attributions, gain),
            )

        return with_rows(estimate, with_ends(coalitions), values)
