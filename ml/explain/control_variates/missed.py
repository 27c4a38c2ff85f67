"""What a fit misses of coalitions that it is not given, estimated from samples that it was not fitted to.

A stratum's blocks are drawn at random. So those that were not sampled are taken to be missed as much as the mean of
those that a fit without them misses (Horvitz & Thompson 1952).

Of each answer alone, such an estimate is mostly noise. But a fit to few samples takes a little of all weak features
and gives it to the strong ones, and of a step most of all to the strongest. So the smaller and the larger half of the
answers are looked at as one, and the larger half also in proportion to the answers: along these three directions the
estimate is worth more than its noise, and a share of it corrects the answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml.explain.control_variates.draws import Draws
from ml.explain.estimator import FloatArray, IntArray
from ml.explain.sampling.errors import root_sum_of_squares

_NEGLIGIBLE = 1e-9
"""Parts of the answers below which only rounding is left."""


@dataclass(frozen=True)
class Missed:
    """An estimate of what answers lack, and its variance, float64 [answers] each."""

    lack: FloatArray
    variance: FloatArray

    @classmethod
    def of(cls, shown: FloatArray, strata: IntArray, draws: Draws, *, are_beyond: bool = False) -> Missed:
        """Scale up what the fit to `draws` misses of some blocks to all others of their strata.

        Args:
            shown: what each block adds to the answers beyond the fit, [blocks, answers].
            strata: the stratum of each.
            are_beyond: whether the blocks are themselves not given to the fit, so that only the rest is unknown.
        """
        others = draws.counts * (1 - draws.known)  # blocks of each stratum
        lack, variance = np.zeros((2, shown.shape[1]))
        for stratum in np.unique(strata):
            # Counts may be 1e200, and weights as small: neither has a square.
            sample = others[stratum] * shown[strata == stratum]
            size = len(sample)
            lack += sample.mean(axis=0)
            # A single one does not show its stratum's mean.
            spread = sample.var(axis=0, ddof=1) if size > 1 else sample[0] ** 2
            variance += (1 - size / others[stratum] if are_beyond else 1) * spread / size
        return cls(lack, variance)

    @classmethod
    def nothing(cls, answers: int) -> Missed:
        """Where nothing is known to be missed."""
        return cls(*np.zeros((2, answers)))


@dataclass(frozen=True)
class InCommon:
    """What the smaller and the larger half of the answers lack alike, and which share of it is believed.

    It is found for one game, and serves all that were sampled alike, so that their answers stay linear in the values.

    Attributes:
        directions: orthonormal, float64 [answers, directions].
        shares: 0 to 1, float64 [directions]: of an estimate with the square b² + v and the variance v, b²/(b² + v) has
            the smallest error.
    """

    directions: FloatArray
    shares: FloatArray

    @classmethod
    def of(cls, values: FloatArray, shown: FloatArray, draws: Draws) -> InCommon:
        """Of the answers `values` [answers], from what left-out blocks add to them, `shown` [blocks, answers]."""
        directions = _directions(values)
        along = Missed.of(shown @ directions, draws.strata, draws)
        squares = along.lack**2
        excess = np.maximum(0, squares - along.variance)
        return cls(directions, np.divide(excess, squares, out=np.zeros(len(squares)), where=squares > 0))

    def believed(self, shown: FloatArray, draws: Draws) -> tuple[Missed, FloatArray]:
        """The correction of the answers, and the squares of what it leaves, [answers].

        Args:
            shown: what left-out blocks of any game add to its answers, [blocks, answers].
        """
        along = Missed.of(shown @ self.directions, draws.strata, draws)
        left = (1 - self.shares) ** 2 * np.maximum(0, along.lack**2 - along.variance)
        squares = self.directions**2
        correction = Missed(self.directions @ (self.shares * along.lack), squares @ (self.shares**2 * along.variance))
        return correction, squares @ left


def _directions(answers: FloatArray) -> FloatArray:
    """Along what `answers` [n] may lack something alike, orthonormal, [n, 2 or 3].

    The smaller and the larger half by size, each alike; then the larger half in proportion to the answers, as far as
    that differs.
    """
    larger = np.argsort(np.argsort(np.abs(answers))) >= len(answers) // 2
    halves = np.stack([~larger, larger], axis=1)
    alike = halves / np.sqrt(np.maximum(1, halves.sum(axis=0)))
    proportional = np.where(larger, answers, 0.0)
    differs = proportional - alike @ (alike.T @ proportional)
    size, whole = (float(root_sum_of_squares(each)) for each in (differs, proportional))
    if size <= _NEGLIGIBLE * whole:
        return np.asarray(alike)
    return np.column_stack([alike, differs / size])
