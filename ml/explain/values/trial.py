"""A trial whether a faster model of lower precision may do the rest of a job: both compute some of its prompts.

An error of 0.002 nats does not matter where a word moves the prediction by 3, and does where no word moves it by 0.01.
So errors are compared with the spread of the job's own values, which effects and sampling errors are made of. Errors of
at most `TOLERANCE` of it leave attributions that correlate with the exact ones by more than 0.999.

The exact half of a trial is needed anyway; the other half is wasted if the model is rejected. So there is no trial for
few prompts, and none of models whose known errors make a rejection likely. The outcome is not kept for the next job,
whose values have a spread of their own: equal jobs have equal results, whatever came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import FloatArray
from ml.models.protocol import RoundedModel

TOLERANCE = 0.04
"""The largest root mean square of the errors, as a share of the values' standard deviation.

Three quarters of it for a small sample, as few errors may be small by chance.
"""
_LARGE, _SMALL = 8, 4
"""Prompts that the faster model computes in a trial, in a large and in a small job."""
_PROMPTS_EACH = 16
"""Prompts of a job for each of those: a rejected trial costs less than a twentieth of the job."""
_EXACT_EACH = 2
"""Exact prompts for each of those: estimating a spread takes more of them than estimating an error."""
_LAST = 2
"""Prompts at the end that are part of every trial."""
MIN_EVALUATIONS = _PROMPTS_EACH * _SMALL
"""Prompts of the smallest job with a trial."""
_DOUBT = 2
"""How many times the bound a model's known errors may be: those of real prompts differ by up to a factor of three."""


@dataclass(frozen=True)
class Sample:
    """The prompts of a trial: by index, how many of all prompts each represents.

    Attributes:
        exact: those computed exactly, for the spread.
        tried: those of them that faster models compute too.
    """

    exact: Mapping[int, float]
    tried: Mapping[int, float]

    @classmethod
    def of(cls, prompts: int, evaluations: int) -> Sample | None:
        """A sample of `prompts` prompts; None where a trial is not worth it.

        Args:
            evaluations: about how many prompts the job has in all.
        """
        size = _LARGE if evaluations >= _PROMPTS_EACH * _LARGE else _SMALL
        if evaluations < _PROMPTS_EACH * size or prompts < 2 * size:
            return None
        more = min(_EXACT_EACH, (prompts // 2 - _LAST) // (size - _LAST))
        return cls(_evenly(prompts, more * (size - _LAST)), _evenly(prompts, size - _LAST))


def _evenly(prompts: int, size: int) -> dict[int, float]:
    """`size` evenly spaced prompts, and the last ones. A sample of twice the size includes them.

    Where one feature after another is left out, a next token depends most on the last ones, so that most of the spread
    may lie in the last prompts. Later prompts are also cheaper.
    """
    others = prompts - _LAST
    chosen = {(i + 1) * others // size - 1: others / size for i in range(size)}
    return chosen | dict.fromkeys(range(others, prompts), 1.0)


@dataclass(frozen=True)
class Rounding:
    """The errors of a model of lower precision, as measured.

    Attributes:
        deviations: root mean square errors of the values of the target and its rows, float64 [1 + rows].
        largest: the largest error of the target's value.
        measured: the number of prompts.
    """

    deviations: FloatArray
    largest: float
    measured: int


class Trial:
    """Exact values of some prompts, to compare faster models with."""

    def __init__(self, sample: Sample, exact: Mapping[int, FloatArray]) -> None:
        """From the `exact` values of the target and its rows, float64 [1 + rows], for each prompt of a `sample`."""
        values = np.array([exact[i][0] for i in sample.exact])
        weights = _shares(sample.exact)
        spread = float(_root_mean_square(values - weights @ values, weights))
        self._few = len(sample.tried) < _LARGE
        self._bound = TOLERANCE * (0.75 if self._few else 1) * spread
        self._exact, self._weights = np.array([exact[i] for i in sample.tried]), _shares(sample.tried)

    def worth_trying(self, models: Sequence[RoundedModel]) -> Iterator[RoundedModel]:
        """Those of `models`, the fastest first, that might pass; in a small trial only the likeliest."""
        if not self._few:
            yield from (one for one in models if one.error <= _DOUBT * self._bound)
            return
        sure = next((one for one in models if one.error <= self._bound), None)
        last = next((one for one in models[-1:] if one.error <= _DOUBT * self._bound), None)
        if (one := sure or last) is not None:
            yield one

    def passed(self, rough: FloatArray) -> Rounding | None:
        """The errors of `rough` values [tried prompts, 1 + rows], if they are small enough; else None."""
        errors = rough - self._exact
        deviations = _root_mean_square(errors, self._weights)
        if deviations[0] > self._bound:
            return None
        return Rounding(deviations, float(np.abs(errors[:, 0]).max()), len(errors))


def _root_mean_square(errors: FloatArray, weights: FloatArray) -> FloatArray:
    """Over the first axis, with `weights` that sum to 1; without underflow for tiny probabilities."""
    return np.asarray(np.hypot.reduce((np.sqrt(weights) * errors.T).T, axis=0))


def _shares(weights: Mapping[int, float]) -> FloatArray:
    counts = np.array(list(weights.values()))
    shares: FloatArray = counts / counts.sum()
    return shares
