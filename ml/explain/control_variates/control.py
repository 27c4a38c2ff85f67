"""Answers about a game, with a fitted game as control variate, and their standard errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

import numpy as np

from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.process import Draws, Process, Sampled
from ml.explain.estimator import BoolArray, FloatArray
from ml.explain.sampling.errors import freedom_of, moderated

MAX_SAMPLES = 1024
"""The most samples that a process is fitted to: its cost grows with their third power."""
_FASTEST = 2.0
"""The fastest rate at which a squared error is assumed to fall; a mean's is 1. Fast starts do not last."""


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

    def prior(self, covariance: Covariance) -> FloatArray | None:
        """The answers' variances over games drawn from the process, with its noise, [answers].

        None where there are enough samples for each answer to do without.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """Answers and their standard errors, float64 [answers] each, and the degrees of freedom of these."""

    values: FloatArray
    standard_errors: FloatArray
    freedom: float


class Control:
    """A game fitted to samples of another, as control variate for answers that are linear in values."""

    def __init__(
        self, first: FloatArray, coalitions: BoolArray, values: FloatArray, draws: Draws, max_samples: int = MAX_SAMPLES
    ) -> None:
        """Fit to about the first `max_samples` of `values` [n] of `coalitions` [n, features].

        `first` are rough attributions [features], from which the fit begins.
        """
        self._process = Process(first, coalitions, values, draws, max_samples)

    def estimate(self, linear: Linear) -> Answer:
        """The answers for the game that was sampled."""
        [answer] = self.answers(linear)(self._process.values[None])
        return answer

    def answers(self, linear: Linear) -> Answers:
        """The answers for any games that were sampled at the same coalitions."""
        return Answers(self._process, linear)


class Answers:
    """Linear answers for any games that were sampled at a process's coalitions."""

    def __init__(self, process: Process, linear: Linear) -> None:
        self._process = process
        self._chunks = list(linear.chunks(len(process.known)))

    def __call__(self, games: FloatArray) -> list[Answer]:
        """An answer for each of `games`, float64 [games, n]: their values of the process's coalitions."""
        sampled = self._process.sampled(games)
        return [self._answer(game, found) for game, found in zip(sampled, self._found(sampled), strict=True)]

    def _found(self, sampled: Sequence[Sampled]) -> list[_Found]:
        parts = [[part.found(game) for game in sampled] for part in self._parts()]
        return [_Found.joined(each) for each in zip(*parts, strict=True)]

    def _parts(self) -> Iterator[_Part]:
        """The parts of the answers; several are made anew each time, as together they would take too much memory."""
        if len(self._chunks) == 1:
            yield self._only_part
        else:
            yield from (_Part(self._process, chunk) for chunk in self._chunks)

    @cached_property
    def _only_part(self) -> _Part:
        return _Part(self._process, self._chunks[0])

    @cached_property
    def _share(self) -> float:
        """The weight of samples that were not fitted: computed for the process's own game, and used for all games.

        It combines two answers with independent errors by inverse variance: that of the fit, and the one that adds the
        residuals of those samples.
        """
        if not len(self._process.beyond):
            return 0.0
        own, found = self._own
        variances, _ = self._variances(own, found, 0.0)
        return float(variances.mean()) / (float((variances + found.noise).mean()) or 1.0)

    @cached_property
    def _own(self) -> tuple[Sampled, _Found]:
        """The game that the kernel was fitted to."""
        sampled = self._process.sampled(self._process.values[None])
        return sampled[0], self._found(sampled)[0]

    def _answer(self, game: Sampled, found: _Found) -> Answer:
        unlike = self._unlike(game)
        share, scale, (variances, freedom) = self._share, game.scale, self._variances(game, found, unlike)
        # A kernel of another game smooths too much, in all blocks alike, which leaving one out does not show. With more
        # samples it smooths less, so the difference between the fit to all and fits to halves shows how much.
        # Only coalitions that were not sampled can be wrong.
        draws = self._process.draws
        bias = (1 - len(draws.strata) / float(draws.counts.sum())) * found.shift**2
        variances = variances + unlike * (bias + bias.mean()) / 2
        variances = (1 - share) ** 2 * variances + share**2 * found.noise
        return Answer(scale * (found.values + share * found.rest), scale * np.sqrt(variances), freedom)

    def _unlike(self, game: Sampled) -> float:
        """The share, 0 to 1, of a game's variance that is not explained by the game that the kernel was fitted to."""
        own = self._own[0].values
        both = float(game.values @ game.values) * float(own @ own)
        return max(0.0, 1 - float(game.values @ own) ** 2 / both) if both else 0.0

    def _variances(self, game: Sampled, found: _Found, unlike: float) -> tuple[FloatArray, float]:
        """Squared errors of the fit's own answers, [answers], and their degrees of freedom."""
        draws = self._process.draws
        open_ = draws.known < 1
        squares = found.squares[open_]
        # A fit learns faster than a mean only with a kernel that suits the game.
        rate = 1 + (1 - unlike) * (_rate(squares, found.half) - 1)
        left = (1 - draws.known[open_, None] ** rate) / rate
        blocks = int((draws.known[draws.strata] < 1).sum())
        variances = blocks / max(1, blocks - 1) * (left * squares).sum(axis=0)
        variances, freedom = moderated(variances, freedom_of(squares.sum(axis=0), found.fourths, max(1, blocks)))
        return game.optimism * np.maximum(variances, found.posterior), freedom


def _rate(squares: FloatArray, half: FloatArray) -> float:
    """The power of the number of samples with which the squared error falls, from 1 to `_FASTEST`."""
    whole, halves = float(squares.sum()), float(half.sum())
    return float(np.clip(np.log2(halves / whole), 1, _FASTEST)) if whole > 0 and halves > 0 else 1.0


class _Part:
    """A part of some answers: the weights of the sampled values in them."""

    def __init__(self, process: Process, linear: Linear) -> None:
        self._process, self._linear = process, linear
        cross = linear.cross(process.covariance, process.known)
        cross += process.covariance.noise * linear.weights(process.known).T
        self._projector = process.whole.projector(cross)
        self._halves = [half.projector(cross) for half in process.halves]
        prior = linear.prior(process.covariance)
        self._posterior = np.zeros(len(cross))
        if prior is not None:
            self._posterior = np.maximum(prior - np.einsum("an,an->a", self._projector, cross), 0)

    def found(self, game: Sampled) -> _Found:
        """These answers for one game."""
        draws, answers = self._process.draws, len(self._projector)
        pulls = self._process.whole.pulls(self._projector, game.left)
        drawn_from = draws.strata == np.arange(len(draws.counts))[:, None]  # [strata, blocks]
        open_ = draws.known[draws.strata] < 1
        half, of_halves = np.zeros(answers), np.zeros(answers)
        for fit, projector, left in zip(self._process.halves, self._halves, game.halves, strict=True):
            half += (fit.pulls(projector, left)[open_[fit.blocks]] ** 2).sum(axis=0) / 2
            of_halves += projector @ game.values[fit.own] / 2
        rest, noise = self._unseen(game.residuals) if len(game.residuals) else np.zeros((2, answers))
        values = self._projector @ game.values
        return _Found(
            squares=drawn_from @ pulls**2,
            fourths=(pulls[open_] ** 4).sum(axis=0),
            half=half,
            values=values,
            shift=values - of_halves,
            posterior=game.variance * self._posterior,
            rest=rest,
            noise=noise,
        )

    def _unseen(self, residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
        """An estimate of what the fit misses, from the samples that were not fitted, and its variance."""
        draws, every = self._process.draws, self._process.every
        pulls = self._weights * residuals[:, None]
        pulls = pulls.reshape(-1, draws.rows, pulls.shape[1]).sum(axis=1)
        strata = every.strata[len(draws.strata) :]
        left = draws.counts * (1 - draws.known)
        total, variances = np.zeros((2, pulls.shape[1]))
        for stratum in np.unique(strata):
            own, count = pulls[strata == stratum], left[stratum]
            many = len(own)
            total += count / many * own.sum(axis=0)
            # A single one does not show its stratum's mean.
            spread = own.var(axis=0, ddof=1) if many > 1 else own[0] ** 2
            variances += count * (count - many) / many * spread
        return total, variances

    @cached_property
    def _weights(self) -> FloatArray:
        """The weights of the coalitions that were not fitted, [m, answers]."""
        return self._linear.weights(self._process.beyond)


@dataclass(frozen=True)
class _Found:
    """Answers for one game, and what their errors are computed from; float64 [answers] each.

    Attributes:
        squares: squared changes by leaving out a block, summed by stratum, [strata, answers].
        fourths: the same to the fourth power, summed over strata that are not fully sampled.
        half: the sum of `squares` over these strata, for a fit to half of the samples.
        values: the fit's answers.
        shift: the difference from the mean of two fits to halves.
        posterior: the process's posterior variances, 0 where they are not needed.
        rest: what samples that were not fitted add.
        noise: the variance of `rest`.
    """

    squares: FloatArray
    fourths: FloatArray
    half: FloatArray
    values: FloatArray
    shift: FloatArray
    posterior: FloatArray
    rest: FloatArray
    noise: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[_Found]) -> _Found:
        """The answers of all `parts`."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))
