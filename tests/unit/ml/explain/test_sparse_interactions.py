"""Interactions among hundreds of features: planted ones are found, and told with errors that hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from ml.explain.explainers.sparse_interactions import SparseInteractionsExplainer
from ml.explain.sampling.interval import two_sided_95
from ml.result import StopReason
from ml.spec import Budget
from tests.unit.ml.explain.toys import ToyGame, estimates


def planted(features: int, seed: int = 0, background: float = 0.0) -> tuple[ToyGame, Mapping[tuple[int, ...], float]]:
    """A game of ten features, six pairs and a triple that add something if all present.

    Every feature, and as many pairs, add a little beside.

    Returns the game, and what each of those adds.
    """
    random = np.random.default_rng(seed)
    terms: dict[tuple[int, ...], float] = {(i,): background * random.normal() for i in range(features)}
    for pair in random.integers(features, size=(features, 2)) if background else ():
        if pair[0] != pair[1]:
            terms[tuple(sorted(pair.tolist()))] = background * random.normal()
    for order, many in ((1, 10), (2, 6), (3, 1)):
        for _ in range(many):
            members = tuple(sorted(random.choice(features, order, replace=False).tolist()))
            terms[members] = random.choice([-1, 1]) * random.uniform(0.8, 2)

    def value(present):
        return sum(adds * present[:, list(members)].all(axis=1) for members, adds in terms.items())

    return ToyGame(features, value), terms


def truths(terms: Mapping[tuple[int, ...], float], features: int) -> tuple[np.ndarray, dict[tuple[int, ...], float]]:
    """Shapley values and pairs' interaction indices: what some features add is shared evenly among them."""
    shapley, pairs = np.zeros(features), dict[tuple[int, ...], float]()
    for members, adds in terms.items():
        shapley[list(members)] += adds / len(members)
        for index, i in enumerate(members):
            for j in members[index + 1 :]:
                pairs[i, j] = pairs.get((i, j), 0) + adds / (len(members) - 1)
    return shapley, pairs


def explain(game, evaluations, seed=0):
    found = estimates(SparseInteractionsExplainer(game.features, Budget(max_evaluations=evaluations, seed=seed)), game)
    return found[-1]


def pairs_of(found):
    """Of each pair that is told of, its index and standard error."""
    numbers = zip(found.interactions.values, found.interactions.standard_errors, strict=True)
    return dict(zip(map(tuple, found.interactions.members.T.tolist()), numbers, strict=True))


@pytest.mark.parametrize("features", [150, 250, 400])
@pytest.mark.parametrize("background", [0.0, 0.03])
def test_planted_pairs_are_found(features, background):
    game, terms = planted(features, background=background)
    shapley, pairs = truths(terms, features)
    found = explain(game, 4 * features + 400)
    those = pairs_of(found)
    assert {pair for pair, index in pairs.items() if abs(index) > 0.3} <= set(those)
    for pair, (value, error) in those.items():
        assert value == pytest.approx(pairs.get(pair, 0), abs=5 * error + 1e-6)
    assert (np.abs(found.attributions - shapley) <= 5 * found.standard_errors + 1e-6).all()
    assert found.attributions.sum() == pytest.approx(shapley.sum())
    assert found.stop is StopReason.EVALUATIONS


def test_intervals_cover():
    game, terms = planted(200, background=0.1)
    shapley, pairs = truths(terms, 200)
    of_features, of_pairs, ratios = list[bool](), list[bool](), list[float]()
    for seed in range(12):
        found = explain(game, 1000, seed)
        missed = np.abs(found.attributions - shapley)
        of_features += (missed <= two_sided_95(found.freedom) * found.standard_errors).tolist()
        of_pairs += [
            abs(value - pairs.get(pair, 0)) <= 1.96 * error + 1e-9 for pair, (value, error) in pairs_of(found).items()
        ]
        ratios.append(float((found.standard_errors**2).mean() / (missed**2).mean()))
    assert 0.9 <= np.mean(of_features) <= 0.99
    assert np.mean(of_pairs) >= 0.85
    assert 0.8 <= np.sqrt(np.mean(ratios)) <= 1.25


def test_where_there_are_none_hardly_any_is_told():
    random = np.random.default_rng(5)
    effects = random.normal(size=300)
    found = explain(ToyGame(300, lambda present: present @ effects), 1200)
    assert len(found.interactions.values) <= 2
    assert np.abs(found.interactions.values).max(initial=0) < 1e-6


def test_a_constant_game_has_nothing():
    found = explain(ToyGame(150, lambda present: np.full(len(present), 3.0)), 400)
    assert not found.attributions.any()
    assert found.interactions.values.size == 0


def test_rows_sum_to_the_whole():
    (one, _), (other, _) = planted(150, 1), planted(150, 2)
    whole = ToyGame(150, lambda present: one._value(present) + other._value(present))
    found = explain(whole, 700)
    rows = list(found.rows(lambda present: np.array([one._value(present), other._value(present)])))
    assert sum(row.attributions for row in rows) == pytest.approx(found.attributions)


@pytest.mark.parametrize("features", [129, 400, 1024])
def test_the_fewest_evaluations_tell_something(features):
    explainer = SparseInteractionsExplainer(features, Budget())
    game, _ = planted(features)
    found = explain(game, explainer.min_evaluations)
    assert np.isfinite(found.standard_errors).all()
    assert explainer.min_evaluations <= explainer.max_evaluations
