"""An objective as torch computes it, so that it has gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ml.models.log_probabilities import log_probabilities
from ml.models.objective import CERTAIN, Objective, Transform, branches

LogitsObjective = Callable[[Tensor], Tensor]
"""From logits, float32 [n, positions, vocabulary], to n numbers whose gradients are wanted."""


def of_logits(objective: Objective) -> tuple[LogitsObjective, int]:
    """The objective as a function of the logits of the last positions, and how many positions these are.

    Raises:
        ValueError: its continuations part, so that no one sequence predicts all of their tokens.
    """
    ways = branches(objective.continuations)
    if len(ways) > 1:
        raise ValueError("gradients are of continuations that are read as one: one of them, and what it begins with")
    (branch,) = ways

    def values(logits: Tensor) -> Tensor:
        parts = log_probabilities(logits, branch).split(objective.sizes, dim=1)
        pairs = zip(objective.weights, parts, strict=True)
        return torch.stack([weight * _transformed(objective.transform, part.sum(1)) for weight, part in pairs]).sum(0)

    return values, branch.positions


def _transformed(transform: Transform, totals: Tensor) -> Tensor:
    """See `ml.models.objective.Objective.values`."""
    match transform:
        case Transform.NONE:
            return totals
        case Transform.PROBABILITY:
            return totals.exp()
        case Transform.LOG_ODDS:
            return totals - torch.log((-torch.expm1(totals)).clamp(min=CERTAIN))
