"""Whether a faster model of lower precision may do the rest of a job: some of its own prompts are computed with both.

An error of 0.002 nats is nothing where a word moves the prediction by 3, and everything where no word moves it by 0.01.
So errors are held against the spread of the job's own values. That spread is what the effects and, where an explainer
samples, its sampling error are made of; errors of a share of `TOLERANCE` of it leave attributions that correlate with
the exact ones by more than 0.999.

The exact half of a trial is work that has to be done anyway; the other half is lost where it is refused. So few prompts
are not worth one, and no model is tried whose errors elsewhere say that it would be refused here. What a trial found is
not kept for the next job, whose values have a spread of their own: equal jobs have equal results, whatever came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import FloatArray
from ml.models.protocol import RoundedModel

TOLERANCE = 0.04
"""Largest root mean square of the errors, as a share of the values' standard deviation.

Three quarters of it for a small sample: a few errors are small by luck more easily.
"""
_LARGE, _SMALL = 8, 4
"""Prompts of a trial, of many and of few."""
_PROMPTS_EACH = 16
"""Prompts for each of those in a trial: a refused one costs less than a twentieth of a job."""
_EXACT_EACH = 2
"""Prompts that are computed exactly for each that is tried: a spread takes more of them to tell than an error does."""
_LAST = 2
"""Prompts at the end that are part of every trial."""
MIN_EVALUATIONS = _PROMPTS_EACH * _SMALL
"""Prompts of the smallest job that a trial is worth."""
_DOUBT = 2
"""How many times larger errors may be elsewhere: on real prompts they are within a factor of three of each other."""


@dataclass(frozen=True)
class Sample:
    """Prompts for a trial, by index, and how many of all each stands for.

    Attributes:
        exact: those that are computed exactly, which tell of the spread.
        tried: those among them that faster models compute too.
    """

    exact: Mapping[int, float]
    tried: Mapping[int, float]

    @classmethod
    def of(cls, prompts: int, evaluations: int) -> Sample | None:
        """Some of `prompts` prompts; None where a trial is not worth it.

        Args:
            evaluations: how many prompts will come in all, about.
        """
        size = _LARGE if evaluations >= _PROMPTS_EACH * _LARGE else _SMALL
        if evaluations < _PROMPTS_EACH * size or prompts < 2 * size:
            return None
        more = min(_EXACT_EACH, (prompts // 2 - _LAST) // (size - _LAST))
        return cls(_evenly(prompts, more * (size - _LAST)), _evenly(prompts, size - _LAST))


def _evenly(prompts: int, size: int) -> dict[int, float]:
    """So many of all prompts, and the last ones; of twice as many, these are among them.

    Where a feature after the other is left out, a next token depends most on the last: few prompts in which all of the
    spread may lie. The later, the cheaper.
    """
    others = prompts - _LAST
    chosen = {(i + 1) * others // size - 1: others / size for i in range(size)}
    return chosen | dict.fromkeys(range(others, prompts), 1.0)


@dataclass(frozen=True)
class Rounding:
    """The errors of a model of lower precision, as far as they were measured.

    Attributes:
        deviations: root mean squares of the errors of a target's value and of its rows', float64 [1 + rows].
        largest: of the value's errors.
        measured: how many were.
    """

    deviations: FloatArray
    largest: float
    measured: int


class Trial:
    """Exact values of some prompts, against which faster models are held."""

    def __init__(self, sample: Sample, exact: Mapping[int, FloatArray]) -> None:
        """Begin with the target's `exact` value and its rows', float64 [1 + rows], of each prompt of a `sample`."""
        values = np.array([exact[i][0] for i in sample.exact])
        weights = _shares(sample.exact)
        spread = float(np.sqrt(weights @ (values - weights @ values) ** 2))
        self._few = len(sample.tried) < _LARGE
        self._bound = TOLERANCE * (0.75 if self._few else 1) * spread
        self._exact, self._weights = np.array([exact[i] for i in sample.tried]), _shares(sample.tried)

    def worth_trying(self, models: Sequence[RoundedModel]) -> Iterator[RoundedModel]:
        """Those of `models`, the fastest first, that might pass: of few prompts one at most, the likeliest."""
        if not self._few:
            yield from (one for one in models if one.error <= _DOUBT * self._bound)
            return
        sure = next((one for one in models if one.error <= self._bound), None)
        last = next((one for one in models[-1:] if one.error <= _DOUBT * self._bound), None)
        if (one := sure or last) is not None:
            yield one

    def passed(self, rough: FloatArray) -> Rounding | None:
        """What the errors of values [tried prompts, 1 + rows] are, where they are small enough; else None."""
        errors = rough - self._exact
        deviations = np.sqrt(self._weights @ errors**2)
        if deviations[0] > self._bound:
            return None
        return Rounding(deviations, float(np.abs(errors[:, 0]).max()), len(errors))


def _shares(weights: Mapping[int, float]) -> FloatArray:
    counts = np.array(list(weights.values()))
    shares: FloatArray = counts / counts.sum()
    return shares
