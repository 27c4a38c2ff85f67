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

import itertools
from collections.abc import Iterator

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


def shapley_twice(factors: FloatArray) -> FloatArray:
    """The Shapley values over S of the Shapley values over T of v(S, T), a product of positive, symmetric factors.

    Args:
        factors: by each feature's presence in S and in T, float64 [features, 2, 2].

    Returns:
        [features].
    """
    integral = np.zeros(len(factors))
    for weighted, _ in _integrand(factors, len(factors)):
        integral += weighted.sum(axis=0)
    return _both(factors) * integral


def interactions_twice(factors: FloatArray, pairs: IntArray) -> FloatArray:
    """The interaction index over S of the interaction index over T; see `shapley_twice`.

    Args:
        pairs: int64 [2, pairs].

    Returns:
        [pairs].
    """
    first, second = pairs
    integral, both = np.zeros((len(factors), len(factors))), _both(factors)
    for weighted, inverse in _integrand(factors, len(factors) - 1):
        integral += weighted.T @ inverse
    return np.asarray(integral[first, second] * both[first] * both[second])


def _integrand(factors: FloatArray, others: int) -> Iterator[tuple[FloatArray, FloatArray]]:
    """The product without each factor, times its weight, at the points of a rule for both probabilities.

    Also the inverse of each factor. Yields [points, features] twice, for some points each time: all of them together
    are the third power of the features, 2 GB for 1,000.
    """
    points, weights = _rule(others)
    first, second = np.triu_indices(len(points))  # the other half is the same
    weights = np.where(first < second, 2, 1) * weights[first] * weights[second]
    by_presence = np.stack([factors[:, 0, 0], factors[:, 0, 1], factors[:, 1, 1]])  # in none, in one, in both
    size = max(1, _MAX_NUMBERS // len(factors))
    for start in range(0, len(weights), size):
        some = slice(start, start + size)
        p, q = points[first[some]], points[second[some]]
        each = np.stack([(1 - p) * (1 - q), p + q - 2 * p * q, p * q], axis=1) @ by_presence
        inverse = 1 / each
        yield inverse * (weights[some, None] * each.prod(axis=1, keepdims=True)), inverse


def _both(factors: FloatArray) -> FloatArray:
    """The difference over S of the difference over T that each factor makes, [features]."""
    both: FloatArray = factors[:, 1, 1] - factors[:, 1, 0] - factors[:, 0, 1] + factors[:, 0, 0]
    return both


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


def by_size_twice(factors: FloatArray, every: FloatArray, own: FloatArray) -> FloatArray:
    """Σ w(S) w(T) v(S, T) for each player over all pairs of coalitions, of a product v with symmetric factors.

    Args:
        factors: by each player's presence in S and in T, float64 [players, 2, 2].
        every: the part of w that is the same for all coalitions of a size: their weights together, float64
            [players + 1].
        own: as `every`, what w is more for coalitions with the player.

    Returns:
        [players].
    """
    players = len(factors)
    means = np.zeros((players + 1, players + 1, players + 1))  # by players, members of S, members of T
    means[0, 0, 0] = 1
    for j in range(1, players + 1):
        for s, t, share in _joining(factors[j - 1], j):
            means[j, s : j + s, t : j + t] += share * means[j - 1, :j, :j]
    sums = np.full(players, every @ means[players] @ every)
    weights = np.stack([np.outer(every, own), np.outer(own, own)])
    for j in range(players, 0, -1):
        before, left = means[j - 1, :j, :j], np.zeros((2, j, j))
        for s, t, share in _joining(factors[j - 1], j):
            part = share * weights[:, s : j + s, t : j + t]
            left += part
            if t:
                sums[j - 1] += 2 * float((part[0] * before).sum())
            if s and t:
                sums[j - 1] += float((part[1] * before).sum())
        weights = left
    return sums


def _joining(factor: FloatArray, players: int) -> Iterator[tuple[int, int, FloatArray]]:
    """Whether the last of so many players is in S and in T, and the share of such coalitions times its factor.

    Shares are by the members of S and of T among the others, [players, players].
    """
    with_last = np.arange(1, players + 1) / players
    shares = (with_last[::-1], with_last)  # without, with
    for s, t in itertools.product((0, 1), repeat=2):
        yield s, t, factor[s, t] * np.outer(shares[s], shares[t])


def _rule(features: int) -> tuple[FloatArray, FloatArray]:
    """The points and weights of a rule on [0, 1] that is exact for polynomials of degree features − 1."""
    points, weights = np.polynomial.legendre.leggauss(features // 2 + 1)
    return (points + 1) / 2, weights / 2
