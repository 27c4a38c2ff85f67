"""Answers about a game, with a fitted game as control variate, and their standard errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml.explain.control_variates.draws import Draws
from ml.explain.control_variates.jackknife import AnswerWeights, FittedAnswers
from ml.explain.control_variates.linear import Linear
from ml.explain.control_variates.missed import InCommon, Missed
from ml.explain.control_variates.process import Process, Sampled
from ml.explain.estimator import BoolArray, FloatArray
from ml.explain.sampling.errors import freedom_of, moderated

MAX_SAMPLES = 1024
"""The most samples that a process is fitted to: its cost grows with their third power."""
_OVERLAP = 0.5
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

    An answer is that for the fitted game, corrected by what left-out samples show many answers to lack alike, and by a
    share of what the samples that were not fitted add to it. The error of the fitted game's answer comes from the
    jackknife: how much it changes when a block of samples is left out.
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
        share, (variances, freedom) = self._correction_share, self._variances(game, fitted)
        in_common, bias = self._in_common(fitted)
        variances = variances + in_common.variance + bias
        variances = (1 - share) ** 2 * variances + share**2 * fitted.correction_variance
        values = fitted.values + (1 - share) * in_common.lack + share * fitted.correction
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
        variances, _ = self._variances(self._process.own, self._own)
        return float(variances.mean()) / (float((variances + self._own.correction_variance).mean()) or 1.0)

    def _in_common(self, fitted: FittedAnswers) -> tuple[Missed, FloatArray]:
        """The correction by what the fit misses alike in many answers, and squares of what it leaves, [answers].

        Leaving out a block does not show what is alike in all draws. If what left-out blocks add to the answers is more
        than its own deviation, on average over the answers, then the excess is alike in all draws, too.
        """
        draws, shown = self._process.draws, fitted.shown
        missed = Missed.of(shown, draws.strata, draws)
        correction, left = Missed.nothing(len(missed.lack)), np.zeros(len(missed.lack))
        if self._common is not None:
            correction, left = self._common.believed(shown, draws)
        excess = float(((missed.lack - correction.lack) ** 2).mean() - missed.variance.mean())
        return correction, np.maximum(left, max(0.0, excess))

    @cached_property
    def _common(self) -> InCommon | None:
        """None where answers are many: what these lack has no direction in common."""
        if self._chunks[0].are_many:
            return None
        return InCommon.of(self._own.values, self._own.shown, self._process.draws)

    @cached_property
    def _own(self) -> FittedAnswers:
        """The answers for the game that the kernel was fitted to."""
        return self._fitted([self._process.own])[0]

    def _variances(self, game: Sampled, fitted: FittedAnswers) -> tuple[FloatArray, float]:
        """Squared errors of the fit's own answers, [answers], and their degrees of freedom.

        In games drawn from the process these would be the posterior variances, and leaving out each block would change
        an answer by a known amount. The game at hand changes it by more or less: so are the errors. As in a regression,
        p parameters of a kernel leave p/(n - p) of the variance more, if they are fitted to this game.

        Another draw changes the kernel too, which the jackknife keeps as it is. The two changes have a part in common,
        about half of what the jackknife shows, so that of the first only the rest is added.
        """
        draws = self._process.draws
        is_open = draws.known < 1  # whether a stratum is not fully sampled
        squares = fitted.squares[is_open]
        shown = squares.sum(axis=0)
        if fitted.posterior is None:
            variances = ((1 - draws.known[is_open, None]) * squares).sum(axis=0)
        else:
            pooled = float(shown.sum()) / (float(fitted.expected.sum()) or 1.0)
            scale = np.divide(shown, fitted.expected, out=np.full(len(shown), pooled), where=fitted.expected > 0)
            variances = fitted.posterior * scale
        blocks = int((draws.known[draws.strata] < 1).sum())
        own = freedom_of(shown, fitted.fourths, max(1, blocks))
        errors, freedom = moderated(np.sqrt(blocks / max(1, blocks - 1) * variances), own)
        squares = max(game.optimism, 1 + self._likeness(game) * self._process.share_of_parameters) * errors**2
        by_kernel = (fitted.kernel_variance + fitted.kernel_variance.mean()) / 2  # few kernels say little of an answer
        return squares + np.maximum(0, self._not_sampled * by_kernel - _OVERLAP * squares), freedom

    def _likeness(self, game: Sampled) -> float:
        """The share, 0 to 1, of a game's variance that the game explains to which the kernel was fitted."""
        own = self._process.own.values
        both = float(game.values @ game.values) * float(own @ own)
        return min(1.0, float(game.values @ own) ** 2 / both) if both else 1.0

    @property
    def _not_sampled(self) -> float:
        """The share of all blocks that were not sampled."""
        draws = self._process.draws
        return 1 - len(draws.strata) / float(draws.counts.sum())
