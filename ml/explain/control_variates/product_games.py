"""Exact Shapley values of games that are products: v(S) = Π over i in S of presentᵢ · Π over i not in S of absentᵢ.

By the multilinear extension, in which every player takes part with probability q, Shapley values are an integral (Owen
1972):

    φᵢ = (presentᵢ − absentᵢ) ∫₀¹ Π over j ≠ i of (q presentⱼ + (1 − q) absentⱼ) dq.

The product is a polynomial of degree d − 1 in q, which the Gauss-Legendre rule of d/2 points integrates exactly.
So are the Shapley interaction indices of pairs (Grabisch, Marichal & Roubens 2000), with both players' differences
before the integral, and neither of them in the product.

Sums in which a coalition's weight depends on its size are no such integral. They are computed player by player: the
mean over the coalitions of a size among the first j players follows from those among the first j − 1.
"""

from __future__ import annotations

import numpy as np

from ml.explain.estimator import FloatArray, IntArray

_MAX_NUMBERS = 1 << 18
"""Factors that are computed together: as many as fit the processor's cache."""


def shapley(present: FloatArray, absent: FloatArray) -> FloatArray:
    """Shapley values of games with positive factors, float64 [games, features] each. Returns [games, features]."""
    integral = np.zeros(present.shape)
    for q, weight in zip(*_rule(present.shape[1]), strict=True):
        factors = q * present + (1 - q) * absent
        integral += weight * factors.prod(axis=1, keepdims=True) / factors
    return (present - absent) * integral


def interactions(present: FloatArray, absent: FloatArray, pairs: IntArray) -> FloatArray:
    """Interaction indices of `pairs`, int64 [2, pairs] in ascending order; see `shapley`. Returns [games, pairs]."""
    first, second = pairs
    rows = slice(first[0], first[-1] + 1)
    points, weights = (each[:, None] for each in _rule(present.shape[1] - 1))
    integral = np.empty((len(present), len(first)))
    size = max(1, _MAX_NUMBERS // (len(points) * present.shape[1]))
    for start in range(0, len(present), size):
        some = slice(start, start + size)
        factors = points * present[some, None] + (1 - points) * absent[some, None]  # [games, points, features]
        inverse = 1 / factors
        weighted = inverse[:, :, rows] * (weights * factors.prod(axis=2, keepdims=True))
        integral[some] = (weighted.transpose(0, 2, 1) @ inverse)[:, first - rows.start, second]
    difference = present - absent
    integral *= difference[:, first]
    integral *= difference[:, second]
    return integral


def interactions_twice(factors: FloatArray, pairs: IntArray) -> FloatArray:
    """The interaction index over S of the interaction index over T of v(S, T), a product of positive factors.

    Args:
        factors: by each feature's presence in S and in T, float64 [features, 2, 2].
        pairs: int64 [2, pairs].

    Returns:
        [pairs].
    """
    first, second = pairs
    points, weights = _rule(len(factors) - 1)
    share = np.stack([1 - points, points])  # [2, points]
    each = np.einsum("sp,tr,fst->prf", share, share, factors).reshape(-1, len(factors))
    inverse = 1 / each
    weighted = inverse * (np.outer(weights, weights).reshape(-1, 1) * each.prod(axis=1, keepdims=True))
    integral: FloatArray = (weighted.T @ inverse)[first, second]
    both = factors[:, 1, 1] - factors[:, 1, 0] - factors[:, 0, 1] + factors[:, 0, 0]
    integral *= both[first] * both[second]
    return integral


def by_size(present: FloatArray, absent: FloatArray, size_weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Σ weight · v(S) over all coalitions, and over those of them with player i.

    Args:
        present, absent: factors, float64 [games, features].
        size_weights: the weight of all coalitions of each size together, float64 [features + 1].

    Returns:
        The sums over all, float64 [games], and over those with each player, [games, features].
    """
    games, features = present.shape
    total, own = np.empty(games), np.empty((games, features))
    rows = max(1, 4 * _MAX_NUMBERS // (features + 1) ** 2)
    for start in range(0, games, rows):
        some = slice(start, start + rows)
        total[some], own[some] = _by_size(present[some].T, absent[some].T, size_weights)
    return total, own


def _by_size(present: FloatArray, absent: FloatArray, size_weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """As `by_size`, of [features, games]: the means in a forward pass, and their weights in a backward pass."""
    features, games = present.shape
    sizes = np.arange(features + 1)[:, None]
    means = np.zeros((features + 1, features + 1, games))  # by players, members
    means[0, 0] = 1
    for j in range(1, features + 1):
        before, after = means[j - 1], means[j]
        np.multiply(before[:j], absent[j - 1] * ((j - sizes[:j]) / j), out=after[:j])
        after[1 : j + 1] += before[:j] * present[j - 1] * (sizes[1 : j + 1] / j)
    total = size_weights @ means[features]
    own = np.empty((features, games))
    counts = size_weights[:, None].repeat(games, axis=1)
    for j in range(features, 0, -1):
        joining = counts[1 : j + 1] * present[j - 1] * (sizes[1 : j + 1] / j)
        own[j - 1] = (joining * means[j - 1][:j]).sum(axis=0)
        counts = counts[:j] * absent[j - 1] * ((j - sizes[:j]) / j) + joining
    return total, own.T


def _rule(features: int) -> tuple[FloatArray, FloatArray]:
    """The points and weights of a rule on [0, 1] that is exact for polynomials of degree features − 1."""
    points, weights = np.polynomial.legendre.leggauss(features // 2 + 1)
    return (points + 1) / 2, weights / 2
