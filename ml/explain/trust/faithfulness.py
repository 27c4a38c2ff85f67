"""Faithfulness: does the ranking by attribution predict what the model does?

ERASER's comprehensiveness and sufficiency with their area over the perturbation curve, AOPC (DeYoung et al. 2020), and
the areas under deletion and insertion curves (Petsiuk, Das & Saenko 2018), each compared with random rankings of the
same features: a metric means nothing without this control, as any removal harms some prompts.

Cost: two coalitions per point of the curves, at most 20 points, for the ranking itself and for each *pair* of random
rankings. A pair is a random ranking and its reverse: removing the first k of a ranking means keeping the first d − k of
its reverse, so the second costs nothing. That makes at most 240 evaluations, and 120 for prompts above 256 tokens, for
which fewer rankings are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from ml.explain.estimator import BoolArray, FloatArray, Game, IntArray
from ml.explain.sampling.errors import deviation
from ml.result import ControlledCurve, ControlledMetric, Faithfulness

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
_LONG_PROMPT = 256
_EVEN_POINTS = 11
_MANY_FEATURES = 12
_NO_EFFECT = 1e-6  # of the values, and for those above 1 of 1: differences of rounding

Measuring = Generator[None, None, Faithfulness | None]


@dataclass(frozen=True)
class Plan:
    """The points of the curves, and the number of random rankings, which is even."""

    features: int
    random_rankings: int

    @classmethod
    def of(cls, features: int, tokens: int) -> Plan:
        """The plan for a prompt of `tokens` tokens."""
        return cls(features, 10 if tokens <= _LONG_PROMPT else 4)

    @property
    def tops(self) -> IntArray:
        """The number of features for each of `FRACTIONS`, rounded up, at least one."""
        # 0.1 × 30 is a little more than 3 in floating point, and must not become 4.
        return np.array([max(1, math.ceil(fraction * self.features - 1e-9)) for fraction in FRACTIONS])

    @property
    def points(self) -> IntArray:
        """The points of the curves: ascending numbers of features from 0 to all, symmetric."""
        if self.features <= _MANY_FEATURES:
            return np.arange(self.features + 1)
        even = np.rint(np.linspace(0, self.features, _EVEN_POINTS)).astype(np.int64)
        points = np.concatenate([even, self.tops])
        return np.unique(np.concatenate([points, self.features - points]))

    @property
    def evaluations(self) -> int:
        """The number of coalitions."""
        return (1 + self.random_rankings) * 2 * len(self.points)

    def rankings(self, attributions: FloatArray, seed: int) -> IntArray:
        """Rankings, [1 + random_rankings, features]: by attribution, highest first, then the random ones, pairwise."""
        random = np.random.default_rng([seed, 1])  # independent of the explainers' random numbers
        drawn = [random.permutation(self.features) for _ in range(self.random_rankings // 2)]
        own = np.argsort(-attributions, kind="stable")
        return np.array([own, *(each for ranking in drawn for each in (ranking, ranking[::-1]))])

    def coalitions(self, rankings: IntArray) -> BoolArray:
        """Coalitions, [rankings, 2, points, features]: a ranking's first features removed, and only these kept."""
        ranks = np.argsort(rankings, axis=1)  # [rankings, features]: the place of each feature
        kept = ranks[:, None, :] < self.points[:, None]
        return np.stack([~kept, kept], axis=1)

    def measure(self, values: FloatArray) -> Faithfulness | None:
        """The metrics, from the values [rankings, 2, points] of the coalitions.

        Rankings with unknown (NaN) values are left out. None without values for the ranking by attribution and three
        random ones.
        """
        known: BoolArray = np.isfinite(values.sum(axis=(1, 2)))
        if not known[0] or known.sum() < 4:
            return None
        removed, kept = values[known, 0], values[known, 1]  # each [rankings, points]
        full = removed[:, :1]
        tops = np.searchsorted(self.points, self.tops)
        return Faithfulness(
            fractions=FRACTIONS,
            comprehensiveness=_curve(full - removed[:, tops]),
            sufficiency=_curve(full - kept[:, tops]),
            deletion_auc=_metric(self._area(removed, removed)),
            insertion_auc=_metric(self._area(kept, removed)),
            random_rankings=int(known.sum()) - 1,
        )

    def _area(self, curves: FloatArray, removed: FloatArray) -> FloatArray:
        """Areas under `curves` [rankings, points], scaled so that the whole prompt is 1 and the base 0."""
        base = removed[:, -1:]
        effect = removed[:, :1] - base
        # If removing everything changes nothing there is no scale, and areas are 0.
        least = _NO_EFFECT * min(1.0, float(np.abs(removed).max()))
        scaled = np.divide(curves - base, effect, out=np.zeros_like(curves), where=np.abs(effect) > least)
        areas: FloatArray = (scaled[:, 1:] + scaled[:, :-1]) / 2 @ np.diff(self.points / self.features)
        return areas


def evaluate(plan: Plan, game: Game, attributions: FloatArray, seed: int) -> Measuring:
    """Measure a ranking on a game. Yields after each chunk of work."""
    coalitions = plan.coalitions(plan.rankings(attributions, seed))
    values = yield from game(coalitions.reshape(-1, plan.features))
    return plan.measure(values.reshape(coalitions.shape[:-1]))


def _curve(values: FloatArray) -> ControlledCurve:
    """From values [rankings, fractions], the ranking by attribution first."""
    return ControlledCurve(
        values=tuple(values[0].tolist()),
        random_values=tuple(values[1:].mean(axis=0).tolist()),
        aopc=_metric(values.mean(axis=1)),
    )


def _metric(values: FloatArray) -> ControlledMetric:
    """From values [rankings], the ranking by attribution first."""
    own, random = float(values[0]), values[1:]
    return ControlledMetric(own, float(random.mean()), float(deviation(random)))
