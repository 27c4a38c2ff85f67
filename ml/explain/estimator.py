"""What an explainer is: a generator over a value function.

An explainer asks with ``values = yield from game(coalitions)`` and yields an `Estimate` whenever it knows more than
before; what the game yields in between (None, after each chunk of work) passes through it to whoever drives it. So
work can be shown, stopped and resumed between chunks, and no explainer knows of models, tokens, clocks or queues.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ml.result import Hierarchy, StopReason, SurrogateFit

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

RowValues = Callable[[BoolArray], FloatArray]
"""From coalitions [n, features] that were answered to their values in each row of the target, float64 [rows, n]."""

Asking = Generator[None, None, FloatArray]
"""Values on their way: yields after each chunk of work, returns one value a coalition, NaN where time ran out."""


class Game(Protocol):
    """A cooperative game: the players are features, the value is what the model does with only those present."""

    features: int

    def __call__(self, coalitions: BoolArray) -> Asking:
        """The values of `coalitions`, bool [n, features], True where a feature is present. Returns float64 [n].

        NaN stands for a value that was not computed because the time is up.
        """
        ...


def batch_size(game: Game) -> int:
    """How many coalitions a game answers in about the time of one; 1 where it does not say."""
    return int(getattr(game, "batch_size", 1))


def empty_and_full(features: int) -> BoolArray:
    """The empty and the full coalition, bool [2, features]."""
    return np.array([[False], [True]]).repeat(features, axis=1)


def with_ends(coalitions: BoolArray) -> BoolArray:
    """The empty and the full coalition, and `coalitions` [..., features] behind them: bool [2 + n, features]."""
    features = coalitions.shape[-1]
    return np.concatenate([empty_and_full(features), coalitions.reshape(-1, features)])


@dataclass(frozen=True)
class Pairwise:
    """What is known of pairs of features so far.

    Attributes:
        values: float64 [pairs], in the value's unit.
        standard_errors: float64 [pairs]; 0 where exact, infinite where nothing is known yet.
        members: the pairs, int64 [2, pairs]; None for all of them, (0, 1), (0, 2), ..., (1, 2), ... as in
            `numpy.triu_indices`.
    """

    values: FloatArray
    standard_errors: FloatArray
    members: IntArray | None = None

    @classmethod
    def of_none(cls) -> Pairwise:
        """Of no pair."""
        return cls(np.zeros(0), np.zeros(0), np.zeros((2, 0), dtype=np.int64))


@dataclass(frozen=True)
class Estimate:
    """What is known of every feature so far.

    Attributes:
        attributions: float64 [features], in the value's unit.
        standard_errors: float64 [features]; 0 where exact, infinite where nothing is known yet.
        stop: why the estimator is done; None while it is not.
        converged: whether the attributions have settled.
        surrogate: the fitted model, for methods that fit one.
        interactions: of pairs of features, for methods that look for them.
        stability: Pearson correlation between the attributions of two halves of the samples.
        freedom: degrees of freedom of the standard errors, infinite where there are plenty.
        completeness_error: |Σ attributions − (v(all) − v(nothing))|, for methods that promise 0.
        outside_share: the share of tokens that belong to no feature, for methods whose attributions are shares.
        hierarchy: of the parts of the text, for methods that go from coarse to fine.
        rows: what is known of every feature in each row of the target, in their order, by the same fit where the method
            is linear; see `with_rows`. It is worked out when asked for, as it may take a while. None for what has no
            rows, and where nothing is known.
    """

    attributions: FloatArray
    standard_errors: FloatArray
    stop: StopReason | None = None
    converged: bool = False
    surrogate: SurrogateFit | None = None
    interactions: Pairwise | None = None
    stability: float | None = None
    freedom: float = np.inf
    completeness_error: float | None = None
    outside_share: float | None = None
    hierarchy: Hierarchy | None = None
    rows: Callable[[RowValues], Iterable[Estimate]] | None = None

    @classmethod
    def nothing(cls, features: int, stop: StopReason | None = None) -> Estimate:
        """What is known before anything was measured."""
        return cls(np.zeros(features), np.full(features, np.inf), stop)


def with_rows(estimate: Callable[[FloatArray], Estimate], coalitions: BoolArray, values: FloatArray) -> Estimate:
    """`estimate(values)` of the target's values [n] of `coalitions`, and, when asked for, of the values of each row.

    What `estimate` knows beside the values (the draw, a kernel, a factorization) is the same for all: where it is
    linear in them, rows that sum to the target have estimates that sum to the target's.
    """
    return replace(estimate(values), rows=lambda row_values: map(estimate, row_values(coalitions)))


Estimating = Generator[Estimate | None, None, None]
"""An explainer at work: estimates as they improve, the last of which has a `stop`; None after chunks in between."""


class Explainer(Protocol):
    """An estimator with its parameters, ready to be asked about any game of `features` players."""

    @property
    def max_evaluations(self) -> int:
        """The most coalitions that it will ask for."""
        ...

    @property
    def min_evaluations(self) -> int:
        """The fewest coalitions that it must be allowed to ask for."""
        ...

    def __call__(self, game: Game) -> Estimating:
        """Estimate every feature's attribution."""
        ...
