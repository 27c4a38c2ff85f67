"""Standard errors of sampled estimates, and other measures of their quality.

The probability of a long continuation may be 1e-200, whose square is 0 in float64. So squares are summed by `hypot`.
"""

from __future__ import annotations

import math

import numpy as np

from ml.explain.estimator import FloatArray, IntArray

_PRIOR_FREEDOM = 8
"""The weight of the mean variance of all features beside a feature's own, in degrees of freedom."""


def root_sum_of_squares(values: FloatArray, axis: int = 0) -> FloatArray:
    """√Σ values² along an axis, however small they are."""
    return np.asarray(np.hypot.reduce(values, axis=axis))


def deviation(values: FloatArray, axis: int = 0) -> FloatArray:
    """The standard deviation of a sample of two or more along an axis, however small it is."""
    centred = values - values.mean(axis=axis, keepdims=True)
    return np.asarray(root_sum_of_squares(centred, axis) / math.sqrt(values.shape[axis] - 1))


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
    standard_errors = np.zeros(influences.shape[1])
    for stratum in np.unique(strata):
        own = influences[strata == stratum]
        many = len(own)
        centred = own - own.mean(axis=0) if many > 1 else own
        share = math.sqrt((1 - many / counts[stratum]) * many / max(1, many - 1))
        standard_errors = np.hypot(standard_errors, share * root_sum_of_squares(centred))
    return standard_errors


def moderated(errors: FloatArray, freedom: FloatArray, prior: int = _PRIOR_FREEDOM) -> tuple[FloatArray, float]:
    """Shrink standard `errors` [answers], known by so many degrees of `freedom` [answers], to their root mean square.

    A feature that has not mattered yet in a few samples looks more certain than it is. So the mean variance of all
    features counts for a few degrees of freedom beside a feature's own (as in Smyth 2004).

    Args:
        prior: how many degrees of freedom the mean variance counts for.

    Returns:
        The moderated errors, and their degrees of freedom.
    """
    mean = root_sum_of_squares(errors) / math.sqrt(len(errors))
    weighted = np.hypot(np.sqrt(freedom) * errors, math.sqrt(prior) * mean)
    together: FloatArray = weighted / np.sqrt(freedom + prior)
    return together, math.floor(prior + float(np.median(freedom)))


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
