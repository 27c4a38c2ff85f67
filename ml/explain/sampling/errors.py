"""Standard errors of sampled estimates, and other measures of their quality.

The probability of a long continuation may be 1e-200, whose square is 0 in float64. So squares are summed by `hypot`.
"""

from __future__ import annotations

import math

import numpy as np

from ml.explain.estimator import FloatArray, IntArray

_MIN_FREE = 1e-6
"""The least value of 1 − leverage."""
PULL_OF_STRATA = 0.5
"""As in `free`, where the means of strata are subtracted too, and there are more samples than coefficients.

LIME's ridge then reports 0.98 to 1.19 of the true errors with 1.25 to 4 samples for each of 20 or 40 coefficients,
where a pull of 1 makes it 1.0 to 1.7; KernelSHAP 0.95 to 1.08 from two pairs for each feature on.
"""
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
    features counts for a few degrees of freedom beside a feature's own (as in Smyth 2004). But where variances differ
    by more than their degrees of freedom explain, one above the mean is really larger, and shrunk by less: its own
    share is at least the credibility of Bühlmann & Straub (1970).

    Args:
        prior: how many degrees of freedom the mean variance counts for. The returned ones count no more of them than it
            has itself, which are few where samples are, or where one feature's variance is most of it; and none but
            those by which variances were shrunk.

    Returns:
        The moderated errors, and their degrees of freedom.
    """
    mean = float(root_sum_of_squares(errors)) / math.sqrt(len(errors))
    fixed = freedom / (freedom + prior)
    variances = (errors / (mean or 1.0)) ** 2
    own = np.maximum(fixed, _credibility(variances, freedom))
    share = np.where(variances > 1, own, fixed)
    together: FloatArray = mean * np.sqrt(share * variances + 1 - share)
    counted = float(np.median(np.where(own > fixed, freedom * (1 - own) / own, prior)))
    return together, math.floor(min(counted, _freedom_of_mean(errors, freedom)) + float(np.median(freedom)))


def _credibility(variances: FloatArray, freedom: FloatArray) -> FloatArray:
    """Which share of a variance's distance from the mean is no chance, 0 to 1, [n].

    Variances of samples with ν degrees of freedom vary by 2σ⁴/ν. What they vary by beyond that is how the true ones
    differ.

    Args:
        variances: with a mean of 1, [n].
    """
    if len(variances) < 3:
        return np.zeros(len(variances))
    chance = 2 / freedom
    differ = max(0.0, float((variances.var(ddof=1) - chance.mean()) / (1 + chance.mean())))
    return np.asarray(differ / (differ + chance * (1 + differ)))


def _freedom_of_mean(errors: FloatArray, freedom: FloatArray) -> float:
    """Degrees of freedom of the mean variance: (Σ v)² / Σ (v² / ν) of variances v with ν each (Satterthwaite 1946)."""
    largest = float(errors.max())
    if largest == 0:
        return math.inf
    variances = (errors / largest) ** 2  # squares of tiny errors would underflow
    return float(variances.sum() ** 2 / (variances**2 / freedom).sum())


def free(leverage: FloatArray, pull: float = 1.0) -> FloatArray:
    """By what to divide residuals of a regression so that they show its errors, from the `leverage` h [n] of samples.

    √(1 − h) is right for many samples (HC2; MacKinnon & White 1985), and too large where a fit has nearly as many
    coefficients as samples: its residuals then vanish. 1 − h gives those of a fit without the sample (HC3, nearly the
    jackknife). The power between them grows with the mean leverage, which is the coefficients for each sample.

    Args:
        pull: by how much of the mean leverage the power nears HC3's, at most 1.
    """
    power = (1 + pull * float(leverage.mean())) / 2
    # A sample that the fit must pass through shows nothing of its own error; keep its term finite.
    return np.asarray(np.maximum(1 - leverage, _MIN_FREE) ** power)


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
