"""Interaction indices: by the definition where all is known, and close to it with honest errors where it is not."""

from __future__ import annotations

from itertools import combinations
from math import comb, factorial

import numpy as np
import pytest

from ml.explain.control_variates import indices
from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.indices import Index
from ml.explain.estimator import empty_and_full
from ml.explain.explainers import interactions
from ml.explain.explainers.interactions import InteractionsExplainer
from ml.explain.explainers.kernel_shap import draw
from ml.explain.sampling.interval import two_sided_95
from ml.result import StopReason
from ml.spec import Budget
from tests.unit.ml.explain.games import crooked, glove, shapley_values
from tests.unit.ml.explain.toys import ToyGame, additive, conjunction, estimates


def explain(game, evaluations=None, **budget):
    return estimates(InteractionsExplainer(game.features, Budget(max_evaluations=evaluations, **budget)), game)


def by_definition(game):
    """Σ over S without i and j of s! (d − s − 2)! / (d − 1)! · [v(Sij) − v(Si) − v(Sj) + v(S)], [pairs]."""
    d = game.features
    numbers = np.arange(2**d)
    values = game._value(every(d)) * 1.0
    sizes = every(d).sum(axis=1)
    weights = np.array([factorial(s) * factorial(d - s - 2) / factorial(d - 1) for s in range(d - 1)] + [0.0, 0.0])
    found = []
    for i, j in combinations(range(d), 2):
        both = 1 << i | 1 << j
        gains = values[numbers | both] - values[numbers | 1 << i] - values[numbers | 1 << j] + values
        found.append((weights[sizes] * gains)[numbers & both == 0].sum())
    return np.array(found)


def sparse(features):
    """Some features, pairs and triples that are worth something where all of them are present, to be shared evenly.

    Returns the game, its Shapley values and its interactions.
    """
    random = np.random.default_rng(0)
    worths = {
        tuple(random.choice(features, size, replace=False)): random.normal() for size in [1] * 6 + [2] * 6 + [3] * 5
    }
    shapley = [sum(worth / len(team) for team, worth in worths.items() if i in team) for i in range(features)]
    together = [
        sum(worth / (len(team) - 1) for team, worth in worths.items() if {i, j} <= set(team))
        for i, j in combinations(range(features), 2)
    ]
    game = ToyGame(features, lambda kept: sum(worth * kept[:, team].all(axis=1) for team, worth in worths.items()))
    return game, np.array(shapley), np.array(together)


def every(features):
    return (np.arange(2**features)[:, None] >> np.arange(features)) % 2 == 1


def any_game(features, seed=0):
    values = np.random.default_rng(seed).normal(size=2**features)
    return ToyGame(features, lambda present: values[present @ (1 << np.arange(features))])


def pairs_of(features):
    return Index(features, np.array(np.triu_indices(features, 1)))


def drawn(features, pairs, seed=0):
    return np.array([pair for _, pair in zip(range(pairs), draw(features, seed, tilt=1), strict=False)])


@pytest.mark.parametrize("features", [1, 2, 3, 5, 8])
def test_all_coalitions_give_the_definition(features):
    game = any_game(features)
    found = explain(game)[-1]
    assert found.stop is StopReason.COMPLETE
    assert found.converged
    assert found.attributions == pytest.approx(shapley_values(game))
    assert found.interactions.values == pytest.approx(by_definition(game) if features > 1 else [])
    assert len(found.interactions.standard_errors) == comb(features, 2)
    assert (found.standard_errors == 0).all()
    assert (found.interactions.standard_errors == 0).all()
    assert found.completeness_error == pytest.approx(0)
    assert game.asked == 2**features == InteractionsExplainer(features, Budget()).max_evaluations


@pytest.mark.parametrize("members", [(0, 3), (1, 2, 4), (0, 1, 2, 3, 4, 5)])
def test_unanimity_games_are_shared_evenly(members):
    """Of a game that is won where all members are present, a pair of m members has 1/(m − 1) and others nothing."""
    found = explain(ToyGame(6, lambda present: present[:, members].all(axis=1)))[-1]
    share = {pair: 1 / (len(members) - 1) for pair in combinations(members, 2)}
    assert found.interactions.values == pytest.approx([share.get(pair, 0) for pair in combinations(range(6), 2)])


@pytest.mark.parametrize("evaluations", [None, 400])
def test_an_additive_game_has_no_interactions(evaluations):
    effects = np.linspace(-2, 3, 8 if evaluations is None else 12)
    found = explain(additive(effects), evaluations)[-1]
    assert found.attributions == pytest.approx(effects, abs=0.01)
    assert found.interactions.values == pytest.approx(np.zeros(comb(len(effects), 2)), abs=0.01)
    assert found.converged


def test_a_constant_game_has_no_error():
    found = explain(ToyGame(11, lambda present: np.full(len(present), 2.5)), 100)[-1]
    assert found.interactions.values == pytest.approx(np.zeros(55), abs=1e-9)
    assert found.interactions.standard_errors == pytest.approx(np.zeros(55), abs=1e-9)


def test_twins_are_alike_and_a_dummy_has_nothing():
    game = crooked(9)
    found = np.zeros((9, 9))
    found[np.triu_indices(9, 1)] = explain(game)[-1].interactions.values
    found += found.T
    assert found[0, 2:] == pytest.approx(found[1, 2:])
    assert found[8] == pytest.approx(np.zeros(9))


def test_of_a_quadratic_game_they_are_its_coefficients():
    effects, together = np.array([1.0, -2.0, 0.5, 0.0]), np.triu(np.arange(16.0).reshape(4, 4), 1)
    game = ToyGame(4, lambda present: present @ effects + ((present @ together) * present).sum(axis=1))
    found = explain(game)[-1]
    assert found.interactions.values == pytest.approx(together[np.triu_indices(4, 1)])
    assert found.attributions == pytest.approx(effects + (together + together.T).sum(axis=1) / 2)


@pytest.mark.parametrize(
    ("game", "evaluations", "error"),
    [(crooked(12), 300, 0.08), (conjunction(12, 3, 4), 150, 0.01), (glove(4, 7), 300, 0.7)],
)
def test_sampled_interactions_are_close(game, evaluations, error):
    """`error` is a part of the spread of the true ones."""
    truth = by_definition(game)
    found = explain(game, evaluations)[-1]
    assert found.stop is StopReason.EVALUATIONS
    off = found.interactions.values - truth
    assert np.sqrt(np.mean(off**2)) < error * truth.std()
    assert (np.abs(off) < 5 * found.interactions.standard_errors + 1e-3).all()
    assert found.attributions == pytest.approx(shapley_values(game), abs=0.05)
    assert found.completeness_error == pytest.approx(0, abs=1e-8)


def test_many_features_of_which_few_matter():
    game, shapley, truth = sparse(24)
    found = explain(game, 500)[-1]
    off = found.interactions.values - truth
    assert np.sqrt(np.mean(off**2)) < 0.4 * truth.std()
    assert (np.abs(off) < 5 * found.interactions.standard_errors + 1e-3).all()
    assert (np.abs(found.attributions - shapley) < 5 * found.standard_errors + 1e-3).all()


def test_needs_far_fewer_evaluations_than_the_plain_estimator():
    game, index, truth = crooked(12), pairs_of(12), by_definition(crooked(12))
    pairs = drawn(12, 1499)
    sizes = pairs[:, 0].sum(axis=1)
    often = np.array([comb(12, size) / (1 + (size == 6)) for size in range(7)]) / np.bincount(sizes).clip(1)
    asked = pairs.reshape(-1, 12)
    plain = (index.weights(asked) * often[sizes].repeat(2)[:, None]).T @ game._value(asked)
    plain += index.weights(empty_and_full(12)).T @ game._value(empty_and_full(12))
    ours = explain(game, 300)[-1].interactions.values
    assert np.linalg.norm(ours - truth) < 0.3 * np.linalg.norm(plain - truth)


def test_intervals_cover():
    game, shapley, truth = sparse(11)
    held: list[np.ndarray] = []
    for seed in range(12):
        found = explain(game, 140, seed=seed)[-1]
        reach = two_sided_95(found.freedom)
        held.append(np.abs(found.interactions.values - truth) <= reach * found.interactions.standard_errors)
        held.append(np.abs(found.attributions - shapley) <= reach * found.standard_errors)
    assert 0.90 <= np.mean(np.concatenate(held[::2])) <= 0.99
    assert 0.88 <= np.mean(np.concatenate(held[1::2])) <= 0.99


def test_more_samples_than_are_fitted_to(monkeypatch):
    """What is beyond them corrects the fit, and counts as itself where its size is known whole."""
    game, shapley, truth = sparse(11)
    fitted = explain(game, 202)[-1].interactions.values
    monkeypatch.setattr(interactions, "_FITTED", 202)
    found = explain(game, 1600)[-1]
    off = found.interactions.values - truth
    assert np.linalg.norm(off) < 0.5 * np.linalg.norm(fitted - truth)
    assert (np.abs(off) < 4 * found.interactions.standard_errors).all()
    assert (np.abs(found.attributions - shapley) < 4 * found.standard_errors).all()
    assert found.completeness_error == pytest.approx(0, abs=1e-8)


def test_errors_vanish_as_coalitions_run_out():
    game = crooked(10)
    found = explain(game, 1020)[-1]
    assert found.stop is StopReason.EVALUATIONS
    assert found.interactions.values == pytest.approx(by_definition(game), abs=1e-4)
    assert found.interactions.standard_errors.max() < 1e-4
    assert found.standard_errors.max() < 1e-4


@pytest.mark.parametrize("order", [1, 2])
def test_weights_are_those_of_the_definition(order):
    game = any_game(6)
    index = pairs_of(6) if order == 2 else Index(6, np.arange(6)[None])
    weights = index.weights(every(6))
    assert weights.T @ game._value(every(6)) == pytest.approx(
        by_definition(game) if order == 2 else shapley_values(game)
    )


def test_pairs_vary_as_those_of_drawn_games_do():
    covariance = Covariance.of(np.arange(1.0, 7.0))
    weights = pairs_of(6).weights(every(6))
    matrix = covariance(every(6), every(6)) + covariance.noise * np.eye(64)
    assert pairs_of(6).prior(covariance) == pytest.approx(np.einsum("ca,cd,da->a", weights, matrix, weights))


def test_large_matrices_are_made_in_parts(monkeypatch):
    game = crooked(11)
    whole = explain(game, 150)[-1]
    monkeypatch.setattr(indices, "_AT_ONCE", 1000)
    assert len(list(pairs_of(11).chunks(150))) == 9
    parts = explain(game, 150)[-1]
    assert parts.attributions == pytest.approx(whole.attributions, abs=1e-9)
    assert parts.interactions.values == pytest.approx(whole.interactions.values, abs=1e-9)
    assert parts.interactions.standard_errors == pytest.approx(whole.interactions.standard_errors, abs=1e-9)


@pytest.mark.parametrize("features", [2, 3, 4, 7, 8])
def test_all_pairs_of_coalitions_are_drawn_once(features):
    pairs = list(draw(features, 1, tilt=1))
    assert len(np.unique(np.concatenate(pairs), axis=0)) == 2**features - 2 == 2 * len(pairs)
    assert all((first ^ second).all() and first.sum() * 2 <= features for first, second in pairs)


def test_single_features_are_known_by_the_first_fit():
    explainer = InteractionsExplainer(40, Budget())
    sizes = drawn(40, (explainer.min_evaluations - 2) // 2)[:, 0].sum(axis=1)
    assert (sizes == 1).sum() >= 40
    assert len(np.unique(sizes)) == 20


def test_the_same_seed_gives_the_same_numbers():
    one, same, other = (explain(crooked(11), 150, seed=seed)[-1].interactions.values for seed in (4, 4, 5))
    assert (one == same).all()
    assert (one != other).all()


@pytest.mark.parametrize(("features", "evaluations"), [(9, None), (9, 511), (12, 100), (12, 101), (400, None)])
def test_the_budget_is_kept_to(features, evaluations):
    explainer = InteractionsExplainer(features, Budget(max_evaluations=evaluations))
    assert (
        explainer.min_evaluations <= explainer.max_evaluations <= (evaluations or max(1000, explainer.min_evaluations))
    )
    if features < 20:
        game = crooked(features)
        assert estimates(explainer, game)[-1].stop is not None
        assert game.asked == explainer.max_evaluations


@pytest.mark.parametrize("features", [1, 2, 5, 12])
def test_the_fewest_evaluations_tell_something(features):
    smallest = InteractionsExplainer(features, Budget()).min_evaluations
    found = explain(crooked(features) if features > 2 else any_game(features), smallest)[-1]
    assert np.isfinite(found.standard_errors).all()
    assert np.isfinite(found.interactions.standard_errors).all()


def test_estimates_improve():
    game = crooked(12)
    found = explain(game, 500)
    assert [each.stop for each in found[:-1]] == [None] * (len(found) - 1)
    assert len(found) >= 5
    errors = [np.linalg.norm(each.interactions.values - by_definition(game)) for each in found]
    assert errors[-1] < errors[0] / 5


def test_the_standard_error_is_that_of_features_and_pairs():
    limit = 0.02
    game = crooked(12)
    *before, last = explain(game, 1000, standard_error=limit)
    assert last.stop is StopReason.STANDARD_ERROR
    assert last.converged
    assert game.asked < 1000
    assert last.interactions.standard_errors.max() < limit
    assert last.standard_errors.max() < limit
    assert all(each.interactions.standard_errors.max() >= limit for each in before)
    assert any(each.standard_errors.max() < limit for each in before)


@pytest.mark.parametrize(("patience", "known"), [(1, False), (2, False), (20, False), (170, True)])
def test_what_is_known_when_time_runs_out(patience, known):
    game = ToyGame(12, crooked(12)._value, patience)
    found = explain(game, 2000)[-1]
    assert found.stop is StopReason.DURATION
    assert found.attributions.shape == (12,)
    assert found.interactions.values.shape == (66,)
    assert np.isfinite(found.interactions.values).all()
    assert np.isfinite(found.standard_errors).all() == known
    assert np.isfinite(found.interactions.standard_errors).all() == known
    assert found.converged == known


def test_time_that_runs_out_before_all_coalitions_are_known():
    game = ToyGame(9, crooked(9)._value, 300)
    found = explain(game)[-1]
    assert found.stop is StopReason.DURATION
    off = np.abs(found.interactions.values - by_definition(game))
    assert (off < 4 * found.interactions.standard_errors + 1e-6).all()
