"""Games for the Shapley methods, and their values by the definition."""

from __future__ import annotations

from itertools import pairwise, permutations
from math import comb, factorial

import numpy as np

from ml.explain.estimator import BoolArray, FloatArray, IntArray
from ml.explain.explainers.lime_draws import kernel
from ml.explain.sampling.surrogates import Ridge
from tests.unit.ml.explain.toys import ToyGame


def saturating(features: int) -> ToyGame:
    """A few strong players that make up for each other, as words of a prompt do."""
    strengths = np.array(([3.0, 2.0, 1.0] + [0.1] * features)[:features])
    return ToyGame(features, lambda present: -np.log1p(np.exp(3 - present @ strengths)) + 0.5 * present[:, 0])


def bumpy(features: int) -> ToyGame:
    """A game that neither a surrogate nor a Gaussian process fits."""
    effects = np.linspace(-1, 2, features)
    return ToyGame(features, lambda present: np.sin(3 * present @ effects) + present @ effects + present[:, :2].all(1))


def glove(left: int, right: int) -> ToyGame:
    """Left and right gloves are worth 1 a pair (Shapley & Shubik 1969)."""
    return ToyGame(left + right, lambda present: np.minimum(present[:, :left].sum(1), present[:, left:].sum(1)))


def crooked(features: int) -> ToyGame:
    """Far from additive, with a dummy (the last) and twins (the first two)."""
    random = np.random.default_rng(1)
    alone = random.normal(size=features) / np.sqrt(features)
    together = np.triu(random.normal(size=(features, features)), 1) / features
    alone[1], alone[-1] = alone[0], 0
    together[:2], together[:, -1] = 0, 0
    return ToyGame(
        features,
        lambda present: (
            2 * np.tanh(present @ alone + ((present @ together) * present).sum(1)) + present[:, :3].all(1) + 0.25
        ),
    )


def votes(features: int) -> ToyGame:
    """A motion that passes from half of the weighted votes on: a step, and flat on either side."""
    weights = 1.0 / np.arange(1, features + 1)
    return ToyGame(features, lambda present: (present @ weights > weights.sum() / 2) * 1.0)


def shapley_values(game: ToyGame) -> FloatArray:
    """By the definition: Σ over S without i of |S|! (d − |S| − 1)! / d! · [v(S ∪ i) − v(S)]."""
    d = game.features
    numbers = np.arange(2**d)
    coalitions = (numbers[:, None] >> np.arange(d)) % 2 == 1
    values = game._value(coalitions) * 1.0
    sizes = coalitions.sum(axis=1)
    weights = np.array([factorial(s) * factorial(d - s - 1) / factorial(d) for s in range(d)] + [0.0])
    gains = [values[numbers | 1 << i] - values for i in range(d)]
    return np.array([(weights[sizes] * gain)[~coalitions[:, i]].sum() for i, gain in enumerate(gains)])


def mean_over_all_orders(game: ToyGame) -> FloatArray:
    """By the other definition: the mean contribution where a feature joins, over all orders."""
    total = np.zeros(game.features)
    orders = list(permutations(range(game.features)))
    for order in orders:
        chain = np.array([np.isin(range(game.features), order[:size]) for size in range(game.features + 1)])
        values = game._value(chain) * 1.0
        for feature, (before, after) in zip(order, pairwise(values), strict=True):
            total[feature] += after - before
    return total / len(orders)


def every_coalition(features: int) -> BoolArray:
    """All coalitions, bool [2 ** features, features]."""
    coalitions: BoolArray = (np.arange(2**features)[:, None] >> np.arange(features) & 1) == 1
    return coalitions


def lime_weights(features: int, samples: int = 1000) -> FloatArray:
    """What each of `every_coalition` weighs in LIME, on the average, float64 [2 ** features]."""
    coalitions = every_coalition(features)
    often = [1.0] + [(samples - 1) / features / comb(features, size) for size in range(1, features + 1)]
    return np.array(often)[(~coalitions).sum(axis=1)] * kernel(coalitions, 25.0)


def lime_coefficients(game: ToyGame, samples: int = 1000) -> FloatArray:
    """LIME's ridge on so many samples, on the average."""
    coalitions = every_coalition(game.features)
    weights = lime_weights(game.features, samples)
    return Ridge(1.0, coalitions * 1.0, weights)(game._value(coalitions) * 1.0).attributions


def subsets(random: np.random.Generator, sizes: IntArray, features: int) -> BoolArray:
    """Coalitions of the given `sizes`, int64 [n], their members drawn evenly, bool [n, features]."""
    ranks = random.random((len(sizes), features)).argsort(axis=1).argsort(axis=1)
    chosen: BoolArray = ranks < sizes[:, None]
    return chosen
