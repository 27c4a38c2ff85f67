"""When a sampling method knows enough.

Who asks for a standard error gets it, and who asks for a number of evaluations gets as many. Without either, sampling
ends once the largest attributions are settled: their signs, and their order among themselves and before all others, are
further apart than their errors reach, or known so well that what is left makes no difference.

To stop where errors look small favours errors that look smaller than they are, as those of what few samples have shown.
So there are few looks, at an eighth, a quarter and half of the most evaluations, and all has to hold at two of them in
a row, the second time with twice the samples. Each comparison has to hold by three standard errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import BoolArray, Estimate, IntArray
from ml.result import StopReason
from ml.spec import Budget

TOP = 5
"""Attributions that have to be settled, the largest ones."""
_REACH = 3.0
"""Standard errors that a difference must exceed."""
_ALIKE = 0.05
"""Of the largest attribution: what is known as well as this needs no order."""
_LOOKS = (1 / 8, 1 / 4, 1 / 2)
"""Of the most blocks: when to look whether they are ranked."""


@dataclass(frozen=True)
class Stopping:
    """When to stop before all blocks of a sample are there.

    Attributes:
        limit: the standard error that all have to be below; None for none.
        ranks: whether the largest attributions' order ends it.
        enough: blocks before which no error is believed.
    """

    limit: float | None = None
    ranks: bool = False
    enough: int = 2

    @classmethod
    def of(cls, budget: Budget, enough: int, *, ranks: bool = True) -> Stopping:
        """As a budget asks for it. `ranks` is False where all blocks tell the whole truth."""
        asked = budget.max_evaluations is not None or budget.standard_error is not None
        return cls(budget.standard_error, ranks and not asked, enough)

    def looks(self, max_blocks: int) -> list[int]:
        """Numbers of blocks, of `max_blocks`, after which to look whether they are ranked, ascending."""
        if not self.ranks:
            return []
        return sorted({max(math.ceil(share * max_blocks), self.enough) for share in _LOOKS})

    def reason(self, found: Estimate, before: Estimate | None, now: int, max_blocks: int) -> StopReason | None:
        """Why to stop with an estimate `found` of `now` blocks of `max_blocks`; None to go on.

        Args:
            before: what was found at the look before this one.
        """
        if now < min(self.enough, max_blocks):
            return None
        if self.limit is not None and float(found.standard_errors.max()) < self.limit:
            return StopReason.STANDARD_ERROR
        if before is None or now not in self.looks(max_blocks):
            return None
        return StopReason.RANKED if is_ranked(before) and is_ranked(found) and agree(before, found) else None


def is_ranked(found: Estimate) -> bool:
    """Whether signs and order of the largest attributions are known."""
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


def _by_size(found: Estimate) -> IntArray:
    """Which attribution is the largest, which the next, int64 [features]."""
    return np.argsort(-np.abs(found.attributions), kind="stable")


def _later(features: int) -> BoolArray:
    """Of attributions by size, which come after each of the largest, bool [TOP, features]."""
    ranks = np.arange(features)
    later: BoolArray = ranks > ranks[:TOP, None]
    return later
