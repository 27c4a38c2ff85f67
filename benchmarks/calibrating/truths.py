"""True answers of games, from all coalitions and by definition: nothing here is what the estimators compute with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.calibrating.games import ToyGame
from ml.explain.estimator import BoolArray, FloatArray

_WIDTH, _ALPHA, _SAMPLES = 25.0, 1.0, 1000  # LIME's, in its authors' package


def every(features: int) -> BoolArray:
    """All coalitions, bool [2 ** features, features]; player i is bit i of the row's number."""
    coalitions: BoolArray = (np.arange(2**features)[:, None] >> np.arange(features) & 1) == 1
    return coalitions


def shapley(game: ToyGame) -> FloatArray:
    """Shapley values, [features]: Σ over S without i of |S|! (d − |S| − 1)! / d! · [v(S ∪ i) − v(S)]."""
    players = game.together
    values, sizes = _joint(game)
    weights = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)])
    found = []
    for i in range(players):
        without, with_i = _split(values, i)
        found.append(float(weights[_split(sizes, i)[0]] @ (with_i - without)))
    return np.concatenate([found, game.alone])


def interactions(game: ToyGame) -> FloatArray:
    """Shapley interaction indices of all pairs in the order of `numpy.triu_indices`, [pairs]."""
    players = game.together
    values, sizes = _joint(game)
    weights = np.array([1 / ((players - 1) * math.comb(players - 2, size)) for size in range(players - 1)])
    found = np.zeros((game.features, game.features))
    for j in range(1, players):
        difference = np.subtract(*reversed(_split(values, j)))
        sizes_without = _split(sizes, j)[0]
        for i in range(j):
            without, with_i = _split(difference, i)
            found[i, j] = weights[_split(sizes_without, i)[0]] @ (with_i - without)
    return found[np.triu_indices(game.features, 1)]


def lime_ridge(game: ToyGame) -> FloatArray:
    """The coefficients [features] of LIME's ridge on 1,000 samples, with every coalition as often as on the average."""
    features, players = game.features, game.together
    size = np.arange(features + 1)
    kernel = np.sqrt(np.exp(-((100 * (1 - np.sqrt(size / features))) ** 2) / _WIDTH**2))
    often = np.append(np.full(features, (_SAMPLES - 1) / features), 1.0)
    choose = np.array([math.comb(features, each) for each in size], dtype=np.float64)
    each = often * kernel / choose  # what one coalition of a size weighs
    total = float(each @ choose)
    alone = sum(each[s] * math.comb(features - 1, s - 1) for s in range(1, features + 1))  # of those with i
    both = sum(each[s] * math.comb(features - 2, s - 2) for s in range(2, features + 1))  # of those with i and j
    second = np.full((features, features), both)
    np.fill_diagonal(second, alone)
    covariance = second - alone**2 / total

    # Σ weight · v · zᵢ: of what some players do together over their coalitions, each with all of the others' beside it.
    others = features - players
    values, sizes = _joint(game)
    beside = [sum(each[s + k] * math.comb(others, k) for k in range(others + 1)) for s in range(players + 1)]
    weighted = values * np.array(beside)[sizes]
    cross = [float(_split(weighted, i)[1].sum()) for i in range(players)]
    if others:
        with_one = [
            sum(each[s + k] * math.comb(others - 1, k - 1) for k in range(1, others + 1)) for s in range(players + 1)
        ]
        cross += [float(values @ np.array(with_one)[sizes])] * others
    effects = np.concatenate([np.zeros(players), game.alone])
    moments = np.array(cross) - alone * float(weighted.sum()) / total + covariance @ effects
    found: FloatArray = np.linalg.solve(covariance + _ALPHA * np.eye(features), moments)
    return found


def context_lasso(game: ToyGame, alpha: float = 0.01) -> FloatArray:
    """The coefficients [features] of context attribution's lasso on all coalitions.

    Features are independent there, each present half of the time. So each coefficient of the standardized samples is
    half of the feature's mean effect, shrunk by the penalty alone.
    """
    values, _ = _joint(game)
    effects = [float(np.subtract(*reversed(_split(values, i))).mean()) for i in range(game.together)]
    halves = np.concatenate([effects, game.alone]) / 2
    shrunk: FloatArray = 2 * np.sign(halves) * np.maximum(np.abs(halves) - alpha, 0)
    return shrunk


def _joint(game: ToyGame) -> tuple[FloatArray, FloatArray]:
    """Values of all coalitions of the players who do something together, and their sizes."""
    coalitions = every(game.together)
    return game.joint(coalitions) * 1.0, coalitions.sum(axis=1)


def _split(each: FloatArray, player: int) -> tuple[FloatArray, FloatArray]:
    """`each` [2 ** n] of the coalitions without a player, and of the same ones with it, [2 ** (n - 1)] both."""
    shaped = each.reshape(-1, 2, 2**player)
    return shaped[:, 0].ravel(), shaped[:, 1].ravel()


KINDS: Mapping[str, Callable[[ToyGame], FloatArray]] = {
    "shapley": shapley,
    "interactions": interactions,
    "lime": lime_ridge,
}
"""By what a way of explaining is compared with."""
