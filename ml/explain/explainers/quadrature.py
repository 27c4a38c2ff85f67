"""Quadrature rules on [0, 1]: one of a given size, and nested ones that reuse their points."""

from __future__ import annotations

import numpy as np

from ml.explain.estimator import FloatArray

COARSEST = 3
"""Intervals of the first nested rule: after four doublings there are 49 points."""


def gauss_legendre(points: int) -> tuple[FloatArray, FloatArray]:
    """Points and weights, float64 [points] each: exact for polynomials up to degree 2 · points − 1."""
    at, weights = np.polynomial.legendre.leggauss(points)
    return (at + 1) / 2, weights / 2


def clenshaw_curtis(intervals: int) -> tuple[FloatArray, FloatArray]:
    """Points and weights, float64 [intervals + 1] each, both ends among the points (Clenshaw & Curtis 1960).

    The rule with twice the intervals has all of its points. For smooth functions it is hardly less exact than the
    Gauss-Legendre rule of equal size (Trefethen 2008).
    """
    place = np.arange(intervals + 1)
    angles = np.pi * place / intervals
    weights = np.ones(intervals + 1)
    for k in range(1, intervals // 2 + 1):
        share = 1 if 2 * k == intervals else 2
        weights -= share / (4 * k * k - 1) * np.cos(2 * k * angles)
    weights *= np.where((place == 0) | (place == intervals), 1, 2) / (2 * intervals)
    return (1 - np.cos(angles)) / 2, weights


def nested(max_points: int) -> list[int]:
    """Intervals of the nested rules with at most `max_points`, the coarsest first; always at least two rules."""
    sizes = [COARSEST, 2 * COARSEST]
    while 2 * sizes[-1] + 1 <= max_points:
        sizes.append(2 * sizes[-1])
    return sizes
