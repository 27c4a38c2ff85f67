"""When to stop sampling.

A number of evaluations decides by itself. So does a standard error, once all errors are below it; but a game that is
fitted, such as a step, may suit few samples by accident, whose errors are then hundreds of times too small for one
estimate. So an estimate whose errors fell by more than ten times since the one before, of half as many samples or more,
does not end sampling: the next one shows whether they stay small.

Without either, sampling ends once the largest attributions are ranked: their signs, and their order among themselves
and before all others, are certain beyond their errors, or so precise that the rest makes no difference.

Stopping when errors look small favours errors that look smaller than they are, as those of few samples do. So there are
only three checks of ranks, at an eighth, a quarter and half of the most evaluations, and the ranking has to hold at two
of them in a row, the second time with twice the samples. Each comparison has to hold by three standard errors.

Such an end is chosen by its errors, and these are then no longer those of a sample of a fixed size. And a fit that
smooths too much is off alike in all draws, which no error of a single check shows. So the reported error is that of the
check before, which alone ended nothing, together with how far the attributions have moved since.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ml.explain.estimator import BoolArray, Estimate, IntArray, RowValues
from ml.explain.sampling.errors import has_converged, root_sum_of_squares
from ml.result import StopReason
from ml.spec import Budget

TOP = 5
"""How many of the largest attributions have to be ranked."""
_REACH = 3.0
"""Standard errors that a difference must exceed."""
_ALIKE = 0.05
"""Errors below this part of the largest attribution need no order."""
_LOOKS = (1 / 8, 1 / 4, 1 / 2)
"""Parts of the most blocks at which to check the ranking."""
_FALL = 10.0
"""By how many times errors may fall from one check to the next and be believed."""


@dataclass(frozen=True)
class Stopping:
    """When to stop before all blocks are sampled.

    Attributes:
        limit: the standard error that all, of attributions and interactions, have to fall below, if any.
        ranks: whether to stop once the largest attributions are ranked.
        enough: blocks from which on errors are believed.
    """

    limit: float | None = None
    ranks: bool = False
    enough: int = 2

    @classmethod
    def of(cls, budget: Budget, enough: int, *, ranks: bool = True) -> Stopping:
        """As a budget asks for it. `ranks` is False where all blocks would give the exact answer."""
        asked = budget.max_evaluations is not None or budget.standard_error is not None
        return cls(budget.standard_error, ranks and not asked, enough)

    def looks(self, max_blocks: int) -> list[int]:
        """Numbers of blocks, of `max_blocks`, at which to check the ranking, ascending."""
        if not self.ranks:
            return []
        return sorted({max(math.ceil(share * max_blocks), self.enough) for share in _LOOKS})

    def is_check(self, now: int, max_blocks: int) -> bool:
        """Whether sampling may end with `now` blocks of `max_blocks`."""
        return now >= min(self.enough, max_blocks) and (self.limit is not None or now in self.looks(max_blocks))

    def reason(self, found: Estimate, before: Estimate | None, now: int, max_blocks: int) -> StopReason | None:
        """Why to stop with an estimate `found` from `now` blocks of `max_blocks`; None to go on.

        Args:
            before: the estimate of the check before this one.
        """
        if not self.is_check(now, max_blocks):
            return None
        if self.limit is not None:
            enough = found.largest_error < self.limit and not _fell(before, found)
            return StopReason.STANDARD_ERROR if enough else None
        if before is None:
            return None
        return StopReason.RANKED if is_ranked(before) and is_ranked(found) and agree(before, found) else None


def is_ranked(found: Estimate) -> bool:
    """Whether the signs and the order of the largest attributions are certain."""
    order = _by_size(found)
    sizes, errors, top = np.abs(found.attributions[order]), found.standard_errors[order], slice(0, TOP)
    if not np.isfinite(errors).all() or sizes[0] == 0:
        return False
    alike = _ALIKE * sizes[0]
    apart = sizes[top, None] - sizes
    reach = _REACH * np.hypot(errors[top, None], errors)
    ordered = (apart > reach) | (reach < alike)
    signed = (sizes[top] > _REACH * errors[top]) | (_REACH * errors[top] < alike)
    return bool(ordered[_later(len(sizes))].all() and signed.all())


def agree(before: Estimate, found: Estimate) -> bool:
    """Whether the largest attributions `found` had their signs and order `before`, but for what makes no difference."""
    order = _by_size(found)
    values = before.attributions[order] * np.sign(found.attributions[order])  # negative where the sign was another
    alike = _ALIKE * np.abs(found.attributions).max()
    apart = values[:TOP, None] - np.abs(values)
    return bool((apart > -alike)[_later(len(values))].all() and (values[:TOP] > -alike).all())


def widened(before: Estimate, found: Estimate) -> Estimate:
    """The estimate `found` by which sampling ended, with errors that count that it did; `before` is of the last check.

    A feature's own move may be small by accident, so the mean square over all features counts as much.
    """
    own = found.attributions - before.attributions
    moved = np.hypot(own, root_sum_of_squares(own) / math.sqrt(len(own))) / math.sqrt(2)
    errors = np.hypot(np.maximum(before.standard_errors, found.standard_errors), moved)

    def rows(values: RowValues) -> Iterable[Estimate]:
        if before.rows is None or found.rows is None:
            raise AssertionError("an estimate that is ranked has values, and so rows")
        return map(widened, before.rows(values), found.rows(values))

    return replace(
        found,
        standard_errors=errors,
        freedom=min(before.freedom, found.freedom),
        converged=has_converged(found.attributions, errors, None),
        rows=None if found.rows is None else rows,
    )


def _fell(before: Estimate | None, found: Estimate) -> bool:
    """Whether errors fell further since the check before than a few more samples explain."""
    if before is None or not math.isfinite(before.largest_error):
        return False
    return before.largest_error > _FALL * found.largest_error


def _by_size(found: Estimate) -> IntArray:
    """Which attribution is the largest, which the next, int64 [features]."""
    return np.argsort(-np.abs(found.attributions), kind="stable")


def _later(features: int) -> BoolArray:
    """Of attributions by size, which come after each of the largest, bool [TOP, features]."""
    ranks = np.arange(features)
    later: BoolArray = ranks > ranks[:TOP, None]
    return later
