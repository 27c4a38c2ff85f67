"""How a fit's answers change when samples are left out, and what samples add that were not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.linear import Linear
from ml.explain.control_variates.optimism import mean_square
from ml.explain.control_variates.process import Process, Sampled
from ml.explain.estimator import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class FittedAnswers:
    """A fit's answers for one game, and what their errors are computed from; float64 [answers] each.

    Attributes:
        values: the answers for the fitted game.
        squares: their squared changes by leaving out a block, summed by stratum, [strata, answers].
        fourths: the changes to the fourth power, summed over the strata that are not fully sampled.
        expected: of `squares`, summed over the same strata, in games drawn from the process.
        posterior: the answers' variances in such games, given the samples; None where the prior ones are unknown.
        halves_shift: the difference of `values` from the mean of two fits to halves.
        missed: an estimate of what the fit misses, from blocks that are left out; 0 where answers are many.
        missed_variance: the variance of `missed`.
        missed_in_common: squares of what the fit misses alike in all of the smaller, or of the larger, half of the
            answers, as far as it exceeds half of its variance.
        kernel_variance: of the choice of the kernel; see `AnswerWeights`.
        correction: an estimate of what the fit misses, from the samples that were not fitted; 0 without any.
        correction_variance: the variance of `correction`.
    """

    values: FloatArray
    squares: FloatArray
    fourths: FloatArray
    expected: FloatArray
    posterior: FloatArray | None
    halves_shift: FloatArray
    missed: FloatArray
    missed_variance: FloatArray
    missed_in_common: FloatArray
    kernel_variance: FloatArray
    correction: FloatArray
    correction_variance: FloatArray
    dm: FloatArray
    dv: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[FittedAnswers]) -> FittedAnswers:
        """The answers of all `parts`."""
        names = [field.name for field in fields(cls)]
        every = {name: [getattr(part, name) for part in parts] for name in names}
        return cls(**{name: None if own[0] is None else np.concatenate(own, axis=-1) for name, own in every.items()})


class AnswerWeights:
    """The weights of the sampled values in linear answers, for the fit to all samples and for those to halves."""

    def __init__(self, process: Process, linear: Linear) -> None:
        self._process, self._linear = process, linear
        weights = linear.weights(process.known)
        cross = self._cross(process.covariance, process.known, weights)
        self._projector = process.whole.projector(cross)
        self._half_projectors = [half.projector(cross) for half in process.halves]
        prior, draws = linear.prior(process.covariance), process.draws
        self._posterior: FloatArray | None = None
        if prior is not None:
            self._posterior = np.maximum(prior - np.einsum("an,an->a", self._projector, cross), 0)
        self._expected = process.whole.expected_squares(self._projector)
        self._kernel_shifts = list[FloatArray]()
        self._drawn_weights: FloatArray | None = None  # of the blocks, [blocks, rows, answers]
        if linear.are_many:
            return  # their posterior deviations are more than the choice of the kernel makes
        self._drawn_weights = weights[draws.fixed :].reshape(len(draws.strata), draws.rows, -1)
        own, first = process.own_kernel, len(process.own_kernel.fit.own)
        by_own = cross[:, :first] @ own.fit.inverse
        self._share = process.share
        if prior is not None and self._posterior is not None and process.share < 1:
            before = np.maximum(prior - np.einsum("an,an->a", by_own, cross[:, :first]), 0)
            self._share = float(self._posterior.sum()) / (float(before.sum()) or 1.0)
        for kernel in process.kernels_of_halves:
            other = self._cross(kernel.covariance, process.known[:first], weights[:first])
            self._kernel_shifts.append(other @ kernel.fit.inverse - by_own)

    def _cross(self, covariance: Covariance, coalitions: BoolArray, weights: FloatArray) -> FloatArray:
        """The answers for the games that the samples of `coalitions` [m, features] are, [answers, m].

        Args:
            weights: of the coalitions, [m, answers].
        """
        return self._linear.cross(covariance, coalitions) + covariance.noise * weights.T

    def answers(self, game: Sampled) -> FittedAnswers:
        """The answers for one game."""
        draws, answers = self._process.draws, len(self._projector)
        changes = self._process.whole.changes(self._projector, game.left_out)
        in_stratum = draws.strata == np.arange(len(draws.counts))[:, None]  # [strata, blocks]
        is_open = draws.known[draws.strata] < 1  # whether a block's stratum is not fully sampled
        halves_mean = np.zeros(answers)
        for fit, projector in zip(self._process.halves, self._half_projectors, strict=True):
            halves_mean += projector @ game.values[fit.own] / 2
        correction, variance = self._corrected(game.residuals) if len(game.residuals) else np.zeros((2, answers))
        values = self._projector @ game.values
        by_size = _halves_by_size(values)
        missed, variances = self._missed(game.left_out, by_size)
        in_common = np.maximum(0, missed[answers:] ** 2 - variances[answers:] / 2)
        self.dirs = (by_size, missed[answers:], variances[answers:])
        return FittedAnswers(
            values=values,
            squares=in_stratum @ changes**2,
            fourths=(changes[is_open] ** 4).sum(axis=0),
            expected=self._expected[is_open].sum(axis=0),
            posterior=self._posterior,
            halves_shift=values - halves_mean,
            missed=missed[:answers],
            missed_variance=variances[:answers],
            missed_in_common=by_size**2 @ in_common,
            dm=missed[answers:], dv=variances[answers:], 
            kernel_variance=self._kernel_variance(game),
            correction=correction,
            correction_variance=variance,
        )

    def _missed(self, left_out: FloatArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Estimates of what the fit misses of the blocks that were not sampled, and variances, [answers + directions].

        Each of them is taken to miss as much as the mean block of its stratum does when it is left out.

        Args:
            left_out: residuals, [blocks, rows].
            directions: weights of the answers, in sums of which it is estimated too, [answers, directions].
        """
        if self._drawn_weights is None:
            missed, variance = np.zeros((2, sum(directions.shape)))
            return missed, variance
        each = np.einsum("bra,br->ba", self._drawn_weights, left_out)
        each = np.hstack([each, each @ directions])
        return self._scaled_up(each, self._process.draws.strata, are_beyond=False)

    def _kernel_variance(self, game: Sampled) -> FloatArray:
        """How much another draw of the samples that the kernel was fitted to would change the answers, [answers].

        By a jackknife that leaves out a half (Shao & Wu 1989): the squared changes by kernels that were fitted to
        either half, all given the same samples. Half as many samples vary twice as much. A kernel of a half that misses
        samples by more than that is as much further away. Samples that no kernel was fitted to make its choice matter
        less.
        """
        if not self._kernel_shifts:
            return np.zeros(len(self._projector))
        process, values, squares = self._process, game.values, np.zeros(len(self._projector))
        own = game.optimism * mean_square(process.own_kernel.fit.residuals(values))
        for shift, kernel in zip(self._kernel_shifts, process.kernels_of_halves, strict=True):
            worse = mean_square(kernel.fit.residuals(values)) / own if own else 1.0
            squares += (shift @ values[: shift.shape[1]]) ** 2 / (max(2.0, worse) - 1)
        return np.asarray(self._share * squares / len(self._kernel_shifts))

    def _corrected(self, residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
        """An estimate of what the fit misses, and its variance, [answers] each.

        A stratum's coalitions that were not fitted are a random sample of those that were not sampled at all: each of
        the latter is taken to miss as much as the mean of the former.

        Args:
            residuals: of the samples that were not fitted, [m].
        """
        draws, every = self._process.draws, self._process.every
        missed = self._unfitted_weights * residuals[:, None]
        missed = missed.reshape(-1, draws.rows, missed.shape[1]).sum(axis=1)  # by block
        return self._scaled_up(missed, every.strata[len(draws.strata) :], are_beyond=True)

    def _scaled_up(self, missed: FloatArray, strata: IntArray, *, are_beyond: bool) -> tuple[FloatArray, FloatArray]:
        """An estimate of what the fit misses of all blocks that it is not given, and its variance, [answers] each.

        Args:
            missed: of some blocks, [blocks, answers].
            strata: the stratum of each.
            are_beyond: whether they are themselves not given to the fit, so that only the rest of these is unknown.
        """
        draws = self._process.draws
        others = draws.counts * (1 - draws.known)  # blocks of each stratum
        total, variance = np.zeros((2, missed.shape[1]))
        for stratum in np.unique(strata):
            # Counts may be 1e200, and weights as small: neither has a square.
            sample = others[stratum] * missed[strata == stratum]
            size = len(sample)
            total += sample.mean(axis=0)
            # A single one does not show its stratum's mean.
            spread = sample.var(axis=0, ddof=1) if size > 1 else sample[0] ** 2
            variance += (1 - size / others[stratum] if are_beyond else 1) * spread / size
        return total, variance

    @cached_property
    def _unfitted_weights(self) -> FloatArray:
        """The weights of the samples that were not fitted, [m, answers]."""
        return self._linear.weights(self._process.beyond)


def _halves_by_size(answers: FloatArray) -> FloatArray:
    """The mean directions of the smaller and of the larger half of `answers` [n], by their sizes; [n, 2]."""
    larger = np.argsort(np.argsort(np.abs(answers))) >= len(answers) // 2
    halves = np.stack([~larger, larger], axis=1)
    return np.asarray(halves / np.sqrt(np.maximum(1, halves.sum(axis=0))))
