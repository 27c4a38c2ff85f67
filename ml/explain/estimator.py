"""What an explainer is: a generator over a value function.

An explainer asks with ``values = yield from game(coalitions)`` and yields an `Estimate` whenever it has a better one.
What the game yields in between (None, after each chunk of work) passes through to the caller. So work can be shown,
stopped and resumed between chunks, and explainers know nothing of models, tokens, clocks or queues.
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
"""From evaluated coalitions [n, features] to their values for each row of the target, float64 [rows, n]."""

Asking = Generator[None, None, FloatArray]
"""An evaluation in progress: yields after each chunk of work, returns a value per coalition, NaN where time ran out."""


class Game(Protocol):
    """A cooperative game: the players are features, and a coalition's value is the model's with only those present."""

    features: int

    def __call__(self, coalitions: BoolArray) -> Asking:
        """The values of `coalitions`, bool [n, features], True where a feature is present. Returns float64 [n].

        NaN stands for values that were not computed before time ran out.
        """
        ...


def batch_size(game: Game) -> int:
    """How many coalitions a game evaluates in about the time of one; 1 where it does not say."""
    return int(getattr(game, "batch_size", 1))


def row_values(game: Game, coalitions: BoolArray) -> FloatArray:
    """The values of evaluated coalitions [n, features] for each row of the target, float64 [rows, n].

    A game that says nothing of rows has none.
    """
    of_rows: RowValues | None = getattr(game, "row_values", None)
    return np.empty((0, len(coalitions))) if of_rows is None else of_rows(coalitions)


def empty_and_full(features: int) -> BoolArray:
    """The empty and the full coalition, bool [2, features]."""
    return np.array([[False], [True]]).repeat(features, axis=1)


def with_ends(coalitions: BoolArray) -> BoolArray:
    """The empty and the full coalition, followed by `coalitions` [..., features]: bool [2 + n, features]."""
    features = coalitions.shape[-1]
    return np.concatenate([empty_and_full(features), coalitions.reshape(-1, features)])


@dataclass(frozen=True)
class Pairwise:
    """An estimate for pairs of features.

    Attributes:
        values: float64 [pairs], in the value's unit.
        standard_errors: float64 [pairs]; 0 where exact, infinite where unknown.
        members: the pairs, int64 [2, pairs]; None for all of them, (0, 1), (0, 2), ..., (1, 2), ... as in
            `numpy.triu_indices`.
    """

    values: FloatArray
    standard_errors: FloatArray
    members: IntArray | None = None

    @classmethod
    def of_none(cls) -> Pairwise:
        """An estimate for no pairs at all."""
        return cls(np.zeros(0), np.zeros(0), np.zeros((2, 0), dtype=np.int64))


@dataclass(frozen=True)
class Estimate:
    """An estimate of every feature's attribution, from the evaluations so far.

    Attributes:
        attributions: float64 [features], in the value's unit.
        standard_errors: float64 [features]; 0 where exact, infinite where unknown.
        stop: why the explainer stopped; None while it goes on.
        samples: how many coalitions were drawn, one that was drawn repeatedly each time; 0 for methods that draw none.
        converged: whether more evaluations would hardly change the attributions.
        surrogate: the fitted model, for methods that fit one.
        interactions: of pairs of features, for methods that estimate them.
        stability: Pearson correlation between the attributions of two halves of the samples.
        freedom: degrees of freedom of the standard errors, infinite where these are as good as known.
        surprise: how far the value of the full or the empty coalition is from what a fitted game expects there, beside
            drawn coalitions (root mean square); 0 where no game is fitted.
        missed_in: how many samples hold what a fitted game misses, (Σ r²)² / Σ r⁴ of the residuals of samples that are
            left out; infinite where no game is fitted.
        completeness_error: |Σ attributions − (v(all) − v(nothing))|, for methods that promise 0.
        outside_share: the share of tokens that belong to no feature, for methods whose attributions are shares.
        hierarchy: of the parts of the text, for methods that go from coarse to fine.
        rows: from the rows' values to an estimate for each row of the target, by the same fit; see `with_rows`. Called
            only when rows are needed, as it may take a while. None without rows, and where nothing is known.
    """

    attributions: FloatArray
    standard_errors: FloatArray
    stop: StopReason | None = None
    samples: int = 0
    converged: bool = False
    surrogate: SurrogateFit | None = None
    interactions: Pairwise | None = None
    stability: float | None = None
    freedom: float = np.inf
    surprise: float = 0.0
    missed_in: float = np.inf
    completeness_error: float | None = None
    outside_share: float | None = None
    hierarchy: Hierarchy | None = None
    rows: Callable[[RowValues], Iterable[Estimate]] | None = None

    @property
    def largest_error(self) -> float:
        """The largest standard error of all attributions and interactions."""
        pairs = np.zeros(0) if self.interactions is None else self.interactions.standard_errors
        return float(max(self.standard_errors.max(), pairs.max(initial=0)))

    @classmethod
    def nothing(cls, features: int, stop: StopReason | None = None) -> Estimate:
        """The estimate before any evaluation."""
        return cls(np.zeros(features), np.full(features, np.inf), stop)


def with_rows(estimate: Callable[[FloatArray], Estimate], coalitions: BoolArray, values: FloatArray) -> Estimate:
    """`estimate(values)` for the target's values [n] of `coalitions`, with rows by applying `estimate` to their values.

    Everything else that `estimate` depends on (the draw, a kernel, a factorization) is shared. So where it is linear in
    the values, and rows sum to the target, the rows' estimates sum to the target's.
    """
    return replace(estimate(values), rows=lambda row_values: map(estimate, row_values(coalitions)))


Estimating = Generator[Estimate | None, None, None]
"""An explainer at work: yields improving estimates, the last with a `stop`, and None after each chunk between them."""


class Explainer(Protocol):
    """A method with its parameters, for any game of as many features as it was made for."""

    @property
    def max_evaluations(self) -> int:
        """The most coalitions that it asks for."""
        ...

    @property
    def min_evaluations(self) -> int:
        """The fewest coalitions that it needs."""
        ...

    def __call__(self, game: Game) -> Estimating:
        """Estimate every feature's attribution."""
        ...
