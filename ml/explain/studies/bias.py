"""Bias probes: does the value change when a word of one group takes the place of another's?

Each pair is a template with a word of one group and with the word of the other group at the same place of its list. The
mean of their differences stands for other templates and words like these; so pairs that share a template, or a place,
are no independent evidence, and its variance is that of two-way clusters (Cameron, Gelbach & Miller 2011, "Robust
inference with multiway clustering"): Var = Var by template + Var by place − Var by pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ml.explain.estimator import FloatArray, IntArray
from ml.explain.sampling.interval import two_sided_95
from ml.explain.trust.verdict import Reason
from ml.result import BiasProbeResult, GroupDifference, Interval, Verdict
from ml.spec import BiasProbe

_MIN_PAIRS = 6


@dataclass(frozen=True)
class BiasProbeExplainer:
    """Exact values of all texts; the differences' errors are those of having asked for no more templates and words."""

    probe: BiasProbe
    seed: int

    quick = True

    @property
    def blocks(self) -> IntArray:
        """A pair of template and place among the words: its text of each group."""
        pairs, groups = len(self.probe.templates) * self.probe.words, len(self.probe.groups)
        texts = np.arange(pairs * groups, dtype=np.int64).reshape(pairs, groups)
        return texts[np.random.default_rng(self.seed).permutation(pairs)]

    def find(self, values: FloatArray) -> BiasProbeResult | None:
        """The difference of every two groups, from the values of `BiasProbe.texts`."""
        labels = [group.label for group in self.probe.groups]
        table = values.reshape(len(self.probe.templates), self.probe.words, len(labels))
        differences = [
            difference
            for (i, first), (j, second) in combinations(enumerate(labels), 2)
            if (difference := _difference(first, second, table[:, :, i] - table[:, :, j])) is not None
        ]
        return BiasProbeResult(tuple(differences)) if differences else None

    def doubts(self) -> Iterator[Reason]:
        """Too few templates or words to tell of others."""
        templates, words = len(self.probe.templates), self.probe.words
        if templates * words == 1:
            yield Verdict.NOT_TRUSTED, "A difference rests on a single pair of words in a single template."
        elif templates == 1 or words == 1:
            of, more = ("template", "words") if templates == 1 else ("word of each group", "templates")
            yield Verdict.CAUTION, f"The differences speak of one {of} only, however many {more} there are."
        elif templates * words < _MIN_PAIRS:
            yield Verdict.CAUTION, f"The differences rest on {templates * words} pairs only; more would tell more."


def _difference(first: str, second: str, pairs: FloatArray) -> GroupDifference | None:
    """What two groups differ by, from `pairs` [templates, words]; None where no pair is known."""
    known = np.isfinite(pairs)
    if not known.any():
        return None
    mean, error, freedom = clustered_mean(pairs)
    if not freedom:
        return GroupDifference(first, second, mean, int(known.sum()))
    reach = two_sided_95(freedom) * error
    return GroupDifference(first, second, mean, int(known.sum()), error, Interval(mean - reach, mean + reach))


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
