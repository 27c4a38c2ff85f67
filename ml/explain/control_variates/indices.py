"""Shapley values and Shapley interaction indices, which are linear in a game's values.

The index of a set of features M (Grabisch & Roubens 1999) is what they do together beyond what fewer of them do:

    I(M) = Σ over S ⊆ N∖M of s! (d − s − m)! / (d − m + 1)! · Σ over L ⊆ M of (−1)^(m − |L|) v(S ∪ L),    m = |M|.

For one feature it is the Shapley value; for two, Σ s! (d − s − 2)! / (d − 1)! [v(S ∪ ij) − v(S ∪ i) − v(S ∪ j) + v(S)].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml.explain.control_variates.covariance import Covariance
from ml.explain.estimator import BoolArray, FloatArray, IntArray

_AT_ONCE = 1 << 21  # numbers in a matrix of coalitions by answers: 16 MB


@dataclass(frozen=True)
class Index:
    """I(M) of features or pairs M; see `linear.Linear`.

    Attributes:
        members: int64 [order, answers], the features in each M: one, or two in ascending order.
    """

    features: int
    members: IntArray

    @classmethod
    def of_features(cls, features: int) -> Index:
        """The Shapley values of all features."""
        return cls(features, np.arange(features)[None])

    @classmethod
    def of_pairs(cls, features: int) -> Index:
        """The interaction indices of all pairs."""
        return cls(features, np.array(np.triu_indices(features, 1)))

    @property
    def order(self) -> int:
        """1 or 2."""
        return len(self.members)

    def chunks(self, rows: int) -> Iterator[Index]:
        """See `linear.Linear`."""
        answers = self.members.shape[1]
        for part in np.array_split(self.members, math.ceil(answers * rows / _AT_ONCE), axis=1):
            if part.size:
                yield Index(self.features, part)

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """See `linear.Linear`."""
        present = sum(coalitions[:, each].astype(np.int8) for each in self.members)
        weights: FloatArray = self._by_size[coalitions.sum(axis=1)[:, None], present]
        return weights

    def cross(self, covariance: Covariance, others: BoolArray) -> FloatArray:
        """See `linear.Linear`."""
        if self.order == 2:
            return covariance.interactions(others, self.members)
        shapley: FloatArray = covariance.shapley(others)[self.members[0]]
        return shapley

    @property
    def are_many(self) -> bool:
        """See `linear.Linear`."""
        return self.order == 2

    def prior(self, covariance: Covariance) -> FloatArray:
        """See `linear.Linear`."""
        others = self.features - self.order
        rarities = sum(1 / math.comb(others, size) for size in range(others + 1))
        squares = 2**self.order * rarities / (others + 1) ** 2  # Σ of squared weights over all coalitions
        if self.order == 2:
            variances = covariance.interactions_variance(self.members)
        else:
            variances = covariance.shapley_variance()[self.members[0]]
        return np.asarray(variances + covariance.noise * squares)

    @cached_property
    def _by_size(self) -> FloatArray:
        """Weights by a coalition's size and how many of M are in it, [features + 1, order + 1]; 0 if impossible."""
        weights, others = np.zeros((self.features + 1, self.order + 1)), self.features - self.order
        for size in range(others + 1):
            for overlap in range(self.order + 1):
                sign = (-1) ** (self.order - overlap)
                weights[size + overlap, overlap] = sign / ((others + 1) * math.comb(others, size))
        return weights
