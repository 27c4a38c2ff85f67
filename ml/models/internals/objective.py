"""An objective as torch computes it, so that it has gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ml.models.log_probabilities import log_probabilities
from ml.models.objective import CERTAIN, Objective, Transform, branches

LogitsObjective = Callable[[Tensor], Tensor]
"""From logits, float32 [n, positions, vocabulary], to n numbers whose gradients are wanted."""


def of_logits(objective: Objective, numbers: Sequence[int] = ()) -> tuple[LogitsObjective, int]:
    """The objective as a function of the logits of the last positions, and how many positions these are.

    Args:
        numbers: for each of the n sequences which of the objective's numbers is wanted: 0 for the whole, else a row's,
            from 1. Default: the whole of each.

    Raises:
        ValueError: its continuations part, so that no one sequence predicts all of their tokens.
    """
    ways = branches(objective.continuations)
    if len(ways) > 1:
        raise ValueError("gradients are of continuations that are read as one: one of them, and what it begins with")
    (branch,) = ways

    def values(logits: Tensor) -> Tensor:
        found = log_probabilities(logits, branch)
        pairs = zip(objective.weights, found.split(objective.sizes, dim=1), strict=True)
        whole = torch.stack([weight * _transformed(objective.transform, part.sum(1)) for weight, part in pairs]).sum(0)
        if not any(numbers):
            return whole
        own = _tokens_of(objective, numbers).to(found.device)
        rows = _transformed(objective.transform, found.where(own, 0).sum(1))
        return rows.where(own.any(1), whole)

    return values, branch.positions


def _tokens_of(objective: Objective, numbers: Sequence[int]) -> Tensor:
    """Which tokens are in the row that each of `numbers` names, bool [n, tokens]; none where it names the whole."""
    own = torch.zeros(len(numbers), sum(objective.sizes), dtype=torch.bool)
    for sequence, number in enumerate(numbers):
        own[sequence, list(objective.rows[number - 1]) if number else []] = True
    return own


def _transformed(transform: Transform, totals: Tensor) -> Tensor:
    """See `ml.models.objective.Objective.values`."""
    match transform:
        case Transform.NONE:
            return totals
        case Transform.PROBABILITY:
            return totals.exp()
        case Transform.LOG_ODDS:
            return totals - torch.log((-torch.expm1(totals)).clamp(min=CERTAIN))
