"""A number about what follows a prompt, as data: so that numpy finds its values and torch its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CERTAIN = 2.0**-53
"""The least 1 − p in float64: log-odds end at 36.7."""


class Transform(Enum):
    """What is made of a continuation's log-probability."""

    NONE = "log p"
    PROBABILITY = "p"
    LOG_ODDS = "log p − log(1 − p)"


@dataclass(frozen=True)
class Objective:
    """Σ over some continuations of weight × transform(log-probability of the continuation after the prompt).

    Attributes:
        continuations: token ids, each at least one.
        weights: one for each continuation.
        rows: parts of the only continuation, as positions in it, each with a value of its own: the transform of what
            its tokens' log-probabilities, each after all before it, sum to.
    """

    continuations: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]
    transform: Transform = Transform.NONE
    rows: tuple[tuple[int, ...], ...] = ()

    @property
    def sizes(self) -> list[int]:
        """How many tokens each continuation has."""
        return [len(tokens) for tokens in self.continuations]

    def values(self, log_probabilities: FloatArray) -> FloatArray:
        """The number for each of some prompts, float64 [prompts].

        Args:
            log_probabilities: of each token of the continuations, one continuation behind the other, float64
                [prompts, tokens].
        """
        total = np.zeros(len(log_probabilities))
        ends = [*accumulate(self.sizes)]
        for weight, size, end in zip(self.weights, self.sizes, ends, strict=True):
            total += weight * _transformed(self.transform, log_probabilities[:, end - size : end].sum(axis=1))
        return total

    def numbers(self, log_probabilities: FloatArray) -> FloatArray:
        """The number for each of some prompts and that of each row, float64 [prompts, 1 + rows]; see `values`."""
        numbers = [self.values(log_probabilities)]
        for positions in self.rows:
            numbers.append(_transformed(self.transform, log_probabilities[:, positions].sum(axis=1)))
        return np.stack(numbers, axis=1)


def log_odds(log_probabilities: FloatArray) -> FloatArray:
    """log p − log(1 − p) from log p, exact for the smallest p; NaN stays NaN."""
    odds: FloatArray = log_probabilities - np.log(np.maximum(-np.expm1(log_probabilities), CERTAIN))
    return odds


def _transformed(transform: Transform, log_probabilities: FloatArray) -> FloatArray:
    match transform:
        case Transform.NONE:
            return log_probabilities
        case Transform.PROBABILITY:
            return np.exp(log_probabilities)
        case Transform.LOG_ODDS:
            return log_odds(log_probabilities)


@dataclass(frozen=True)
class Branch:
    """Tokens that are read behind a prompt, and the log-probabilities that the logits of their last positions give.

    A column is a token of the continuations, one continuation behind the other.

    Attributes:
        ids: what is read.
        positions: how many last logit positions are needed.
        columns: which columns are found here.
        rows: for each of them, the logit position that predicts it, 0 to `positions` − 1.
        tokens: and the token.
    """

    ids: tuple[int, ...]
    positions: int
    columns: tuple[int, ...]
    rows: tuple[int, ...]
    tokens: tuple[int, ...]


def branches(continuations: Sequence[Sequence[int]]) -> list[Branch]:
    """What to read behind a prompt, so that each token of the continuations is predicted once by what precedes it.

    A continuation's last token is not read. One that begins another is read with it; where two part, the logit
    positions that they share are those of the first.
    """
    read = list(dict.fromkeys(tuple(each[:-1]) for each in continuations))
    read = [ids for ids in read if not any(ids != other and other[: len(ids)] == ids for other in read)]
    columns = [(tuple(each[:place]), each[place]) for each in continuations for place in range(len(each))]
    found: list[Branch] = []
    waiting = dict(enumerate(columns))
    for ids in read:
        known = max((common_prefix(ids, other.ids) for other in found), default=-1)
        own = {at: (len(before) - known - 1, token) for at, (before, token) in waiting.items() if _begins(ids, before)}
        waiting = {at: column for at, column in waiting.items() if at not in own}
        rows, tokens = zip(*own.values(), strict=True)
        found.append(Branch(ids, len(ids) - known, tuple(own), rows, tokens))
    return found


def _begins(ids: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return ids[: len(before)] == before


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are the same."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(left), len(right)))
