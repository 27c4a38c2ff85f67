"""A Gaussian process given samples of a game (Rasmussen & Williams 2006, chapter 2), and what it makes of their values.

Its kernel is found once. It then serves any games that were sampled at the same coalitions, such as the rows of a
target: all of it is linear in the values, so what it makes of games that sum to another one sums to what it makes of
that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml.explain.control_variates.covariance import MAX_SAMPLES, Covariance, inverse_of
from ml.explain.control_variates.optimism import Optimism, Trial
from ml.explain.estimator import BoolArray, FloatArray, IntArray

_AT_ONCE = 1024  # coalitions that are compared with those of the fit


@dataclass(frozen=True)
class Draws:
    """How the coalitions of a sample were drawn: some of them always, the others in blocks, without replacement.

    Attributes:
        fixed: how many of the first coalitions are in every sample.
        rows: coalitions in a block.
        strata: which stratum each block is from, int64 [blocks].
        counts: how many blocks there are in each, float64 [strata].
    """

    fixed: int
    rows: int
    strata: IntArray
    counts: FloatArray

    def first(self, blocks: int) -> Draws:
        """Of the first blocks only."""
        return Draws(self.fixed, self.rows, self.strata[:blocks], self.counts)

    @property
    def known(self) -> FloatArray:
        """The share of each stratum that was drawn, float64 [strata]."""
        return np.bincount(self.strata, minlength=len(self.counts)) / self.counts

    def coalitions(self, blocks: IntArray) -> IntArray:
        """Where in the sample the fixed coalitions are, and those of `blocks`."""
        own = self.fixed + self.rows * blocks[:, None] + np.arange(self.rows)
        return np.concatenate([np.arange(self.fixed), own.ravel()])

    def halves(self) -> list[IntArray]:
        """Blocks of two halves, each a smaller sample of the same kind: strata that are known whole belong to both."""
        whole = self.known[self.strata] >= 1
        alternating = np.zeros(len(self.strata), dtype=np.int64)  # alternating within each stratum
        for stratum in np.unique(self.strata):
            own = np.flatnonzero(self.strata == stratum)
            alternating[own] = (np.arange(len(own)) + stratum) % 2
        return [np.flatnonzero(whole | (alternating == half)) for half in (0, 1)]


class Process:
    """The process given samples of one game.

    Attributes:
        draws: of the samples that it is given, and `every` of all of them.
        known: the coalitions that it is given, bool [n, features], and `beyond` those that are sampled beside, [m,
            features].
        values: of all of them, float64 [n + m].
        covariance: the kernel.
    """

    def __init__(
        self, first: FloatArray, coalitions: BoolArray, values: FloatArray, draws: Draws, max_samples: int
    ) -> None:
        """Find the kernel of `values` [n + m] of `coalitions` [n + m, features], from about the first `max_samples`.

        `first` attributions [features] tell what matters.
        """
        blocks = min(len(draws.strata), (max_samples - draws.fixed) // draws.rows)
        fitted = draws.fixed + blocks * draws.rows
        self.draws, self.every = draws.first(blocks), draws
        self.known, self.beyond = coalitions[:fitted], coalitions[fitted:]
        self.values = values
        self._prior = Covariance.of(first)
        self.covariance = self._prior.fitted(self.known, _standardized(values[: min(fitted, MAX_SAMPLES)]))
        self._matrix = self.covariance.of_samples(self.known)

    def sampled(self, games: FloatArray) -> list[Sampled]:
        """What the process makes of `games`, float64 [games, n + m], values of all coalitions."""
        fitted = len(self.known)
        mean = games[:, :fitted].mean(axis=1, keepdims=True)
        scale = np.array([_scale(game) for game in games[:, :fitted] - mean])[:, None]
        values = (games - mean) / scale
        weights = np.array([self.whole.weights(each) for each in values[:, :fitted]])
        residuals = values[:, fitted:] - self._expected(weights)
        left = [self.whole.left(each) for each in weights]
        return [
            Sampled(
                scale=float(scale[game, 0]),
                values=values[game, :fitted],
                left=left[game],
                halves=[half.left(half.weights(values[game])) for half in self.halves],
                variance=self._variance(left[game]),
                optimism=self.optimism.factor(games[game, :fitted]),
                residuals=residuals[game],
            )
            for game in range(len(games))
        ]

    def _variance(self, left: FloatArray) -> float:
        """The process's variance as the means of blocks show it, from what is `left` of each, [blocks, rows]."""
        shown = left.mean(axis=1) ** 2 / self.whole.variances_of_means
        freedom = max(1, len(self.known) - self.covariance.parameters)
        return float(shown.mean()) * len(self.known) / freedom

    def _expected(self, weights: FloatArray) -> FloatArray:
        """What is expected of the coalitions beyond, [games, m], by each game's `weights` [games, n]."""
        parts = np.array_split(self.beyond, 1 + len(self.beyond) // _AT_ONCE)
        return np.hstack([weights @ self.covariance(self.known, part) for part in parts])

    @cached_property
    def whole(self) -> Fit:
        """Given all blocks."""
        return self._fit(np.arange(len(self.draws.strata)))

    @cached_property
    def halves(self) -> list[Fit]:
        """Given either half of the blocks."""
        return [self._fit(blocks) for blocks in self.draws.halves()]

    def _fit(self, blocks: IntArray) -> Fit:
        return Fit.of(self._matrix, self.draws, blocks)

    @cached_property
    def optimism(self) -> Optimism:
        """How much less a kernel leaves of what it was fitted to than of the rest; see `optimism`."""
        blocks = min(len(self.draws.strata), max(0, (MAX_SAMPLES - self.draws.fixed) // self.draws.rows))
        draws, every = self.draws.first(blocks), np.arange(blocks)
        whole, drawn = draws.coalitions(every), self.draws.known[draws.strata] < 1
        trials = []
        for half in draws.halves():
            own = draws.coalitions(half)
            kernel = self._prior.fitted(self.known[own], _standardized(self.values[own]))
            fit = Fit.of(kernel.of_samples(self.known[whole]), draws, every)
            mine = np.isin(every, half)
            trials.append(Trial(fit.leaves, np.flatnonzero(mine & drawn), np.flatnonzero(~mine & drawn)))
        return Optimism(trials, blocks / max(1, len(self.draws.strata)))


@dataclass(frozen=True)
class Fit:
    """The process given some blocks of the sample.

    Attributes:
        blocks: which, int64 [blocks]; their coalitions and the fixed ones are `own` [n] in the sample.
        inverse: of their covariances, float64 [n, n].
        alone: the parts of it that are of a block's own coalitions, [blocks, rows, rows].
        fixed: how many of the first of them are no block's.
    """

    blocks: IntArray
    own: IntArray
    inverse: FloatArray
    alone: FloatArray
    fixed: int

    @classmethod
    def of(cls, matrix: FloatArray, draws: Draws, blocks: IntArray) -> Fit:
        """Given `blocks` of a sample whose covariances are `matrix`, with noise, [n, n]."""
        own, rows = draws.coalitions(blocks), draws.rows
        inverse, _ = inverse_of(matrix[np.ix_(own, own)])
        drawn, each = slice(draws.fixed, None), np.arange(len(blocks))
        alone = inverse[drawn, drawn].reshape(len(blocks), rows, len(blocks), rows)[each, :, each, :]
        return cls(blocks, own, inverse, alone, draws.fixed)

    def leaves(self, values: FloatArray) -> FloatArray:
        """Of each block's `values` [n], what a fit without it leaves, [blocks, rows]."""
        own = values[self.own]
        return self.left(self.weights(values - own.mean()))

    @cached_property
    def variances_of_means(self) -> FloatArray:
        """Variances of the means of blocks, each given all others, [blocks]."""
        variances: FloatArray = np.linalg.inv(self.alone).mean(axis=(1, 2))
        return variances

    def weights(self, values: FloatArray) -> FloatArray:
        """What the expectation weighs the covariances with each of these coalitions by, [n], from all `values`."""
        weights: FloatArray = self.inverse @ values[self.own]
        return weights

    def left(self, weights: FloatArray) -> FloatArray:
        """Of each block's values, what a fit without it leaves, [blocks, rows]."""
        drawn = weights[self.fixed :].reshape(*self.alone.shape[:2], 1)
        return np.asarray(np.linalg.solve(self.alone, drawn)[..., 0], dtype=np.float64)

    def projector(self, cross: FloatArray) -> FloatArray:
        """What each value counts for in some answers, [answers, n], from their `cross` [answers, all coalitions]."""
        projector: FloatArray = cross[:, self.own] @ self.inverse
        return projector

    def pulls(self, projector: FloatArray, left: FloatArray) -> FloatArray:
        """By how much each block changes the answers, [blocks, answers]; `left` is what a fit without it leaves."""
        counts = projector[:, self.fixed :].reshape(len(projector), *left.shape)
        pulls: FloatArray = np.einsum("abr,br->ba", counts, left)
        return pulls


@dataclass(frozen=True)
class Sampled:
    """What a process makes of one game's values, which are divided by `scale` and have no mean.

    Attributes:
        values: of the coalitions that the process is given, [n].
        left: see `Fit.left`; `halves` are that of fits to either half.
        variance: of the process, as each block alone shows it: their mean is the most likely value (ibid. 5.4.1). A
            parameter that was fitted takes a sample, as in a regression. A block counts as its mean: of a coalition and
            its complement, an interaction is the same by either, so that their difference tells nothing of it.
        optimism: see `ml.explain.control_variates.optimism`; what squared residuals are multiplied by.
        residuals: what is left of the values beyond, which the process is not given, [m].
    """

    scale: float
    values: FloatArray
    left: FloatArray
    halves: list[FloatArray]
    variance: float
    optimism: float
    residuals: FloatArray


def _standardized(values: FloatArray) -> FloatArray:
    """`values` [n] without their mean, and of a variance about 1."""
    centred: FloatArray = values - values.mean()
    return centred / _scale(centred)


def _scale(centred: FloatArray) -> float:
    """What makes the variance of some values about 1: squares of the smallest probabilities would be 0."""
    largest = float(np.abs(centred).max()) or 1.0
    return largest * (float((centred / largest).std()) or 1.0)
