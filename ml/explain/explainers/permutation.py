"""Shapley values by permutations: the mean contribution of a feature when features join in random order.

Sampled permutations (Castro, Gómez & Tejada 2009), each with its reverse (antithetic; Mitchell et al. 2022): a feature
that joins early in one joins late in the other, so that their mean varies less than that of two independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ml import spec
from ml.explain.estimator import (
    BoolArray,
    Estimate,
    Estimating,
    FloatArray,
    Game,
    with_ends,
    with_rows,
)
from ml.explain.sampling.anytime import anytime_from_ends
from ml.explain.sampling.draws import DEFAULT_SAMPLES
from ml.explain.sampling.errors import completeness_error, deviation, has_converged, moderated, stability
from ml.explain.sampling.stopping import Stopping

_ENOUGH_PAIRS = 16


@dataclass(frozen=True)
class PermutationExplainer:
    """Growing numbers of permutations with their reverses, until a limit of the budget.

    For games with more coalitions than the budget allows; `EnumerationExplainer` is for the others.
    """

    features: int
    budget: spec.Budget

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition, and those between them in as many permutations as the budget allows."""
        return 2 + self._pairs * self._rows

    @property
    def min_evaluations(self) -> int:
        """Two pairs, as a single one has no standard error; or all coalitions, if fewer."""
        return min(2 + 2 * self._rows, int(2**self.features))

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for the coalitions of pairs of permutations.

        Standard errors are believed from 16 pairs on: features that rarely matter may not have mattered yet, and look
        more certain than they are.
        """
        return anytime_from_ends(
            game,
            self._draws(),
            self._estimate,
            nothing=Estimate.nothing(self.features),
            rows=self._rows,
            blocks=self._pairs,
            stopping=Stopping.of(self.budget, _ENOUGH_PAIRS),
        )

    @property
    def _rows(self) -> int:
        """Coalitions between the empty and the full one, in a permutation and its reverse."""
        return 2 * (self.features - 1)

    @property
    def _pairs(self) -> int:
        limit = self.budget.max_evaluations or max(DEFAULT_SAMPLES, 2 + 2 * self._rows)
        return (limit - 2) // self._rows

    def _draws(self) -> Iterator[BoolArray]:
        random = np.random.default_rng(self.budget.seed)
        joined = np.arange(1, self.features)[:, None]  # how many features are present at each step
        while True:
            ranks = random.permutation(self.features)
            yield np.concatenate([ranks < joined, ranks >= self.features - joined])

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From `coalitions` [pairs, rows, features], and values of empty, full and these, [2 + pairs · rows]."""
        pairs, rows, _ = coalitions.shape
        if pairs < 2:
            return Estimate.nothing(self.features)

        def estimate(values: FloatArray) -> Estimate:
            empty, whole = values[:2].tolist()
            contributions = _contributions(coalitions, values[2:].reshape(pairs, rows), empty, whole)
            attributions = contributions.mean(axis=0)
            own = deviation(contributions) / math.sqrt(pairs)
            standard_errors, freedom = moderated(own, np.full(self.features, pairs - 1.0))
            return Estimate(
                attributions=attributions,
                standard_errors=standard_errors,
                converged=has_converged(attributions, standard_errors, self.budget.standard_error),
                stability=stability(contributions[0::2].mean(axis=0), contributions[1::2].mean(axis=0)),
                freedom=freedom,
                completeness_error=completeness_error(attributions, whole - empty),
            )

        return with_rows(estimate, with_ends(coalitions), values)


def _contributions(coalitions: BoolArray, values: FloatArray, empty: float, whole: float) -> FloatArray:
    """What each feature adds when it joins, mean over a permutation and its reverse.

    Args:
        coalitions: the inner ones of the permutation, and then those of its reverse, [pairs, rows, features].
        values: their values, [pairs, rows].

    Returns:
        [pairs, features].
    """
    pairs, _, features = coalitions.shape
    walked = np.pad(values.reshape(pairs, 2, features - 1), ((0, 0), (0, 0), (1, 1)))
    walked[..., 0], walked[..., -1] = empty, whole
    added = np.diff(walked, axis=-1)  # [pairs, 2, features], in the order of joining
    # A feature that joins at step k is absent from the k coalitions before, of the features − 1 inner ones.
    steps = features - 1 - coalitions.reshape(pairs, 2, features - 1, features).sum(axis=2)
    contributions: FloatArray = np.take_along_axis(added, steps, axis=-1).mean(axis=1)
    return contributions
