"""A Gaussian process given samples of a game (Rasmussen & Williams 2006, chapter 2).

Its kernel is fitted once and then serves any games that were sampled at the same coalitions, such as the rows of a
target. Everything is linear in the values, so the results for rows that sum to the target sum to the target's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml.explain.control_variates.covariance import MAX_SAMPLES, Covariance, inverse_of
from ml.explain.control_variates.draws import Draws
from ml.explain.control_variates.optimism import Optimism, Trial
from ml.explain.estimator import BoolArray, FloatArray, IntArray
from ml.explain.sampling.errors import freedom_of

_ENOUGH = 10  # evaluations for each feature from which on no kernel was seen to suit them by accident
_SPLITS = 6  # of a smaller sample into halves
_AT_ONCE = 1024  # coalitions whose covariances with those of the fit are computed together


class Process:
    """The process given samples of one game.

    Attributes:
        draws: how the samples were drawn that it is given.
        every: how all samples were drawn.
        known: the coalitions that it is given, bool [n, features].
        beyond: the other sampled coalitions, bool [m, features].
        values: of all of them, float64 [n + m].
        covariance: the kernel.
        matrix: the covariances of the coalitions that it is given, with noise, float64 [n, n].
    """

    def __init__(
        self, first: FloatArray, coalitions: BoolArray, values: FloatArray, draws: Draws, max_samples: int
    ) -> None:
        """Fit the kernel to about the first `max_samples` of `values` [n + m] of `coalitions` [n + m, features].

        `first` are rough attributions [features], the features' relevance before the fit.
        """
        blocks = min(len(draws.strata), (max_samples - draws.fixed) // draws.rows)
        fitted = draws.fixed + blocks * draws.rows
        self.draws, self.every = draws.first(blocks), draws
        self.known, self.beyond = coalitions[:fitted], coalitions[fitted:]
        self.values = values
        self._prior = Covariance.of(first)
        self.covariance = self._prior.fitted(self.known, _standardized(values[: min(fitted, MAX_SAMPLES)]))
        self.matrix = self.covariance.of_samples(self.known)

    def sampled(self, games: FloatArray) -> list[Sampled]:
        """The process given the values of `games`, float64 [games, n + m], for all coalitions."""
        fitted = len(self.known)
        mean = games[:, :fitted].mean(axis=1, keepdims=True)
        scale = np.array([_scale(game) for game in games[:, :fitted] - mean])[:, None]
        values = (games - mean) / scale
        weights = np.array([self.whole.weights(each) for each in values[:, :fitted]])
        residuals = values[:, fitted:] - self._expected(weights)
        left_out = [self.whole.left_out(each) for each in weights]
        return [
            Sampled(
                scale=float(scale[game, 0]),
                values=values[game, :fitted],
                left_out=left_out[game],
                optimism=self.optimism.factor(values[game, :fitted]),
                surprise=self.whole.surprise(weights[game]),
                residuals=residuals[game],
            )
            for game in range(len(games))
        ]

    @cached_property
    def own(self) -> Sampled:
        """The game that the kernel was fitted to."""
        return self.sampled(self.values[None])[0]

    def _expected(self, weights: FloatArray) -> FloatArray:
        """The expected values of the coalitions beyond, [games, m], from the `weights` [games, n]."""
        parts = np.array_split(self.beyond, 1 + len(self.beyond) // _AT_ONCE)
        return np.hstack([weights @ self.covariance(self.known, part) for part in parts])

    @cached_property
    def whole(self) -> Fit:
        """The fit to all blocks."""
        return Fit.of(self.matrix, self.draws, np.arange(len(self.draws.strata)))

    @cached_property
    def optimism(self) -> Optimism:
        """The optimism of the kernel, from kernels of either half; see `optimism`."""
        every, is_open = np.arange(len(self.first.strata)), self.first.known[self.first.strata] < 1
        trials = []
        for each in self.kernels_of_halves:
            mine = np.isin(every, each.blocks)
            own, others = np.flatnonzero(mine & is_open), np.flatnonzero(~mine & is_open)
            trials.append(Trial(each.fit.residuals, own, others))
        more = [each.fit.residuals for each in self._kernels_of_random_halves()]
        return Optimism(self.own_kernel.fit.residuals, trials, more, self.share)

    @property
    def has_few(self) -> bool:
        """Whether samples are so few for the features that a kernel may suit them by accident."""
        return len(self.values) < _ENOUGH * int(self.known.shape[1])

    def _kernels_of_random_halves(self) -> Iterator[Kernel]:
        """Kernels of random halves of the samples, where these are so few that a kernel may suit them by accident."""
        if not self.has_few:
            return
        random = np.random.default_rng(0)
        for _ in range(_SPLITS):
            yield from map(self._kernel_of, self.first.halves(random))

    @cached_property
    def first(self) -> Draws:
        """The blocks that the kernel was fitted to."""
        blocks = max(0, (MAX_SAMPLES - self.draws.fixed) // self.draws.rows)
        return self.draws.first(min(len(self.draws.strata), blocks))

    @property
    def share(self) -> float:
        """The part of the blocks that the kernel was fitted to."""
        return len(self.first.strata) / max(1, len(self.draws.strata))

    @property
    def share_of_parameters(self) -> float:
        """p/(n − p) for p parameters of the kernel, which is fitted to n samples; 1 at most."""
        parameters = self.covariance.parameters
        samples = self.first.fixed + self.first.rows * len(self.first.strata)
        return parameters / max(parameters, samples - parameters)

    @cached_property
    def own_kernel(self) -> Kernel:
        """The kernel in use."""
        if self.share == 1:
            return Kernel(self.covariance, np.arange(len(self.first.strata)), self.whole)
        return self._kernel(self.covariance, np.arange(len(self.first.strata)))

    @cached_property
    def kernels_of_halves(self) -> list[Kernel]:
        """Kernels that were fitted to either half of the blocks that the one in use was fitted to."""
        return [self._kernel_of(half) for half in self.first.halves()]

    def _kernel_of(self, blocks: IntArray) -> Kernel:
        """A kernel that is fitted to `blocks` of those that the one in use was fitted to."""
        own = self.first.coalitions(blocks)
        return self._kernel(self._prior.fitted(self.known[own], _standardized(self.values[own])), blocks)

    def _kernel(self, covariance: Covariance, blocks: IntArray) -> Kernel:
        every = np.arange(len(self.first.strata))
        matrix = covariance.of_samples(self.known[self.first.coalitions(every)])
        return Kernel(covariance, blocks, Fit.of(matrix, self.first, every))


@dataclass(frozen=True)
class Kernel:
    """A kernel that was fitted to some blocks of a sample.

    Attributes:
        covariance: the kernel.
        blocks: the blocks that it was fitted to.
        fit: the process with this kernel, given all of the first blocks.
    """

    covariance: Covariance
    blocks: IntArray
    fit: Fit


@dataclass(frozen=True)
class Fit:
    """The process given some blocks of the sample.

    Attributes:
        blocks: their indices, int64 [blocks].
        own: the indices of the fixed coalitions and of the blocks' coalitions in the sample, int64 [n].
        inverse: of their covariances, float64 [n, n].
        alone: the diagonal blocks of the inverse, [blocks, rows, rows].
        fixed: how many of the first coalitions belong to no block.
    """

    blocks: IntArray
    own: IntArray
    inverse: FloatArray
    alone: FloatArray
    fixed: int

    @classmethod
    def of(cls, matrix: FloatArray, draws: Draws, blocks: IntArray) -> Fit:
        """The fit to `blocks` of a sample with covariances `matrix`, with noise, [n, n]."""
        own, rows = draws.coalitions(blocks), draws.rows
        inverse, _ = inverse_of(matrix[np.ix_(own, own)])
        drawn, each = slice(draws.fixed, None), np.arange(len(blocks))
        alone = inverse[drawn, drawn].reshape(len(blocks), rows, len(blocks), rows)[each, :, each, :]
        return cls(blocks, own, inverse, alone, draws.fixed)

    def residuals(self, values: FloatArray) -> FloatArray:
        """As `left_out`, from `values` [n] of all coalitions."""
        own = values[self.own]
        return self.left_out(self.weights(values - own.mean()))

    def weights(self, values: FloatArray) -> FloatArray:
        """The weights of the covariances with these coalitions in an expected value, [n], from all `values`."""
        weights: FloatArray = self.inverse @ values[self.own]
        return weights

    def left_out(self, weights: FloatArray) -> FloatArray:
        """The residuals of each block when it is left out, [blocks, rows]."""
        drawn = weights[self.fixed :].reshape(*self.alone.shape[:2], 1)
        return np.asarray(np.linalg.solve(self.alone, drawn)[..., 0], dtype=np.float64)

    def surprise(self, weights: FloatArray) -> float:
        """How far the value of a fixed coalition is from what all others make expected, beside those that were drawn.

        Distances are in standard deviations by the covariance, and compared with the root mean square of the drawn
        ones. Above a few the kernel does not suit the game there, and no drawn coalition shows it.
        """
        squares = weights**2 / np.diagonal(self.inverse)
        drawn = float(squares[self.fixed :].mean())
        return math.sqrt(float(squares[: self.fixed].max(initial=0.0)) / drawn) if drawn > 0 else 0.0

    def projector(self, cross: FloatArray) -> FloatArray:
        """The weights of the values in answers, [answers, n], from `cross` covariances [answers, all coalitions]."""
        projector: FloatArray = cross[:, self.own] @ self.inverse
        return projector

    def changes(self, projector: FloatArray, left_out: FloatArray) -> FloatArray:
        """How much leaving out each block changes the answers, [blocks, answers], from residuals `left_out`."""
        weights = projector[:, self.fixed :].reshape(len(projector), *left_out.shape)
        changes: FloatArray = np.einsum("abr,br->ba", weights, left_out)
        return changes

    def expected_squares(self, projector: FloatArray) -> FloatArray:
        """The expected squares of `changes` in games drawn from the process, [blocks, answers]."""
        weights = projector[:, self.fixed :].reshape(len(projector), *self.alone.shape[:2])
        squares: FloatArray = np.einsum("abr,brs,abs->ba", weights, np.linalg.inv(self.alone), weights)
        return squares


@dataclass(frozen=True)
class Sampled:
    """A process given one game's values, without their mean and divided by `scale`.

    Attributes:
        values: of the coalitions that the process is given, [n].
        left_out: the residuals of each block when it is left out, [blocks, rows].
        optimism: the factor of squared residuals; see `optimism`.
        surprise: see `Fit.surprise`.
        residuals: of the values that the process is not given, [m].
    """

    scale: float
    values: FloatArray
    left_out: FloatArray
    optimism: float
    surprise: float
    residuals: FloatArray

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the mean square of what the fits without a sample miss: few if few samples hold it."""
        squares = self.left_out.ravel() ** 2
        [freedom] = freedom_of(squares.sum(keepdims=True), (squares**2).sum(keepdims=True), len(squares))
        return int(freedom)

    @property
    def missed_in(self) -> float:
        """How many samples hold what the fits without them miss: (Σ r²)² / Σ r⁴."""
        squares = self.left_out**2
        fourths = float((squares**2).sum())
        return float(squares.sum()) ** 2 / fourths if fourths > 0 else math.inf


def _standardized(values: FloatArray) -> FloatArray:
    """`values` [n] without their mean, and with a variance of about 1."""
    centred: FloatArray = values - values.mean()
    return centred / _scale(centred)


def _scale(centred: FloatArray) -> float:
    """The standard deviation of values, without underflow for tiny probabilities; 1 for constant ones."""
    largest = float(np.abs(centred).max()) or 1.0
    return largest * (float((centred / largest).std()) or 1.0)
