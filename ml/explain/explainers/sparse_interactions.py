"""Interactions among many features, of which few pairs can matter: these are found first, and then estimated.

Several hundred features have more pairs than there are samples. If few pairs matter, few samples show which (sparse
Fourier transforms: Kang et al. 2025; Butler et al. 2025). With a coalition as signs sᵢ (1 for present, −1 for absent),
a game is a sum of products of signs. If it is of order three,

    v(S) = Σ aᵢ sᵢ + Σ bᵢⱼ sᵢ sⱼ + Σ cᵢⱼₖ sᵢ sⱼ sₖ + constant

has Shapley values 2 aᵢ + ⅔ Σ cᵢⱼₖ and interaction indices 4 bᵢⱼ. Half of the sum of the values of a coalition and its
complement depends on the pairs alone, and half of their difference on everything but the pairs.

Pairs are found by orthogonal matching pursuit (Pati et al. 1993) over all pairs in one half of the samples, and
estimated from the other half, and vice versa. The search does not bias the estimate, whose errors are those of least
squares (Cox 1975).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ml import spec
from ml.explain.estimator import (
    BoolArray,
    Estimate,
    Estimating,
    FloatArray,
    Game,
    Pairwise,
    with_ends,
    with_rows,
)
from ml.explain.sampling.anytime import anytime_from_ends
from ml.explain.sampling.draws import DEFAULT_SAMPLES
from ml.explain.sampling.errors import completeness_error, has_converged, root_sum_of_squares, stability
from ml.explain.sampling.stopping import Stopping

MAX_FEATURES = 1024
"""523,776 pairs: seconds for each estimate."""
_PER_FEATURE = 4  # evaluations, if the budget does not limit them
_PER_TERM = 4  # samples of a half for each term that is found in it
_MIN_PAIRS = 32
_ROUNDING = 1e-6  # residuals below this part of the values are rounding errors

Terms = Sequence[tuple[int, ...]]
"""Products of signs, each given by its features in ascending order."""


@dataclass(frozen=True)
class SparseInteractionsExplainer:
    """Shapley values of all features, and the pairs that seem to matter, with growing numbers of coalitions."""

    features: int
    budget: spec.Budget

    @property
    def max_evaluations(self) -> int:
        """The empty and the full coalition, and as many pairs of coalitions as the budget allows."""
        return 2 + 2 * self._pairs

    @property
    def min_evaluations(self) -> int:
        """A pair of coalitions for each feature."""
        return 2 + 2 * max(_MIN_PAIRS, self.features)

    def __call__(self, game: Game) -> Estimating:
        """Ask for the empty and the full coalition, then for pairs of coalitions."""
        return anytime_from_ends(
            game,
            self._draw(),
            self._estimate,
            nothing=self._nothing(),
            rows=2,
            blocks=self._pairs,
            stopping=Stopping.of(self.budget, self.features, ranks=False),
            growth=1.0,
        )

    @property
    def _pairs(self) -> int:
        return (self.budget.max_evaluations or max(DEFAULT_SAMPLES, _PER_FEATURE * self.features)) // 2 - 1

    def _draw(self) -> Iterator[BoolArray]:
        """Coalitions that keep each feature with probability ½, with their complements."""
        random = np.random.default_rng(self.budget.seed)
        while True:
            coalition = random.random(self.features) < 0.5
            yield np.stack([coalition, ~coalition])

    def _nothing(self) -> Estimate:
        return replace(Estimate.nothing(self.features), interactions=Pairwise.of_none())

    def _estimate(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """From `coalitions` [pairs, 2, features], and the values of the empty, the full and these, [2 + 2 · pairs]."""
        if len(coalitions) < _MIN_PAIRS:
            return self._nothing()
        signs = np.where(coalitions[:, 0], 1.0, -1.0)
        parts = [slice(start, None, 2) for start in (0, 1)]
        searches = [Half.of(signs[part], _odd(values)[part], _even(values)[part]) for part in parts]
        chosen = sorted({pair for search in searches for pair in search.pairs})
        halves = [search.estimator(signs[part]) for search, part in zip(searches, reversed(parts), strict=True)]

        def apart(values: FloatArray) -> list[_Found]:
            odd, even = _odd(values), _even(values)
            return [half(odd[part], even[part]) for half, part in zip(halves, reversed(parts), strict=True)]

        def estimate(values: FloatArray) -> Estimate:
            return self._joined(apart(values), chosen, float(values[1] - values[0]))

        found = with_rows(estimate, with_ends(coalitions), values)
        return replace(
            found,
            converged=has_converged(found.attributions, found.standard_errors, self.budget.standard_error),
            stability=stability(*(each.attributions for each in apart(values))),
        )

    def _joined(self, halves: Sequence[_Found], chosen: Terms, gain: float) -> Estimate:
        """The mean of both halves' estimates; a pair's is over the halves that estimate it."""
        attributions = np.mean([half.attributions for half in halves], axis=0)
        standard_errors = root_sum_of_squares(np.array([half.standard_errors for half in halves])) / len(halves)
        attributions += (gain - attributions.sum()) / self.features  # their sum is known
        pairs, errors = np.zeros((2, len(chosen)))
        for index, pair in enumerate(chosen):
            estimates = [half.pairs[pair] for half in halves if pair in half.pairs]
            pairs[index] = np.mean([value for value, _ in estimates])
            errors[index] = math.hypot(*(error for _, error in estimates)) / len(estimates)
        members = np.array(chosen, dtype=np.int64).reshape(-1, 2).T
        return Estimate(
            attributions=attributions,
            standard_errors=standard_errors,
            interactions=Pairwise(pairs, errors, members),
            completeness_error=completeness_error(attributions, gain),
        )


@dataclass(frozen=True)
class _Found:
    """The estimates from half of the samples.

    Attributes:
        attributions: Shapley values, [features].
        standard_errors: of the attributions, [features].
        pairs: the interaction index of each pair, and its standard error.
    """

    attributions: FloatArray
    standard_errors: FloatArray
    pairs: dict[tuple[int, ...], tuple[float, float]]


@dataclass(frozen=True)
class Half:
    """The terms that were found in half of the samples, and the triples all of whose pairs are among them."""

    singles: Terms
    pairs: Terms
    triples: Terms

    @classmethod
    def of(cls, signs: FloatArray, odd: FloatArray, even: FloatArray) -> Half:
        """From `signs` [n, features], and half of the differences and sums of pairs' values, `odd` and `even` [n]."""
        pairs = pursue(signs, even - even.mean(), 2)
        known = set(pairs)
        members = sorted({feature for pair in pairs for feature in pair})
        triples = [each for each in combinations(members, 3) if all(pair in known for pair in combinations(each, 2))]
        return cls(pursue(signs, odd, 1), pairs, triples[: len(signs) // (2 * _PER_TERM)])

    def estimator(self, signs: FloatArray) -> Callable[[FloatArray, FloatArray], _Found]:
        """The estimator on other samples with `signs` [n, features], from their `odd` and `even` values [n]."""
        n = len(signs)
        ones = np.ones((n, 1))
        of_odd = _LeastSquares(_columns(signs, [*self.singles, *self.triples]))
        of_even = _LeastSquares(np.hstack([ones, _columns(signs, self.pairs)]))

        def found(odd: FloatArray, even: FloatArray) -> _Found:
            coefficients, influences, residuals = of_odd(odd)
            # Features that were not found: each by itself, from the residuals of the others.
            attributions = 2 * residuals @ signs / n
            own = 2 * (residuals - residuals.mean())[:, None] * signs / n
            for column, single in enumerate(self.singles):
                attributions[single], own[:, single] = 2 * coefficients[column], 2 * influences[:, [column]]
            for column, triple in enumerate(self.triples, start=len(self.singles)):
                members = list(triple)
                attributions[members] += 2 / 3 * coefficients[column]
                own[:, members] += 2 / 3 * influences[:, [column]]
            coefficients, influences, _ = of_even(even)
            values, errors = 4 * coefficients[1:], 4 * root_sum_of_squares(influences[:, 1:])
            numbers = zip(values.tolist(), errors.tolist(), strict=True)
            return _Found(attributions, root_sum_of_squares(own), dict(zip(self.pairs, numbers, strict=True)))

        return found


def pursue(signs: FloatArray, values: FloatArray, order: int) -> list[tuple[int, ...]]:
    """The features (order 1) or pairs (order 2) that `values` [n] depend on, the strongest first.

    The search ends when the next one is no larger than the largest expected by chance (Donoho & Johnstone 1994).
    """
    n, features = signs.shape
    many = math.comb(features, order)
    found: list[tuple[int, ...]] = []
    residuals = values = values / (np.abs(values).max() or 1.0)  # squares of tiny ones would underflow
    upper = np.triu(np.ones((features, features), dtype=np.bool_), 1)
    while len(found) < n // _PER_TERM and residuals @ residuals > _ROUNDING**2 * float(values @ values):
        alike = signs.T @ residuals if order == 1 else np.where(upper, (signs.T * residuals) @ signs, 0.0)
        best = np.unravel_index(int(np.abs(alike).argmax()), alike.shape)
        chance = math.sqrt(2 * math.log(many) * float(residuals @ residuals))
        term = tuple(int(each) for each in best)
        if abs(float(alike[best])) <= chance or term in found:
            break
        found.append(term)
        residuals = values - _fit(_columns(signs, found), values)
    return found


def _columns(signs: FloatArray, terms: Terms) -> FloatArray:
    """Each term's product of signs, [n, terms]."""
    columns = [signs[:, list(term)].prod(axis=1) for term in terms]
    return np.array(columns).reshape(len(terms), len(signs)).T


def _fit(columns: FloatArray, values: FloatArray) -> FloatArray:
    """The values fitted by least squares with an intercept."""
    columns = np.hstack([np.ones((len(values), 1)), columns])
    fitted: FloatArray = columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    return fitted


class _LeastSquares:
    """Least squares on some columns [n, terms], with each sample's influence on the coefficients (White 1980; HC2)."""

    def __init__(self, columns: FloatArray) -> None:
        self._columns = columns
        self._inverse = np.linalg.pinv(columns)  # [terms, n]
        leverage = np.einsum("nt,tn->n", columns, self._inverse)
        self._free = np.sqrt(np.maximum(1 - leverage, 1e-6))

    def __call__(self, values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coefficients [terms], influences on them [n, terms], and residuals divided by √(1 − leverage), [n]."""
        coefficients: FloatArray = self._inverse @ values
        residuals: FloatArray = (values - self._columns @ coefficients) / self._free
        return coefficients, self._inverse.T * residuals[:, None], residuals


def _odd(values: FloatArray) -> FloatArray:
    """Half of the difference between each coalition's value and its complement's; `values` begin with the ends'."""
    odd: FloatArray = (values[2::2] - values[3::2]) / 2
    return odd


def _even(values: FloatArray) -> FloatArray:
    """Half of the sum of each coalition's value and its complement's."""
    even: FloatArray = (values[2::2] + values[3::2]) / 2
    return even
