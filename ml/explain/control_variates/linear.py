"""Answers that are linear in a game's values, such as Shapley values, interactions or the coefficients of a ridge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ml.explain.control_variates.covariance import Covariance
from ml.explain.estimator import BoolArray, FloatArray


class Linear(Protocol):
    """Answers that are linear in a game's values: Σ weight · v over all coalitions."""

    def chunks(self, rows: int) -> Iterator[Linear]:
        """Parts of it, small enough for a matrix of so many rows by their answers."""
        ...

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """The weights of `coalitions` [n, features], [n, answers]."""
        ...

    def cross(self, covariance: Covariance, others: BoolArray) -> FloatArray:
        """The answers for the games k(·, t), t in `others` [m, features]. Returns [answers, m]."""
        ...

    @property
    def are_many(self) -> bool:
        """Whether answers may be more than the samples can tell apart."""
        ...

    def prior(self, covariance: Covariance) -> FloatArray | None:
        """The answers' variances over games drawn from the process, with its noise, [answers].

        None where they would take too long.
        """
        ...
