"""Exact Shapley values of games that are products: v(S) = Π over i in S of presentᵢ · Π over i not in S of absentᵢ.

Over the multilinear extension, in which every player takes part with probability q, Shapley values are an integral
(Owen 1972):

    φᵢ = (presentᵢ − absentᵢ) ∫₀¹ Π over j ≠ i of (q presentⱼ + (1 − q) absentⱼ) dq.

The product is a polynomial of degree d − 1 in q, which Gauss's and Legendre's rule of d/2 points integrates exactly.
"""

from __future__ import annotations

import numpy as np

from ml.explain.estimator import FloatArray


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


def _rule(features: int) -> tuple[FloatArray, FloatArray]:
    """Points and weights on [0, 1], exact for polynomials of degree features − 1."""
    points, weights = np.polynomial.legendre.leggauss(features // 2 + 1)
    return (points + 1) / 2, weights / 2
