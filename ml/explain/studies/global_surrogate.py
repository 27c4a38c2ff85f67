"""A global surrogate: predicts the model's value from the words of a prompt, fitted to many prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ml import spec
from ml.explain.estimator import FloatArray, IntArray
from ml.explain.numbers import known
from ml.explain.sampling.surrogates import DecisionTree, Fit, Ridge, r_squared
from ml.explain.target import unit
from ml.explain.text.units import words
from ml.explain.trust.verdict import Reason
from ml.result import AttributionUnit, GlobalSurrogateResult, Verdict, WordCoefficient
from ml.spec import Scale, Span, SurrogateKind

MAX_WORDS = 2000
"""The most words with a coefficient, the most frequent ones."""
_MIN_PROMPTS = 2
"""The fewest prompts with a word: with one, its effect cannot be separated from the prompt's."""
_MIN_HELD_OUT = 10
_ALPHAS = np.logspace(-2, 4, 25)


def bag(text: str, regions: Sequence[Span]) -> frozenset[str]:
    """The words in regions of a text, in lower case."""
    parts = [text[start:end] for start, end in regions]
    return frozenset(part[start:end].casefold() for part in parts for start, end in words(part))


def held_out(prompts: int, share: float) -> int:
    """How many of the prompts test the fit: at least two, as a single value has no variance, and not all."""
    return min(max(2, round(share * prompts)), prompts - 2)


@dataclass(frozen=True)
class GlobalSurrogateExplainer:
    """Fits a ridge or a tree to the values of most prompts, and tests it on the others.

    The ridge's penalty is chosen from 25 between 0.01 and 10,000 by leave-one-out cross-validation. The prompts to hold
    out are drawn before any value is known.
    """

    method: spec.GlobalSurrogate
    scale: Scale
    seed: int
    bags: tuple[frozenset[str], ...]
    """The words of each prompt."""

    quick = False

    @property
    def blocks(self) -> IntArray:
        """A block for each prompt."""
        return np.random.default_rng([self.seed, 1]).permutation(len(self.bags))[:, None]

    def find(self, values: FloatArray) -> GlobalSurrogateResult | None:
        """The surrogate of the prompts with known values; None if these are few, or have no word in common."""
        given = np.isfinite(values)
        if given.sum() < spec.MIN_PROMPTS:
            return None
        drawn = np.random.default_rng(self.seed).permutation(len(values))
        order: list[int] = drawn[given[drawn]].tolist()
        many = held_out(len(order), self.method.held_out)
        held, fitted = order[:many], order[many:]
        vocabulary = _vocabulary([self.bags[i] for i in fitted])
        if not vocabulary:
            return None
        fit = self._fit(_presence(self.bags, vocabulary, fitted), values[fitted])
        predicted = predict(fit, _presence(self.bags, vocabulary, held))
        tree = self.method.surrogate is SurrogateKind.DECISION_TREE
        ranked = _ranked(fit)
        place = {column: index for index, column in enumerate(ranked)}
        nodes = tuple(
            node if node.feature is None else replace(node, feature=place[node.feature]) for node in fit.surrogate.nodes
        )
        return GlobalSurrogateResult(
            surrogate=replace(fit.surrogate, nodes=nodes),
            held_out_r_squared=r_squared(values[held], predicted, np.ones(len(held))),
            coefficients=tuple(
                WordCoefficient(vocabulary[i], float(fit.attributions[i]), known(float(fit.standard_errors[i])))
                for i in ranked
            ),
            coefficient_unit=AttributionUnit.IMPURITY_SHARE if tree else unit(self.scale),
            fitted_prompts=len(fitted),
            held_out_prompts=len(held),
        )

    def doubts(self) -> Iterator[Reason]:
        """Too few prompts to test the fit."""
        held = held_out(len(self.bags), self.method.held_out)
        if held < _MIN_HELD_OUT:
            yield Verdict.CAUTION, f"Only {held} prompts were held out, too few to tell how well the surrogate fits."

    def _fit(self, samples: FloatArray, values: FloatArray) -> Fit:
        weights = np.ones(len(values))
        if self.method.surrogate is SurrogateKind.DECISION_TREE:
            return DecisionTree(self.method.max_depth or spec.DEFAULT_DEPTH, samples, weights)(values)
        from sklearn.linear_model import RidgeCV  # noqa: PLC0415 - takes a second to import

        alpha = float(RidgeCV(_ALPHAS).fit(samples, values).alpha_)
        return Ridge(alpha, samples, weights)(values)


def predict(fit: Fit, samples: FloatArray) -> FloatArray:
    """Predictions of a fitted ridge or tree for `samples` [n, words] of 0 and 1, [n]."""
    nodes = fit.surrogate.nodes
    if not nodes:
        return samples @ fit.attributions + (fit.surrogate.intercept or 0.0)
    found = np.empty(len(samples))
    for row, sample in enumerate(samples):
        node = nodes[0]
        while node.feature is not None and node.absent is not None and node.present is not None:
            node = nodes[node.present if sample[node.feature] else node.absent]
        found[row] = node.value
    return found


def _vocabulary(bags: Sequence[frozenset[str]]) -> list[str]:
    """The words that several of the prompts have, but not all, the most frequent first."""
    counts = Counter(word for each in bags for word in each)
    some = [(count, word) for word, count in counts.items() if _MIN_PROMPTS <= count < len(bags)]
    return [word for _, word in sorted(some, key=lambda each: (-each[0], each[1]))[:MAX_WORDS]]


def _presence(bags: Sequence[frozenset[str]], vocabulary: Sequence[str], rows: Sequence[int]) -> FloatArray:
    """Which words of `vocabulary` the prompts `rows` have, float64 [rows, words] of 0 and 1."""
    columns = {word: column for column, word in enumerate(vocabulary)}
    present = np.zeros((len(rows), len(vocabulary)))
    for row, index in enumerate(rows):
        present[row, [columns[word] for word in bags[index] if word in columns]] = 1
    return present


def _ranked(fit: Fit) -> list[int]:
    """The columns with a coefficient or a split of the tree, the largest coefficient first."""
    asked = {node.feature for node in fit.surrogate.nodes}
    order: list[int] = np.argsort(-np.abs(fit.attributions), kind="stable").tolist()
    return [column for column in order if fit.attributions[column] != 0 or column in asked]
