"""Answers about a game, with a fitted game as control variate, and their standard errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml.explain.control_variates.draws import Draws
from ml.explain.control_variates.jackknife import AnswerWeights, FittedAnswers
from ml.explain.control_variates.linear import Linear
from ml.explain.control_variates.process import Process, Sampled
from ml.explain.estimator import BoolArray, FloatArray
from ml.explain.sampling.errors import freedom_of, moderated

MAX_SAMPLES = 1024
"""The most samples that a process is fitted to: its cost grows with their third power."""
_IN_COMMON = 0.5
"""The part of a squared error by which the choice of the kernel has to exceed it before it counts."""


@dataclass(frozen=True)
class Answer:
    """Answers and their standard errors, float64 [answers] each.

    Attributes:
        freedom: degrees of freedom of the standard errors.
        surprise, missed_in: see `Estimate`.
    """

    values: FloatArray
    standard_errors: FloatArray
    freedom: float
    surprise: float = 0.0
    missed_in: float = np.inf


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
    """Linear answers for any games that were sampled at a process's coalitions.

    An answer is that for the fitted game, plus a share of what the samples that were not fitted add to it. The error of
    the first comes from the jackknife: how much it changes when a block of samples is left out.
    """

    def __init__(self, process: Process, linear: Linear) -> None:
        self._process = process
        self._chunks = list(linear.chunks(len(process.known)))

    def __call__(self, games: FloatArray) -> list[Answer]:
        """An answer for each of `games`, float64 [games, n]: their values of the process's coalitions."""
        sampled = self._process.sampled(games)
        return [self._answer(game, found) for game, found in zip(sampled, self._fitted(sampled), strict=True)]

    def _fitted(self, sampled: Sequence[Sampled]) -> list[FittedAnswers]:
        """The fit's answers for each game."""
        parts = [[weights.answers(game) for game in sampled] for weights in self._weights()]
        return [FittedAnswers.joined(each) for each in zip(*parts, strict=True)]

    def _weights(self) -> Iterator[AnswerWeights]:
        """The weights of each chunk. Several are computed each time: together they would take too much memory."""
        if len(self._chunks) == 1:
            yield self._only_weights
        else:
            yield from (AnswerWeights(self._process, chunk) for chunk in self._chunks)

    @cached_property
    def _only_weights(self) -> AnswerWeights:
        return AnswerWeights(self._process, self._chunks[0])

    def _answer(self, game: Sampled, fitted: FittedAnswers) -> Answer:
        unlike = self._unlike(game)
        share, (variances, freedom) = self._correction_share, self._variances(game, fitted, unlike)
        variances = np.maximum(variances, self._least(fitted)) + self._bias(game, fitted)
        variances = (1 - share) ** 2 * variances + share**2 * fitted.correction_variance
        values = fitted.values + share * fitted.correction
        if len(self._chunks) == 1 and not self._process_many:
            D, c = self._c
            values = values + (1 - share) * D @ (c * (D.T @ fitted.missed))
            dv = fitted.dv  # only right for the own game
            variances = variances + (1 - share)**2 * (D**2 @ (c**2 * dv))
        errors = game.scale * np.sqrt(variances)
        # The answers have their residuals in common, so that many answers know their size no better than one.
        freedom = min(freedom, game.freedom)
        return Answer(game.scale * values, errors, freedom, game.surprise, game.missed_in)

    @cached_property
    def _correction_share(self) -> float:
        """The share of the correction that is added: computed for the process's own game, and used for all games.

        The answers without and with the correction have independent errors, and are combined by inverse variance.
        """
        if not len(self._process.beyond):
            return 0.0
        own, fitted = self._own
        variances, _ = self._variances(own, fitted, 0.0)
        return float(variances.mean()) / (float((variances + fitted.correction_variance).mean()) or 1.0)

    @cached_property
    def _own(self) -> tuple[Sampled, FittedAnswers]:
        """The game that the kernel was fitted to."""
        sampled = self._process.sampled(self._process.values[None])
        return sampled[0], self._fitted(sampled)[0]

    def _unlike(self, game: Sampled) -> float:
        """The share, 0 to 1, of a game's variance that is not explained by the game that the kernel was fitted to."""
        own = self._own[0].values
        both = float(game.values @ game.values) * float(own @ own)
        return max(0.0, 1 - float(game.values @ own) ** 2 / both) if both else 0.0

    def _least(self, fitted: FittedAnswers) -> FloatArray:
        """The least squared errors, [answers], of a fit whose kernel has p parameters that are fitted to n samples.

        The blocks that are left out show by how much the fit misses others, and what this adds to the answers. As in a
        regression, fitted parameters leave p/(n − p) of its variance.
        """
        own = fitted.missed_variance
        return np.asarray(self._process.share_of_parameters * (own + own.mean()) / 2)

    def _bias(self, game: Sampled, fitted: FittedAnswers) -> FloatArray:
        """Squared errors, [answers], that are alike in all draws, so that leaving out a block does not show them.

        What the fit misses of the blocks that are left out adds to the answers. If that is more than its own deviation,
        on average over the answers, then the excess is a bias. With few samples a fit may also take something of all
        weak features and give it to the strong ones, which hardly shows in each of them. `_squared_bias` is another
        measure of it.
        """
        if self._process_many: return np.zeros(len(fitted.values))
        own, of = self._own
        D, c = self._c
        m = D.T @ fitted.missed
        left = fitted.missed - D @ (c * m)
        excess = max(0.0, float((left**2).mean() - fitted.missed_variance.mean()))
        alike = D**2 @ ((1 - c)**2 * np.maximum(0, m**2 - fitted.dv/2)) if self._process.has_few else 0.0
        return np.maximum(np.full(len(fitted.values), excess), alike)

    @property
    def _process_many(self): return self._chunks[0].are_many

    @cached_property
    def _c(self):
        own, fitted = self._own
        from ml.explain.control_variates.jackknife import _halves_by_size
        D = _halves_by_size(fitted.values)
        m2, v = fitted.dm**2, fitted.dv
        return D, np.maximum(0, m2 - v) / np.where(m2 > 0, m2, 1)

    def _squared_bias(self, fitted: FittedAnswers) -> FloatArray:
        """Squared errors, [answers], by which a kernel that was fitted to another game smooths too much.

        Leaving out a block does not show this, as it is alike in all blocks. But with more samples a kernel smooths
        less, so the difference between the fit to all and fits to halves shows how much. Only coalitions that were not
        sampled can be wrong.
        """
        bias = self._not_sampled * fitted.halves_shift**2
        return np.asarray((bias + bias.mean()) / 2)

    @property
    def _not_sampled(self) -> float:
        """The share of all blocks that were not sampled."""
        draws = self._process.draws
        return 1 - len(draws.strata) / float(draws.counts.sum())

    def _variances(self, game: Sampled, fitted: FittedAnswers, unlike: float) -> tuple[FloatArray, float]:
        """Squared errors of the fit's own answers, [answers], and their degrees of freedom.

        Another draw changes the kernel too, which the jackknife keeps as it is. The two changes have a part in common,
        about half of what the jackknife shows, so that of the first only the rest is added.
        """
        draws = self._process.draws
        is_open = draws.known < 1  # whether a stratum is not fully sampled
        squares = fitted.squares[is_open]
        shown = squares.sum(axis=0)
        variances = ((1 - draws.known[is_open, None]) * squares).sum(axis=0)
        if fitted.posterior is not None:
            scale = np.divide(shown, fitted.expected, out=np.zeros_like(shown), where=fitted.expected > 0)
            variances = fitted.posterior * scale
        blocks = int((draws.known[draws.strata] < 1).sum())
        own = freedom_of(shown, fitted.fourths, max(1, blocks))
        errors, freedom = moderated(np.sqrt(blocks / max(1, blocks - 1) * variances), own)
        squares = game.optimism * errors**2
        by_kernel = (fitted.kernel_variance + fitted.kernel_variance.mean()) / 2  # few kernels say little of an answer
        by_kernel *= self._not_sampled
        return squares + np.maximum(0, by_kernel - _IN_COMMON * squares), freedom
