"""Bias probes: does the value change when a word of one group takes the place of another's?

Each pair is a template with a word of one group and with the word of the other group at the same place of its list. The
mean of their differences stands for other templates and words like these; so pairs that share a template, or a place,
are no independent evidence, and its variance is that of two-way clusters (Cameron, Gelbach & Miller 2011, "Robust
inference with multiway clustering"): Var = Var by template + Var by place − Var by pair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ml.explain.estimator import Estimate, Estimating, FloatArray, Game
from ml.explain.interval import two_sided_95
from ml.result import GroupDifference, Interval, StopReason

_AT_ONCE = 256  # texts


@dataclass(frozen=True)
class BiasProbeExplainer:
    """Exact values of all texts; the differences' errors are those of having asked for no more templates and words."""

    seed: int
    labels: tuple[str, ...]
    words: int
    """Of each group."""
    templates: int

    @property
    def max_evaluations(self) -> int:
        """Every template with every word, the first of them twice, and once without."""
        return 2 + self.templates * self.words * len(self.labels)

    @property
    def min_evaluations(self) -> int:
        """All of them."""
        return self.max_evaluations

    def __call__(self, game: Game) -> Estimating:
        """Ask for all texts, which are the game's players: the first template without its word, and then each text.

        Texts come by template, then word, then group.
        """
        choices, groups = np.eye(game.features, dtype=np.bool_), len(self.labels)
        removed, first = yield from game(choices[:2])
        cells, pairs = choices[1:].reshape(-1, groups, game.features), self.templates * self.words
        values = np.full((pairs, groups), np.nan)
        order = np.random.default_rng(self.seed).permutation(pairs)
        for some in np.array_split(order, math.ceil(pairs * groups / _AT_ONCE)):
            answers = (yield from game(cells[some].reshape(-1, game.features))).reshape(-1, groups)
            if not np.isfinite(answers).all():
                break  # which of them were answered depends on the order of the work, not on chance alone
            values[some] = answers
        table = values.reshape(self.templates, self.words, groups)
        differences = [
            found
            for first, second in combinations(range(len(self.labels)), 2)
            if (found := self._compare(table, first, second)) is not None
        ]
        complete = bool(np.isfinite(values).all() and np.isfinite(removed))
        word = float(first - removed)
        known = math.isfinite(word)
        yield Estimate(
            attributions=np.array([word if known else 0.0]),
            standard_errors=np.array([0.0 if known else np.inf]),
            stop=StopReason.COMPLETE if complete else StopReason.SECONDS,
            converged=complete,
            group_differences=tuple(differences),
        )

    def _compare(self, values: FloatArray, first: int, second: int) -> GroupDifference | None:
        """Two groups, by their indices; None where no pair is known."""
        pairs = values[:, :, first] - values[:, :, second]  # [templates, words]
        known = np.isfinite(pairs)
        if not known.any():
            return None
        mean, error, freedom = clustered_mean(pairs)
        reach = two_sided_95(freedom) * error if freedom else math.inf
        interval = Interval(mean - reach, mean + reach)
        return GroupDifference(self.labels[first], self.labels[second], mean, error, interval, int(known.sum()))


def clustered_mean(cells: FloatArray) -> tuple[float, float, int]:
    """Mean of `cells` [rows, columns], NaN where unknown, with its standard error and their degrees of freedom.

    Rows and columns are clusters, each kind where there are at least two of it: one says nothing of others. A variance
    by rows, by columns or by cells comes with G / (G − 1) of its G clusters; the degrees of freedom are those of the
    fewest. The difference of variances may come out too small, even negative, and then the larger of the two by
    clusters stands. The error is infinite for a single cell.
    """
    known = np.isfinite(cells)
    count = int(known.sum())
    mean = float(cells[known].mean())
    left = np.where(known, cells - mean, 0.0) / count
    rows, columns = left[known.any(axis=1)].sum(axis=1), left[:, known.any(axis=0)].sum(axis=0)
    clusters = [sums for sums in (rows, columns) if len(sums) > 1]
    if not clusters:
        return mean, math.inf, 0
    variances = [_variance(sums) for sums in clusters]
    both = sum(variances) - _variance(left[known]) if len(clusters) > 1 else variances[0]
    return mean, math.sqrt(max(both, *variances)), min(map(len, clusters)) - 1


def _variance(sums: FloatArray) -> float:
    """Of the sum of the clusters' `sums`, whose own sum is 0."""
    return len(sums) / (len(sums) - 1) * float(sums @ sums)
