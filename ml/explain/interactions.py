"""Shapley interaction indices of all pairs of features, with their Shapley values, from sampled coalitions.

The index of some features M (Grabisch & Roubens 1999) is what they do together beyond what fewer of them do:

    I(M) = Σ over S ⊆ N∖M of s! (d − s − m)! / (d − m + 1)! · Σ over L ⊆ M of (−1)^(m − |L|) v(S ∪ L),    m = |M|.

Of one feature it is the Shapley value; of two, Σ s! (d − s − 2)! / (d − 1)! [v(S ∪ ij) − v(S ∪ i) − v(S ∪ j) + v(S)].

The plain estimate from sampled coalitions (SHAP-IQ: Fumagalli et al. 2023) is unbiased, but for a prompt's evaluations
far too noisy. So a Gaussian process is fitted to the values, whose indices can be had exactly, and the plain estimate
is of what the fit leaves; see `ml.explain.control`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ml import spec
from ml.explain.control import Answer, Control
from ml.explain.covariance import Covariance
from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game, IntArray, Pairwise, empty_and_full
from ml.explain.kernel_shap import Layers, draw
from ml.explain.sampling import CONTROLLED_GROWTH, DEFAULT_SAMPLES, anytime, settled, stability
from ml.explain.shapley import Pairs, completeness_error, is_enumerable
from ml.result import StopReason

_TILT = 1  # sizes are drawn nearly evenly, as they count for an index, middle ones a little more often
_FEWEST = 2  # pairs of coalitions a feature: by then all single features are known
_FITTED = 1023  # pairs of coalitions that the process is fitted to, beside the empty and the full coalition
MOST_FEATURES = 128
"""8,128 pairs: some seconds for each estimate."""
_AT_ONCE = 1 << 21  # numbers in a matrix of coalitions by answers: 16 MB


@dataclass(frozen=True)
class Index:
    """I(M) of some features or pairs M, which is linear in a game's values; see `ml.explain.control.Linear`.

    Attributes:
        members: int64 [order, answers], the features in each M: one, or two in ascending order.
    """

    features: int
    members: IntArray

    @property
    def order(self) -> int:
        """1 or 2."""
        return len(self.members)

    @property
    def squares(self) -> float:
        """Σ of squared weights over all coalitions."""
        others = self.features - self.order
        rarities = sum(1 / math.comb(others, size) for size in range(others + 1))
        return float(2**self.order * rarities / (others + 1) ** 2)

    def chunks(self, rows: int) -> Iterator[Index]:
        """Parts of it, so small that a matrix of so many rows by their answers is not too large."""
        answers = self.members.shape[1]
        for part in np.array_split(self.members, math.ceil(answers * rows / _AT_ONCE), axis=1):
            if part.size:
                yield Index(self.features, part)

    def weights(self, coalitions: BoolArray) -> FloatArray:
        """What each of `coalitions` [n, features] counts for, [n, answers]."""
        present = sum(coalitions[:, each].astype(np.int8) for each in self.members)
        weights: FloatArray = self._by_size[coalitions.sum(axis=1)[:, None], present]
        return weights

    def cross(self, covariance: Covariance, others: BoolArray) -> FloatArray:
        """I(M) of the games k(·, t), t in `others` [m, features]. Returns [answers, m]."""
        if self.order == 2:
            return covariance.interactions(others, self.members)
        shapley: FloatArray = covariance.shapley(others)[self.members[0]]
        return shapley

    def variances(self, covariance: Covariance) -> FloatArray:
        """Variances of I(M) over the games drawn from the process, [answers]."""
        if self.order == 2:
            return covariance.interactions_variance(self.members)
        shapley: FloatArray = covariance.shapley_variance()[self.members[0]]
        return shapley

    def sampled(self, coalitions: BoolArray, values: FloatArray, fitted: int) -> Answer:
        """The plain estimator, without the empty and the full coalition: values and their variances, [answers] each.

        Args:
            coalitions: [pairs, 2, features], of a coalition of at most half of the features and its complement.
            values: theirs, [pairs, 2].
            fitted: how many of them, the first, only stand for others, as they count elsewhere.
        """
        kept = coalitions[:, 0]
        # A coalition and its complement count for the same but for the sign.
        pulls = self.weights(kept) * (values[:, 0] + (-1) ** self.order * values[:, 1])[:, None]
        total, variances = np.zeros((2, self.members.shape[1]))
        sizes, counts = kept.sum(axis=1), Layers.of(self.features).counts
        for size in np.unique(sizes):
            stratum, own, count = pulls[sizes == size], pulls[fitted:][sizes[fitted:] == size], counts[size - 1]
            many = len(stratum)
            total += own.sum(axis=0) + (count - many) * stratum.mean(axis=0)
            # Stratified sampling without replacement (Cochran 1977). One pair alone does not show its layer's mean.
            spread = stratum.var(axis=0, ddof=1) if many > 1 else stratum[0] ** 2
            variances += count * (count - many) / many * spread
        return total, variances

    @cached_property
    def _by_size(self) -> FloatArray:
        """By a coalition's size and how many of M are in it, [features + 1, order + 1]; 0 where that cannot be."""
        weights, others = np.zeros((self.features + 1, self.order + 1)), self.features - self.order
        for size in range(others + 1):
            for inside in range(self.order + 1):
                sign = (-1) ** (self.order - inside)
                weights[size + inside, inside] = sign / ((others + 1) * math.comb(others, size))
        return weights


@dataclass(frozen=True)
class InteractionsExplainer:
    """Interaction indices and Shapley values with growing numbers of coalitions, until a limit of the budget.

    Exact where all coalitions are within the budget. The standard-error limit is one for features and for pairs.
    """

    features: int
    budget: spec.Budget

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition and as many pairs of coalitions as the budget has room for, or all."""
        return 2 + 2 * self._pairs

    @property
    def min_evaluations(self) -> int:
        """Enough for a fit, which is two pairs a feature; or all coalitions, where they are fewer."""
        return int(min(2 + 2 * _FEWEST * self.features, 2**self.features))

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for pairs of coalitions."""
        empty, whole = yield from game(empty_and_full(self.features))
        if not np.isfinite(whole - empty):
            yield self._nothing(StopReason.DURATION)
            return
        if self.features == 1:
            none = Pairwise(np.zeros(0), np.zeros(0))
            found = Estimate(np.array([whole - empty]), np.zeros(1), interactions=none, completeness_error=0.0)
            yield replace(found, stop=StopReason.COMPLETE, converged=True)
            return
        steps = anytime(
            game,
            draw(self.features, self.budget.seed, tilt=_TILT),
            lambda coalitions, values: self._estimate(coalitions, values, float(empty), float(whole)),
            rows=2,
            blocks=self._pairs,
            limit=None,
            growth=CONTROLLED_GROWTH,
            end=StopReason.COMPLETE if is_enumerable(self.features, self.budget) else StopReason.EVALUATIONS,
        )
        for step in steps:
            if step is not None and step.stop is not StopReason.COMPLETE and self._within_limit(step):
                yield replace(step, stop=StopReason.STANDARD_ERROR)
                return
            yield step

    @property
    def _pairs(self) -> int:
        most = self.budget.max_evaluations or max(DEFAULT_SAMPLES, self.min_evaluations)
        return int(min(most, 2**self.features) // 2 - 1)

    def _within_limit(self, found: Estimate) -> bool:
        """Whether features and pairs are both known as well as asked for."""
        limit, pairs = self.budget.standard_error, found.interactions
        if limit is None or pairs is None:
            return False
        return float(max(found.standard_errors.max(), pairs.standard_errors.max())) < limit

    def _nothing(self, stop: StopReason | None = None) -> Estimate:
        pairs = math.comb(self.features, 2)
        nothing = Pairwise(np.zeros(pairs), np.full(pairs, np.inf))
        return replace(Estimate.nothing(self.features, stop), interactions=nothing)

    def _estimate(self, coalitions: BoolArray, values: FloatArray, empty: float, whole: float) -> Estimate:
        many, gain = len(values), whole - empty
        complete = many == 2 ** (self.features - 1) - 1
        if not complete and many < _FEWEST * self.features:
            return self._nothing()
        pairs = Pairs.of(coalitions, values, gain)
        known = np.concatenate([empty_and_full(self.features), coalitions.reshape(-1, self.features)])
        every = np.array([empty, whole, *values.flat])
        indices = (
            Index(self.features, np.arange(self.features)[None]),
            Index(self.features, np.array(np.triu_indices(self.features, 1))),
        )
        if complete:
            answers = [_exact(index, known, every) for index in indices]
        else:
            fitted = Control(gain / self.features + _regress(pairs), known, every, most=2 + 2 * _FITTED)
            answers = [_controlled(index, known, fitted) for index in indices]
        (attributions, errors), (interactions, pair_errors) = answers
        # Where there are hardly any interactions, it is enough to know that.
        enough = max(float(np.abs(interactions).max()) / 10, float(np.abs(attributions).max()) / 100)
        halves = [pairs[np.arange(many) // 2 % 2 == half] for half in (0, 1)]  # by twos, as every other pair is single
        return Estimate(
            attributions=attributions,
            standard_errors=errors,
            converged=settled(attributions, errors, self.budget.standard_error)
            and settled(interactions, pair_errors, self.budget.standard_error or enough),
            interactions=Pairwise(interactions, pair_errors),
            stability=stability(*map(_regress, halves)) if many >= 4 else None,
            freedom=np.inf if complete else many - 1,
            completeness_error=completeness_error(attributions, gain),
        )


def _regress(pairs: Pairs) -> FloatArray:
    """First attributions, but for their mean. A layer has its mass, however many of its pairs are here."""
    mass = Layers.of(pairs.design.shape[1]).mass
    sizes = pairs.sizes - 1
    return pairs.regress((mass / np.maximum(np.bincount(sizes, minlength=len(mass)), 1))[sizes])[0]


def _exact(index: Index, every: BoolArray, values: FloatArray) -> Answer:
    """The index from the values of all coalitions, with standard errors of 0."""
    found = np.concatenate([part.weights(every).T @ values for part in index.chunks(len(every))])
    return found, np.zeros(len(found))


def _controlled(index: Index, known: BoolArray, fitted: Control) -> Answer:
    """The index and its standard errors from a game fitted to some coalitions.

    `known`: bool [n, features], the empty and the full one first.
    """
    coalitions, rest = known[2:].reshape(-1, 2, index.features), fitted.residuals[2:].reshape(-1, 2)
    parts = list(index.chunks(len(known)))
    return fitted.corrected(
        _joined([fitted.posterior(part) for part in parts]),
        _joined([part.sampled(coalitions, rest, _FITTED) for part in parts]),
    )


def _joined(parts: list[Answer]) -> Answer:
    first, second = np.concatenate(parts, axis=1)
    return first, second
