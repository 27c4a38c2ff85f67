"""Converts intervals to another confidence level, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

_MANY = 1e6
"""Degrees of freedom from which the distribution is the normal one."""
_HALVINGS = 80
_TERMS = 120


@lru_cache
def widened(reach: float, level: float, wanted: float) -> float:
    """Half the width of an interval at the level `wanted`, in standard errors.

    Args:
        reach: the same at `level`, which gives the degrees of freedom.
    """
    tail = (1 - level) / 2
    if reach <= -NormalDist().inv_cdf(tail) * (1 + 1e-9):
        return -NormalDist().inv_cdf((1 - wanted) / 2)
    freedom = _root(lambda each: tail_of(reach, each) - tail, 0.5, _MANY)
    return quantile((1 - wanted) / 2, freedom)


def quantile(tail: float, freedom: float) -> float:
    """The value that Student's t with `freedom` degrees exceeds with probability `tail`, below ½."""
    if freedom >= _MANY:
        return -NormalDist().inv_cdf(tail)
    return _root(lambda value: tail_of(value, freedom) - tail, 1e-9, 1e15)


def tail_of(value: float, freedom: float) -> float:
    """The probability that Student's t with `freedom` degrees exceeds a positive `value`: half of I_x(ν/2, ½)."""
    return _incomplete_beta(freedom / (freedom + value * value), freedom / 2, 0.5) / 2


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """The root of a decreasing function of positive numbers, by bisection of the logarithm."""
    for _ in range(_HALVINGS):
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return math.sqrt(low) * math.sqrt(high)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction of the complement converges faster
        return 1 - _incomplete_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d₁/(1 + d₂/(1 + …)), from the last term: terms decrease fast for the arguments of `_incomplete_beta`."""
    value = 1.0
    for term in range(_TERMS, 0, -1):
        half, odd = divmod(term, 2)
        if odd:
            factor = -(a + half) * (a + b + half) / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            factor = half * (b - half) / ((a + 2 * half - 1) * (a + 2 * half))
        value = 1 + factor * x / value
    return value
