"""Control variates: what a fitted game explains of the model's values is not left to the draw of coalitions.

A Gaussian process is fitted to the values sampled so far (Rasmussen & Williams 2006, chapter 2). What a method answers
about the *fitted* game costs no evaluations, and it is computed exactly; that is Bayesian quadrature (O'Hagan 1991).
What the process cannot tell is taken for part of the game, independent from coalition to coalition: so every sample
counts as itself, and only the coalitions that were not sampled leave anything open.

No game is drawn from a process, so its own posterior deviations are no measure of the error. The jackknife is one: how
much the answer changes when a sample is left out, which has a closed form. Added up over the samples, these changes are
the error that is left if it falls as that of a mean does, with the square root of the samples. A fit learns faster than
that, and how much faster show the same changes in fits to either half of the samples. What no sample bears on, leaving
one out does not change: where answers are too many to be told apart, the process is asked as well, and the larger error
counts.

Language models' values are dominated by a few features and their interactions: what the process expects of two
coalitions says `ml.explain.covariance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

import numpy as np

from ml.explain.covariance import Covariance, inverse_of
from ml.explain.estimator import BoolArray, FloatArray, IntArray
from ml.explain.sampling import freedom_of, moderated

MAX_SAMPLES = 1024
"""Samples that a process is fitted to: its cost grows with their third power."""
_FASTEST = 2.0
"""Of the rates at which a squared error may fall, the most that is believed: a mean's is 1, and no start lasts."""
_AT_ONCE = 1024  # coalitions that are compared with those of the fit


class Linear(Protocol):
    """Answers that are linear in a game's values: Σ weight · v over all coalitions."""

    def chunks(self, rows: int) -> Iterator[Linear]:
        """Parts of it, so small that a matrix of so many rows by their answers is not too large."""
        ...

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """What `coalitions` [n, features] count for, [n, answers]."""
        ...

    def cross(self, covariance: Covariance, others: BoolArray) -> FloatArray:
        """The answers about the games k(·, t), t in `others` [m, features]. Returns [answers, m]."""
        ...

    def prior(self, covariance: Covariance) -> FloatArray | None:
        """The answers' variances over the games drawn from the process, with its noise, [answers].

        None where there are so many samples for each answer that the process need not be asked.
        """
        ...


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


@dataclass(frozen=True)
class Answer:
    """Answers and their standard errors, float64 [answers] each, with the degrees of freedom of these."""

    values: FloatArray
    standard_errors: FloatArray
    freedom: float


class Control:
    """A game fitted to samples of another, and what it makes of answers that are linear in values."""

    def __init__(
        self, first: FloatArray, coalitions: BoolArray, values: FloatArray, draws: Draws, max_samples: int = MAX_SAMPLES
    ) -> None:
        """Fit to `values` [n] of `coalitions` [n, features], to about the first `most` of them.

        `first` attributions [features] tell what matters.
        """
        blocks = min(len(draws.strata), (max_samples - draws.fixed) // draws.rows)
        fitted = draws.fixed + blocks * draws.rows
        self._draws, self._every = draws.first(blocks), draws
        self._known, self._beyond = coalitions[:fitted], coalitions[fitted:]
        mean = float(values[:fitted].mean())
        centred = values[:fitted] - mean
        largest = float(np.abs(centred).max()) or 1.0  # squares of the smallest probabilities would be 0
        self._scale = largest * (float((centred / largest).std()) or 1.0)
        self._values = centred / self._scale
        self._covariance = Covariance.of(first).fitted(self._known, self._values)
        self._matrix = self._covariance(self._known, self._known)
        self._matrix.flat[:: fitted + 1] += self._covariance.noise
        self._rest = (values[fitted:] - mean) / self._scale

    def estimate(self, linear: Linear) -> Answer:
        """The answers about the game that was sampled."""
        found = _Found.joined([self._chunk(part) for part in linear.chunks(len(self._known))])
        values = found.values
        open_ = self._draws.known < 1
        squares = found.squares[open_]
        rate = self._rate(squares, found.half)
        left = (1 - self._draws.known[open_, None] ** rate) / rate
        blocks = int((self._draws.known[self._draws.strata] < 1).sum())
        variances = blocks / max(1, blocks - 1) * (left * squares).sum(axis=0)
        variances, freedom = moderated(variances, freedom_of(squares.sum(axis=0), found.fourths, max(1, blocks)))
        variances = np.maximum(variances, found.posterior)
        if len(self._rest):
            # Two answers whose errors are independent, weighed by how sure they are: the fit's, and that which adds
            # the residuals of samples that the fit has not seen.
            share = float(variances.mean()) / (float((variances + found.noise).mean()) or 1.0)
            values = values + share * found.rest
            variances = (1 - share) ** 2 * variances + share**2 * found.noise
        return Answer(self._scale * values, self._scale * np.sqrt(variances), freedom)

    def _chunk(self, linear: Linear) -> _Found:
        cross = linear.cross(self._covariance, self._known)
        cross += self._covariance.noise * linear.weights(self._known).T
        fit = self._whole
        pulls = fit.pulls(cross)  # [blocks, answers]
        strata = len(self._draws.counts)
        squares = np.zeros((strata, len(cross)))
        np.add.at(squares, self._draws.strata, pulls**2)
        open_ = self._draws.known[self._draws.strata] < 1
        half = np.zeros(len(cross))
        for part in self._halves:
            half += (part.pulls(cross)[open_[part.blocks]] ** 2).sum(axis=0) / 2
        fourths = (pulls[open_] ** 4).sum(axis=0)
        rest, noise = self._unseen(linear) if len(self._rest) else np.zeros((2, len(cross)))
        prior = linear.prior(self._covariance)
        posterior = np.zeros(len(cross))
        if prior is not None:
            posterior = self._variance * np.maximum(prior - np.einsum("an,an->a", cross @ fit.inverse, cross), 0)
        return _Found(squares, fourths, half, cross @ fit.weights, posterior, rest, noise)

    def _unseen(self, linear: Linear) -> tuple[FloatArray, FloatArray]:
        """The plain estimate of what the fit leaves, from the samples that it has not seen, and its variance."""
        parts = np.array_split(self._beyond, 1 + len(self._beyond) // _AT_ONCE)
        expected = np.concatenate([self._covariance(part, self._known) @ self._whole.weights for part in parts])
        pulls = linear.weights(self._beyond) * (self._rest - expected)[:, None]
        pulls = pulls.reshape(-1, self._draws.rows, pulls.shape[1]).sum(axis=1)
        strata = self._every.strata[len(self._draws.strata) :]
        left = self._draws.counts * (1 - self._draws.known)
        total, variances = np.zeros((2, pulls.shape[1]))
        for stratum in np.unique(strata):
            own, count = pulls[strata == stratum], left[stratum]
            many = len(own)
            total += count / many * own.sum(axis=0)
            # One alone does not show its stratum's mean.
            spread = own.var(axis=0, ddof=1) if many > 1 else own[0] ** 2
            variances += count * (count - many) / many * spread
        return total, variances

    def _rate(self, squares: FloatArray, half: FloatArray) -> float:
        """The power of the number of samples with which the squared error falls, from 1 to `_FASTEST`."""
        whole, halves = float(squares.sum()), float(half.sum())
        return float(np.clip(np.log2(halves / whole), 1, _FASTEST)) if whole > 0 and halves > 0 else 1.0

    @property
    def _variance(self) -> float:
        """Of the process, as each sample alone shows it: their mean is the most likely value (ibid. 5.4.1).

        A parameter that was fitted takes a sample, as in a regression.
        """
        weights, many = self._whole.weights, len(self._values)
        shown = weights**2 / np.diag(self._whole.inverse)
        return float(shown.sum()) / max(1, many - self._covariance.parameters)

    @cached_property
    def _whole(self) -> _Fit:
        return self._fit(np.arange(len(self._draws.strata)))

    @cached_property
    def _halves(self) -> list[_Fit]:
        return [self._fit(blocks) for blocks in self._draws.halves()]

    def _fit(self, blocks: IntArray) -> _Fit:
        own = self._draws.coalitions(blocks)
        inverse, _ = inverse_of(self._matrix[np.ix_(own, own)])
        weights = inverse @ self._values[own]
        drawn = slice(self._draws.fixed, None)
        many, rows = len(blocks), self._draws.rows
        each = np.arange(many)
        alone = inverse[drawn, drawn].reshape(many, rows, many, rows)[each, :, each, :]
        left = np.asarray(np.linalg.solve(alone, weights[drawn].reshape(many, rows, 1))[..., 0], dtype=np.float64)
        return _Fit(blocks, own, inverse, weights, left, self._draws.fixed)


@dataclass(frozen=True)
class _Found:
    """What is found of some answers, float64 [answers] each.

    Attributes:
        squares: of what leaving out a block changes, their sums by stratum, [strata, answers].
        fourths: the sums of their squares, of strata that are not known whole.
        half: as the sum of `squares` over such strata, of a fit to half of the samples.
        values: what the fit says.
        posterior: variances that the process leaves open, 0 where it is not asked.
        rest: what samples add that the fit has not seen, and `noise`, the variance of that.
    """

    squares: FloatArray
    fourths: FloatArray
    half: FloatArray
    values: FloatArray
    posterior: FloatArray
    rest: FloatArray
    noise: FloatArray

    @classmethod
    def joined(cls, parts: list[_Found]) -> _Found:
        """Of all answers of `parts`."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))


@dataclass(frozen=True)
class _Fit:
    """The process given some blocks of the sample.

    Attributes:
        blocks: which, int64 [blocks]; their coalitions and the fixed ones are `own` [n] in the sample.
        inverse: of their covariances, float64 [n, n].
        weights: what the fit's expectation weighs the covariances with each of them by, float64 [n].
        left: of each block's values, what a fit without it leaves, float64 [blocks, rows].
        fixed: how many of the first of them are no block's.
    """

    blocks: IntArray
    own: IntArray
    inverse: FloatArray
    weights: FloatArray
    left: FloatArray
    fixed: int

    def pulls(self, cross: FloatArray) -> FloatArray:
        """By how much each block changes the answers, float64 [blocks, answers]."""
        counts = (cross[:, self.own] @ self.inverse[:, self.fixed :]).reshape(len(cross), *self.left.shape)
        pulls: FloatArray = np.einsum("abr,br->ba", counts, self.left)
        return pulls
