"""How many coalitions there are, and how many of them to draw."""

from __future__ import annotations

import math

import numpy as np

from ml import spec
from ml.explain.estimator import FloatArray

DEFAULT_SAMPLES = 1000
"""Evaluations where the budget names none."""
GOLDEN = (5**0.5 - 1) / 2
"""The golden ratio's fraction: its multiples modulo 1 fill the unit interval evenly, however many (Weyl 1916)."""


def is_enumerable(features: int, budget: spec.Budget) -> bool:
    """Whether all coalitions are within the budget, so that none need be drawn."""
    return features < 63 and 2**features <= (budget.max_evaluations or DEFAULT_SAMPLES)


def subset_counts(features: int) -> FloatArray:
    """How many coalitions of each size 0..d there are, float64 [features + 1]; 1e300 for more."""
    return np.array([float(min(math.comb(features, size), 10**300)) for size in range(features + 1)])
