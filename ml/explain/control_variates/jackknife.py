"""How a fit's answers change when samples are left out, and what samples add that were not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.linear import Linear
from ml.explain.control_variates.missed import Missed
from ml.explain.control_variates.optimism import mean_square
from ml.explain.control_variates.process import Process, Sampled
from ml.explain.estimator import BoolArray, FloatArray


@dataclass(frozen=True)
class FittedAnswers:
    """A fit's answers for one game, and what their errors are computed from; float64 [answers] each.

    Attributes:
        values: the answers for the fitted game.
        squares: their squared changes by leaving out a block, summed by stratum, [strata, answers].
        fourths: the changes to the fourth power, summed over the strata that are not fully sampled.
        expected: of `squares`, summed over the same strata, in games drawn from the process.
        posterior: the answers' variances in such games, given the samples; None where the prior ones are unknown.
        kernel_variance: of the choice of the kernel; see `AnswerWeights`.
        shown: what each left-out block adds to the answers beyond the fit, [blocks, answers].
        correction: an estimate of what the fit misses, from the samples that were not fitted; 0 without any.
        correction_variance: the variance of `correction`.
    """

    values: FloatArray
    squares: FloatArray
    fourths: FloatArray
    expected: FloatArray
    posterior: FloatArray | None
    kernel_variance: FloatArray
    shown: FloatArray
    correction: FloatArray
    correction_variance: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[FittedAnswers]) -> FittedAnswers:
        """The answers of all `parts`."""

        def join(name: str) -> Any:
            own = [getattr(part, name) for part in parts]
            return None if own[0] is None else np.concatenate(own, axis=-1)

        return cls(**{field.name: join(field.name) for field in fields(cls)})


class AnswerWeights:
    """The weights of the sampled values in linear answers."""

    def __init__(self, process: Process, linear: Linear) -> None:
        self._process, self._linear = process, linear
        weights = linear.weights(process.known)
        cross = self._cross(process.covariance, process.known, weights)
        self._projector = process.whole.projector(cross)
        self._expected = process.whole.expected_squares(self._projector)
        prior = linear.prior(process.covariance)
        self._posterior = None if prior is None else _left_over(prior, self._projector, cross, process.matrix)
        draws = process.draws
        self._drawn_weights = weights[draws.fixed :].reshape(len(draws.strata), draws.rows, -1)
        self._kernel_shifts = list[FloatArray]()
        if linear.are_many:
            return  # their posterior deviations are more than the choice of the kernel makes
        own, first = process.own_kernel, len(process.own_kernel.fit.own)
        by_own = cross[:, :first] @ own.fit.inverse
        for kernel in process.kernels_of_halves:
            other = self._cross(kernel.covariance, process.known[:first], weights[:first])
            self._kernel_shifts.append(other @ kernel.fit.inverse - by_own)
        self._still_open = np.full(len(cross), process.share)
        if prior is not None and self._posterior is not None:
            before = _left_over(prior, by_own, cross[:, :first], process.matrix[:first, :first])
            self._still_open = np.divide(self._posterior, before, out=self._still_open, where=before > 0)

    def _cross(self, covariance: Covariance, coalitions: BoolArray, weights: FloatArray) -> FloatArray:
        """The answers for the games that the samples of `coalitions` [m, features] are, [answers, m].

        Args:
            weights: of the coalitions, [m, answers].
        """
        return self._linear.cross(covariance, coalitions) + covariance.noise * weights.T

    def answers(self, game: Sampled) -> FittedAnswers:
        """The answers for one game."""
        draws = self._process.draws
        changes = self._process.whole.changes(self._projector, game.left_out)
        in_stratum = draws.strata == np.arange(len(draws.counts))[:, None]  # [strata, blocks]
        is_open = draws.known[draws.strata] < 1  # whether a block's stratum is not fully sampled
        correction = self._corrected(game.residuals)
        return FittedAnswers(
            values=self._projector @ game.values,
            squares=in_stratum @ changes**2,
            fourths=(changes[is_open] ** 4).sum(axis=0),
            expected=self._expected[is_open].sum(axis=0),
            posterior=self._posterior,
            kernel_variance=self._kernel_variance(game),
            shown=np.einsum("bra,br->ba", self._drawn_weights, game.left_out),
            correction=correction.lack,
            correction_variance=correction.variance,
        )

    def _kernel_variance(self, game: Sampled) -> FloatArray:
        """How much another draw of the samples that the kernel was fitted to would change the answers, [answers].

        By a jackknife that leaves out a half (Shao & Wu 1989): the squared changes by kernels that were fitted to
        either half, all given the same samples. Half as many samples vary twice as much. A kernel of a half that misses
        samples by more than that is as much further away. The kernel decides what is not known, and so its choice
        matters less with further samples, as the posterior variance does.
        """
        if not self._kernel_shifts:
            return np.zeros(len(self._projector))
        process, values, squares = self._process, game.values, np.zeros(len(self._projector))
        own = game.optimism * mean_square(process.own_kernel.fit.residuals(values))
        for shift, kernel in zip(self._kernel_shifts, process.kernels_of_halves, strict=True):
            worse = mean_square(kernel.fit.residuals(values)) / own if own else 1.0
            squares += (shift @ values[: shift.shape[1]]) ** 2 / (max(2.0, worse) - 1)
        return np.asarray(self._still_open * squares / len(self._kernel_shifts))

    def _corrected(self, residuals: FloatArray) -> Missed:
        """An estimate of what the fit misses from the residuals of the samples that were not fitted, [m]."""
        if not len(residuals):
            return Missed.nothing(len(self._projector))
        draws, every = self._process.draws, self._process.every
        shown = self._unfitted_weights * residuals[:, None]
        shown = shown.reshape(-1, draws.rows, shown.shape[1]).sum(axis=1)  # by block
        return Missed.of(shown, every.strata[len(draws.strata) :], draws, are_beyond=True)

    @cached_property
    def _unfitted_weights(self) -> FloatArray:
        """The weights of the samples that were not fitted, [m, answers]."""
        return self._linear.weights(self._process.beyond)


def _left_over(prior: FloatArray, projector: FloatArray, cross: FloatArray, matrix: FloatArray) -> FloatArray:
    """The variances of answers given samples, [answers].

    These are tiny beside the `prior` ones. prior - projector · cross would be the same without rounding, but the
    projector's rounding counts there, and only its square counts here.

    Args:
        projector: the weights of the samples in the answers, [answers, n].
        cross: the covariances of the answers with the samples, [answers, n].
        matrix: those of the samples, with noise, [n, n].
    """
    explained = np.einsum("an,an->a", projector, 2 * cross - projector @ matrix)
    variances: FloatArray = np.maximum(prior - explained, 0)
    return variances
