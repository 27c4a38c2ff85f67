"""Standard errors of sampled estimates, and other measures of their quality."""

from __future__ import annotations

import math

import numpy as np

from ml.explain.estimator import FloatArray, IntArray

_PRIOR_FREEDOM = 8
"""The weight of the mean variance of all features beside a feature's own, in degrees of freedom."""


def has_converged(attributions: FloatArray, standard_errors: FloatArray, limit: float | None) -> bool:
    """Whether all standard errors are within the limit, or without one within a tenth of the largest attribution."""
    return bool(standard_errors.max() <= (np.abs(attributions).max() / 10 if limit is None else limit))


def completeness_error(attributions: FloatArray, gain: float) -> float:
    """By how much attributions miss v(N) − v(∅), which they should sum to."""
    return abs(float(attributions.sum()) - gain)


def stability(first: FloatArray, second: FloatArray) -> float | None:
    """Pearson correlation between the attributions of two halves of the samples; None where it has no meaning."""
    if len(first) < 3 or min(np.ptp(first), np.ptp(second)) == 0:
        return None  # any two points lie on a line
    first, second = (each / np.abs(each).max() for each in (first, second))  # squares of tiny ones would underflow
    correlation = float(np.corrcoef(first, second)[0, 1])
    return correlation if np.isfinite(correlation) else None


def stratified(influences: FloatArray, strata: IntArray, counts: FloatArray) -> FloatArray:
    """Standard errors of the sum of `influences` [n, features], drawn without replacement from strata of `counts`.

    The stratified variance with its correction for finite populations (Cochran 1977). A single draw does not show its
    stratum's mean: all of it counts.

    Args:
        strata: which one each was drawn from, int64 [n].
        counts: the size of each stratum, float64 [strata].
    """
    variance = np.zeros(influences.shape[1])
    for stratum in np.unique(strata):
        own = influences[strata == stratum]
        many = len(own)
        centred = own - own.mean(axis=0) if many > 1 else own
        variance += (1 - many / counts[stratum]) * many / max(1, many - 1) * (centred**2).sum(axis=0)
    standard_errors: FloatArray = np.sqrt(variance)
    return standard_errors


def moderated(variances: FloatArray, freedom: FloatArray) -> tuple[FloatArray, float]:
    """Shrink variances [answers], known by so many degrees of `freedom` [answers], to their mean (as in Smyth 2004).

    A feature that has not mattered yet in a few samples looks more certain than it is. So the mean over all features
    counts for a few degrees of freedom beside a feature's own variance.

    Returns:
        The moderated variances, and their degrees of freedom.
    """
    mean = float(variances.mean())
    together: FloatArray = (freedom * variances + _PRIOR_FREEDOM * mean) / (freedom + _PRIOR_FREEDOM)
    return together, math.floor(_PRIOR_FREEDOM + float(np.median(freedom)))


def freedom_of(squares: FloatArray, fourths: FloatArray, many: int) -> FloatArray:
    """Degrees of freedom of variances that are sums of `many` squares, by how much these vary (Satterthwaite 1946).

    Args:
        squares: the sums of squares, float64 [answers].
        fourths: the sums of fourth powers, float64 [answers].
    """
    spread = fourths - squares**2 / many
    freedom = np.divide(2 * squares**2, spread, out=np.full(squares.shape, np.inf), where=spread > 0)
    clipped: FloatArray = np.clip(freedom, 1, max(1, many - 1))
    return clipped
