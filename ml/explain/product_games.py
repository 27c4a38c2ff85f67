"""Exact Shapley values of games that are products: v(S) = Π over i in S of presentᵢ · Π over i not in S of absentᵢ.

Over the multilinear extension, in which every player takes part with probability q, Shapley values are an integral
(Owen 1972):

    φᵢ = (presentᵢ − absentᵢ) ∫₀¹ Π over j ≠ i of (q presentⱼ + (1 − q) absentⱼ) dq.

The product is a polynomial of degree d − 1 in q, which Gauss's and Legendre's rule of d/2 points integrates exactly.
So are the Shapley interaction indices of pairs (Grabisch, Marichal & Roubens 2000), with both players' differences
before the integral, and neither of them in the product.
"""

from __future__ import annotations

import numpy as np

from ml.explain.estimator import FloatArray, IntArray

_MOST = 1 << 18
"""Factors at once: as many as the processor's cache holds."""


def shapley(present: FloatArray, absent: FloatArray) -> FloatArray:
    """Of games with positive factors `present` and `absent`, float64 [games, features]. Returns [games, features]."""
    integral = np.zeros(present.shape)
    for q, weight in zip(*_rule(present.shape[1]), strict=True):
        factors = q * present + (1 - q) * absent
        integral += weight * factors.prod(axis=1, keepdims=True) / factors
    return (present - absent) * integral


def shapley_twice(factors: FloatArray) -> FloatArray:
    """Of v(S, T), a product of positive `factors` [features, 2, 2], of i's presence in S and in T: φᵢ by S of φᵢ by T.

    Returns [features].
    """
    points, weights = _rule(len(factors))
    share = np.stack([1 - points, points])  # [2, points]
    each = np.einsum("sp,tr,fst->prf", share, share, factors)
    integral: FloatArray = np.einsum("p,r,prf->f", weights, weights, each.prod(axis=2, keepdims=True) / each)
    both = factors[:, 1, 1] - factors[:, 1, 0] - factors[:, 0, 1] + factors[:, 0, 0]
    return both * integral


def interactions(present: FloatArray, absent: FloatArray, pairs: IntArray) -> FloatArray:
    """As `shapley`, of `pairs` of features, int64 [2, pairs] in ascending order. Returns [games, pairs]."""
    first, second = pairs
    rows = slice(first[0], first[-1] + 1)
    points, weights = (each[:, None] for each in _rule(present.shape[1] - 1))
    integral = np.empty((len(present), len(first)))
    size = max(1, _MOST // (len(points) * present.shape[1]))
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
    """As `shapley_twice`, of `pairs` of features, int64 [2, pairs]. Returns [pairs]."""
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


def _rule(features: int) -> tuple[FloatArray, FloatArray]:
    """Points and weights on [0, 1], exact for polynomials of degree features − 1."""
    points, weights = np.polynomial.legendre.leggauss(features // 2 + 1)
    return (points + 1) / 2, weights / 2
