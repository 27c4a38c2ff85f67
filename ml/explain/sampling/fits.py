"""From a surrogate's fit to an estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ml.explain.estimator import BoolArray, Estimate, FloatArray, with_rows
from ml.explain.sampling.errors import has_converged, stability
from ml.explain.sampling.surrogates import Fit, Fitter


def fitted(
    fit: Fitter,
    halve: Callable[[BoolArray], Fitter],
    coalitions: BoolArray,
    values: FloatArray,
    limit: float | None,
    *,
    fixed: int = 0,
) -> Estimate:
    """The estimate by a surrogate's `fit` to `values` [n] of `coalitions` [n, features].

    Args:
        halve: makes the surrogate for either half of the coalitions, which the stability compares.
        limit: the standard error that is asked for, if any.
        fixed: how many of the first coalitions are not drawn, and belong to both halves.
    """
    rows = np.arange(len(values))
    parts = [np.concatenate([rows[:fixed], rows[fixed + half :: 2]]) for half in (0, 1)]
    halves = [halve(coalitions[part])(values[part], errors=False).attributions for part in parts]
    found = with_rows(lambda values: of_fit(fit(values)), coalitions, values)
    return replace(
        found,
        converged=has_converged(found.attributions, found.standard_errors, limit),
        stability=stability(*halves) if len(values) >= 4 + fixed else None,
    )


def exactly_fitted(fit: Fitter, coalitions: BoolArray, values: FloatArray) -> Estimate:
    """The exact estimate by a surrogate's `fit` to `values` [n] of all coalitions."""

    def estimate(values: FloatArray) -> Estimate:
        return replace(of_fit(fit(values, errors=False)), standard_errors=np.zeros(coalitions.shape[1]))

    return replace(with_rows(estimate, coalitions, values), converged=True)


def of_fit(fit: Fit) -> Estimate:
    """A fit as an estimate."""
    return Estimate(
        fit.attributions,
        fit.standard_errors,
        surrogate=fit.surrogate,
        freedom=fit.freedom,
        surprise=fit.surprise,
        missed_in=fit.missed_in,
    )


def in_order(coalitions: BoolArray, values: FloatArray) -> tuple[BoolArray, FloatArray]:
    """All coalitions [n, features] and their values in a fixed order, so that ties are broken alike for any seed."""
    order = np.lexsort(coalitions.T)
    return coalitions[order], values[order]
