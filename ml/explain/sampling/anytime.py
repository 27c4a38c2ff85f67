"""What all sampling explainers do alike: ask for more and more, tell what is known by then, and know when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game, IntArray, batch_size, with_rows
from ml.explain.sampling.stopping import Stopping
from ml.explain.sampling.surrogates import Fit, Fitting
from ml.result import StopReason

DEFAULT_SAMPLES = 1000
PLAIN_GROWTH, CONTROLLED_GROWTH = 0.25, 0.5
"""How much more is asked for before each estimate: one with control variates takes tenths of a second."""
_FIRST_BATCH = 64
GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, modulo 1, fill the unit interval evenly, however many there are (Weyl 1916)."""


_PRIOR_FREEDOM = 8
"""What the mean of all features' variances counts for beside a feature's own."""


class Estimator(Protocol):
    """What the samples so far tell."""

    def __call__(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """Estimate from `coalitions` [blocks, rows, features] and their `values` [blocks, rows]; blocks may be 0."""
        ...


def anytime(
    game: Game,
    draws: Iterator[BoolArray],
    estimate: Estimator,
    *,
    rows: int,
    blocks: int,
    stopping: Stopping,
    growth: float = PLAIN_GROWTH,
    end: StopReason = StopReason.EVALUATIONS,
) -> Estimating:
    """Ask in growing batches, about 64 coalitions and then a quarter more each time; tell after each.

    Args:
        draws: at least `blocks` blocks of coalitions, bool [rows, features] each, that only tell something batch_size
            (a pair, a permutation). They are drawn as they are asked for.
        stopping: when to stop before all blocks were asked for.
        growth: how much more each time: more for an estimate that costs much beside a small model's evaluations.
        end: why it stopped when all blocks were asked for.
    """
    coalitions = np.empty((0, rows, game.features), dtype=np.bool_)
    values = np.empty((0, rows))
    looks = stopping.looks(blocks)
    before: Estimate | None = None  # of the look before
    while True:
        size = max(_FIRST_BATCH // rows, int(len(values) * growth), batch_size(game) // rows, 1)
        size = min(size, *(count - len(values) for count in (*looks, blocks) if count > len(values)))
        batch = np.array([next(draws) for _ in range(size)])
        asked = yield from game(batch.reshape(-1, game.features))
        answers = asked.reshape(size, rows)
        # Only the blocks before the first unanswered one: which of the others were answered depends on the order of
        # the work, not on chance alone.
        known = np.isfinite(answers).all(axis=1)
        answered = size if known.all() else int(np.argmin(known))
        coalitions = np.concatenate([coalitions, batch[:answered]])
        values = np.concatenate([values, answers[:answered]])

        found = estimate(coalitions, values)
        stop: StopReason | None = None
        finished = len(values) == blocks
        if finished and end is StopReason.COMPLETE:
            stop = end
        elif enough := stopping.reason(found, before, len(values), blocks):
            stop = enough
        elif answered < size:
            stop = StopReason.DURATION
        elif finished:
            stop = end
        if len(values) in looks:
            before = found
        yield replace(found, stop=stop)
        if stop is not None:
            return


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


def subset_counts(features: int) -> FloatArray:
    """How many coalitions of each size 0..d there are, float64 [features + 1]; at most 1e300, as good as any more."""
    return np.array([float(min(math.comb(features, size), 10**300)) for size in range(features + 1)])


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


def in_order(coalitions: BoolArray, values: FloatArray) -> tuple[BoolArray, FloatArray]:
    """All coalitions [n, features] and their values [n], in an order that no draw decides: nor how ties are broken."""
    order = np.lexsort(coalitions.T)
    return coalitions[order], values[order]


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


def fitted(
    fit: Fitting,
    halve: Callable[[BoolArray], Fitting],
    coalitions: BoolArray,
    values: FloatArray,
    limit: float | None,
    *,
    fixed: int = 0,
) -> Estimate:
    """The estimate that is a surrogate's `fit` to `values` [n] of `coalitions` [n, features].

    Args:
        halve: from some of the coalitions to the surrogate that is fitted to them: to two halves, for the stability.
        fixed: how many of the first coalitions are no draws, and part of both halves.
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


def exactly_fitted(fit: Fitting, coalitions: BoolArray, values: FloatArray) -> Estimate:
    """The estimate that is a surrogate's `fit` to `values` [n] of all coalitions."""

    def estimate(values: FloatArray) -> Estimate:
        return replace(of_fit(fit(values, errors=False)), standard_errors=np.zeros(coalitions.shape[1]))

    return replace(with_rows(estimate, coalitions, values), converged=True)


def of_fit(fit: Fit) -> Estimate:
    """A surrogate's fit as an estimate."""
    return Estimate(fit.attributions, fit.standard_errors, surrogate=fit.surrogate, freedom=fit.freedom)
