"""Bias probes: does the value change when the word of one group is replaced by another group's?

A pair is a template with a word of one group, and with the word at the same index of the other group. The mean
difference is meant to hold for other templates and words like these. So pairs with a common template or index are not
independent, and the variance is that of two-way clusters (Cameron, Gelbach & Miller 2011, "Robust inference with
multiway clustering"): Var = Var by template + Var by index − Var by pair.
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
    """Exact values of all texts; the errors of the differences are due to the choice of templates and words."""

    probe: BiasProbe
    seed: int

    quick = True

    @property
    def blocks(self) -> IntArray:
        """A block for each template and word index: its texts of all groups."""
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
        """Too few templates or words to generalize."""
        templates, words = len(self.probe.templates), self.probe.words
        if templates * words == 1:
            yield Verdict.NOT_TRUSTED, "A difference rests on a single pair of words in a single template."
        elif templates == 1 or words == 1:
            of, more = ("template", "words") if templates == 1 else ("word of each group", "templates")
            yield Verdict.CAUTION, f"The differences hold for one {of} only, however many {more} there are."
        elif templates * words < _MIN_PAIRS:
            yield Verdict.CAUTION, f"The differences rest on {templates * words} pairs only; add templates or words."


def _difference(first: str, second: str, pairs: FloatArray) -> GroupDifference | None:
    """The difference of two groups, from the differences of `pairs` [templates, words]; None if none is known."""
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

    Rows are clusters if there are at least two, and so are columns. The variances by rows, columns and cells are scaled
    by G / (G − 1) for G clusters; the degrees of freedom are those of the fewest. As their combination may be too
    small, even negative, the variance is at least the larger one of rows and columns. The error is infinite for a
    single cell.
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
    """The variance of the total of the clusters' `sums`, which is 0."""
    return len(sums) / (len(sums) - 1) * float(sums @ sums)
