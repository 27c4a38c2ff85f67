"""Standard errors of what is sampled, and what else tells how far an estimate may be off."""

from __future__ import annotations

import math

import numpy as np

from ml.explain.estimator import FloatArray, IntArray

_PRIOR_FREEDOM = 8
"""What the mean of all features' variances counts for beside a feature's own."""


def has_converged(attributions: FloatArray, standard_errors: FloatArray, limit: float | None) -> bool:
    """Whether the largest standard error is within the limit, or without one within a tenth of the largest value."""
    return bool(standard_errors.max() <= (np.abs(attributions).max() / 10 if limit is None else limit))


def completeness_error(attributions: FloatArray, gain: float) -> float:
    """How far attributions are from what they promise to sum to, v(N) − v(∅)."""
    return abs(float(attributions.sum()) - gain)


def stability(first: FloatArray, second: FloatArray) -> float | None:
    """Pearson correlation between the attributions of two halves of the samples, where it means anything."""
    if len(first) < 3 or min(np.ptp(first), np.ptp(second)) == 0:
        return None  # any two points lie on a line
    first, second = (each / np.abs(each).max() for each in (first, second))  # squares of the smallest ones would be 0
    correlation = float(np.corrcoef(first, second)[0, 1])
    return correlation if np.isfinite(correlation) else None


def stratified(pulls: FloatArray, strata: IntArray, counts: FloatArray) -> FloatArray:
    """Standard errors of the sum of `pulls` [n, features], drawn without replacement from strata of `counts`.

    The stratified variance with its correction for finite populations (Cochran 1977). A stratum with one drawn does
    not show its mean: all of that one's pull counts.

    Args:
        strata: which one each was drawn from, int64 [n].
        counts: how many there are in each, float64 [strata].
    """
    variance = np.zeros(pulls.shape[1])
    for stratum in np.unique(strata):
        own = pulls[strata == stratum]
        many = len(own)
        centred = own - own.mean(axis=0) if many > 1 else own
        variance += (1 - many / counts[stratum]) * many / max(1, many - 1) * (centred**2).sum(axis=0)
    standard_errors: FloatArray = np.sqrt(variance)
    return standard_errors


def moderated(variances: FloatArray, freedom: FloatArray) -> tuple[FloatArray, float]:
    """Variances [answers] of which each is known by so many degrees of `freedom` [answers], each drawn to their mean.

    A feature that has not mattered yet in a few samples looks more certain than it is. So the mean over all of them
    counts for a few degrees of freedom beside a feature's own (as in Smyth 2004).

    Returns:
        The moderated variances, and their degrees of freedom.
    """
    mean = float(variances.mean())
    together: FloatArray = (freedom * variances + _PRIOR_FREEDOM * mean) / (freedom + _PRIOR_FREEDOM)
    return together, math.floor(_PRIOR_FREEDOM + float(np.median(freedom)))


def freedom_of(squares: FloatArray, fourths: FloatArray, many: int) -> FloatArray:
    """Degrees of freedom of variances that are sums of `many` squares, by how these differ (Satterthwaite 1946).

    Args:
        squares: their sums, float64 [answers]; `fourths`, those of their squares.
    """
    spread = fourths - squares**2 / many
    freedom = np.divide(2 * squares**2, spread, out=np.full(squares.shape, np.inf), where=spread > 0)
    clipped: FloatArray = np.clip(freedom, 1, max(1, many - 1))
    return clipped
