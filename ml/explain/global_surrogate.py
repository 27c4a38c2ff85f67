"""A global surrogate: from which words are present in a prompt to the model's value, fitted over many prompts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ml import spec
from ml.explain import surrogates
from ml.explain.estimator import Estimate, Estimating, FloatArray, Game
from ml.explain.surrogates import Fit
from ml.explain.units import words
from ml.result import StopReason, SurrogateFit, WordCoefficient
from ml.spec import Span, SurrogateKind

MOST_WORDS = 2000
"""The most frequent ones have a coefficient."""
_FEWEST_PROMPTS = 2
"""In which a word must be, to tell its effect from its one prompt's."""
_AT_ONCE = 256  # prompts
_ALPHAS = np.logspace(-2, 4, 25)


def bag(text: str) -> frozenset[str]:
    """The words of a text, in lower case."""
    return frozenset(located(text, [(0, len(text))]).values())


def located(text: str, regions: Sequence[Span]) -> dict[int, str]:
    """The words in some regions of a text, in lower case, by where they begin."""
    return {
        begin + start: text[begin + start : begin + end].casefold()
        for begin, stop in regions
        for start, end in words(text[begin:stop])
    }


def held_out(prompts: int, share: float) -> int:
    """How many of some prompts test the fit: at least two, as a single value varies around nothing, and not all."""
    return min(max(2, round(share * prompts)), prompts - 2)


@dataclass(frozen=True)
class GlobalSurrogateExplainer:
    """Fits a ridge or a tree to the values of most prompts, and tries it on the others.

    The ridge's penalty is the one, of 25 from 0.01 to 10,000, that predicts each prompt best from the others (leave-
    one-out). Prompts are held out before anything is known of their values.
    """

    method: spec.GlobalSurrogate
    seed: int
    bags: tuple[frozenset[str], ...]
    """The words of each prompt, the spec's own first."""
    features: tuple[frozenset[str], ...]
    """The words of each feature of the spec's own prompt."""

    @property
    def max_evaluations(self) -> int:
        """All prompts."""
        return len(self.bags)

    @property
    def min_evaluations(self) -> int:
        """All of them."""
        return self.max_evaluations

    def __call__(self, game: Game) -> Estimating:
        """Ask for all prompts: the game's players but the first, which is the own prompt with nothing left of it."""
        choices = np.eye(game.features, dtype=np.bool_)[1:]
        values = np.full(len(choices), np.nan)
        order = np.random.default_rng([self.seed, 1]).permutation(len(choices))
        for some in np.array_split(order, math.ceil(len(order) / _AT_ONCE)):
            answers = yield from game(choices[some])
            if not np.isfinite(answers).all():
                break  # which of them were answered depends on the order of the work, not on chance alone
            values[some] = answers
        yield self._estimate(values)

    def _estimate(self, values: FloatArray) -> Estimate:
        known = np.isfinite(values)
        stop = StopReason.COMPLETE if known.all() else StopReason.SECONDS
        if known.sum() < spec.FEWEST_PROMPTS:
            return Estimate.nothing(len(self.features), StopReason.SECONDS)
        drawn = np.random.default_rng(self.seed).permutation(len(values))
        order: list[int] = drawn[known[drawn]].tolist()
        many = held_out(len(order), self.method.held_out)
        held, fitted = order[:many], order[many:]
        vocabulary = _vocabulary([self.bags[i] for i in fitted])
        if not vocabulary:
            return Estimate.nothing(len(self.features), stop)
        fit = self._fit(_presence(self.bags, vocabulary, fitted), values[fitted])
        predicted = predict(fit, _presence(self.bags, vocabulary, held))
        weights = dict(zip(vocabulary, zip(fit.attributions, fit.standard_errors, strict=True), strict=True))
        own = [[weights[word] for word in sorted(feature) if word in weights] for feature in self.features]
        return Estimate(
            attributions=np.array([sum(value for value, _ in each) for each in own]),
            # Of several words at worst: how their errors go together is not kept.
            standard_errors=np.array([sum(error for _, error in each) if each else np.inf for each in own]),
            stop=stop,
            converged=stop is StopReason.COMPLETE,
            surrogate=_described(fit, vocabulary, surrogates.r_squared(values[held], predicted, np.ones(len(held)))),
        )

    def _fit(self, samples: FloatArray, values: FloatArray) -> Fit:
        weights = np.ones(len(values))
        if self.method.surrogate is SurrogateKind.DECISION_TREE:
            return surrogates.decision_tree(self.method.max_depth, samples, values, weights)
        from sklearn.linear_model import RidgeCV  # noqa: PLC0415 - takes a second to import

        return surrogates.ridge(float(RidgeCV(_ALPHAS).fit(samples, values).alpha_), samples, values, weights)


def predict(fit: Fit, samples: FloatArray) -> FloatArray:
    """What a fitted ridge or tree predicts for `samples` [n, words] of 0 and 1. Returns [n]."""
    nodes = fit.surrogate.nodes
    if not nodes:
        return samples @ fit.attributions + fit.surrogate.intercept
    found = np.empty(len(samples))
    for row, sample in enumerate(samples):
        node = nodes[0]
        while node.feature >= 0:
            node = nodes[node.present if sample[node.feature] else node.absent]
        found[row] = node.value
    return found


def _vocabulary(bags: Sequence[frozenset[str]]) -> list[str]:
    """The words that some of the prompts have, the most frequent first."""
    counts = Counter(word for each in bags for word in each)
    some = [(count, word) for word, count in counts.items() if _FEWEST_PROMPTS <= count < len(bags)]
    return [word for _, word in sorted(some, key=lambda each: (-each[0], each[1]))[:MOST_WORDS]]


def _presence(bags: Sequence[frozenset[str]], vocabulary: Sequence[str], rows: Sequence[int]) -> FloatArray:
    """Which words of `vocabulary` are in the prompts `rows`, float64 [rows, words] of 0 and 1."""
    columns = {word: column for column, word in enumerate(vocabulary)}
    present = np.zeros((len(rows), len(vocabulary)))
    for row, index in enumerate(rows):
        present[row, [columns[word] for word in bags[index] if word in columns]] = 1
    return present


def _described(fit: Fit, vocabulary: Sequence[str], held_out: float) -> SurrogateFit:
    """The fit for the result: words that count, the largest first, and a tree that asks about them."""
    asked = {node.feature for node in fit.surrogate.nodes}
    order = np.argsort(-np.abs(fit.attributions), kind="stable").tolist()
    ranked = [column for column in order if fit.attributions[column] != 0 or column in asked]
    place = {column: index for index, column in enumerate(ranked)}
    return replace(
        fit.surrogate,
        held_out_r_squared=held_out,
        coefficients=tuple(
            WordCoefficient(vocabulary[i], float(fit.attributions[i]), float(fit.standard_errors[i])) for i in ranked
        ),
        nodes=tuple(
            replace(node, feature=place[node.feature]) if node.feature >= 0 else node for node in fit.surrogate.nodes
        ),
    )
