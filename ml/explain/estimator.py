"""What an explainer is: a generator over a value function.

An explainer asks with ``values = yield from game(coalitions)`` and yields an `Estimate` whenever it knows more than
before; what the game yields in between (None, after each chunk of work) passes through it to whoever drives it. So
work can be shown, stopped and resumed between chunks, and no explainer knows of models, tokens, clocks or queues.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ml.result import StopReason, SurrogateFit

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

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


@dataclass(frozen=True)
class Pairwise:
    """What is known of every pair of features so far: (0, 1), (0, 2), ..., (1, 2), ... as in `numpy.triu_indices`.

    Attributes:
        values: float64 [pairs], in the value's unit.
        standard_errors: float64 [pairs]; 0 where exact, infinite where nothing is known yet.
    """

    values: FloatArray
    standard_errors: FloatArray


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

    @classmethod
    def nothing(cls, features: int, stop: StopReason | None = None) -> Estimate:
        """What is known before anything was measured."""
        return cls(np.zeros(features), np.full(features, np.inf), stop)


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
