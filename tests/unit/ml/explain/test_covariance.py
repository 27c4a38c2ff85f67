"""What a Gaussian process expects of a game, and the Shapley values of what it expects."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from math import comb

import numpy as np
import pytest

from ml.explain.control_variates import covariance, product_games
from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.indices import Index
from ml.explain.control_variates.linear import Linear
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.lime_draws import Coefficients, Sizes
from ml.spec import Budget, Lime
from tests.unit.ml.explain.games import bumpy, shapley_values, subsets
from tests.unit.ml.explain.toys import ToyGame, estimates

FEATURES = 5
COVARIANCE = replace(Covariance.of(np.arange(1.0, 6.0)), growth=0.4)
EVERY = (np.arange(2**FEATURES)[:, None] >> np.arange(FEATURES) & 1) == 1


PAIRS = np.array(np.triu_indices(FEATURES, 1))


def shapley_matrix() -> np.ndarray:
    """What makes Shapley values of the values of `EVERY`, [coalitions, features]."""
    return np.array(
        [
            shapley_values(ToyGame(FEATURES, lambda present, one=one: (present == one).all(axis=1) * 1.0))
            for one in EVERY
        ]
    )


def interaction_matrix() -> np.ndarray:
    """What makes interaction indices of the values of `EVERY`, [coalitions, pairs]."""
    return Index(FEATURES, PAIRS).weights(EVERY)


def test_products_have_exact_shapley_values():
    random = np.random.default_rng(0)
    present, absent = random.uniform(0.1, 2, (2, 3, FEATURES))
    found = product_games.shapley(present, absent)
    for game in range(3):
        product = ToyGame(FEATURES, lambda kept, i=game: np.where(kept, present[i], absent[i]).prod(axis=1))
        assert found[game] == pytest.approx(shapley_values(product))


def test_shapley_values_of_a_covariance():
    others = EVERY[[0, 3, 17, 31]]
    assert COVARIANCE.shapley(others) == pytest.approx(shapley_matrix().T @ COVARIANCE(EVERY, others))


@pytest.mark.parametrize("features", [1, 2, 5, 8])
def test_sums_by_size_are_those_over_all_coalitions(features, monkeypatch):
    random = np.random.default_rng(features)
    present, absent = random.uniform(0.1, 2, (2, 7, features))
    size_weights = random.random(features + 1)
    every = (np.arange(2**features)[:, None] >> np.arange(features) & 1) == 1
    weights = (size_weights / [comb(features, size) for size in range(features + 1)])[every.sum(axis=1)]
    values = np.where(every, present[:, None], absent[:, None]).prod(axis=2) * weights  # [games, coalitions]
    for at_once in (1 << 18, 1):
        monkeypatch.setattr(product_games, "_MAX_NUMBERS", at_once)
        total, own = product_games.by_size(present, absent, size_weights)
        assert total == pytest.approx(values.sum(axis=1))
        assert own == pytest.approx(values @ every)


def test_sums_by_size_of_very_many_features_are_no_less_exact():
    """Of equal factors every size's mean is a power, whatever the number of its coalitions."""
    total, own = product_games.by_size(np.full((1, 300), 0.9), np.ones((1, 300)), size_weights := np.ones(301))
    assert total == pytest.approx([(0.9 ** np.arange(301)).sum()])
    assert own == pytest.approx(np.full((1, 300), (size_weights * np.arange(301) / 300 * 0.9 ** np.arange(301)).sum()))


@pytest.mark.parametrize("features", [2, 3, 6, 7])
def test_products_have_exact_interactions(features):
    """Those of the definition; where the others are neutral, the product of the two differences."""
    pairs = np.array(np.triu_indices(features, 1))
    present, absent = np.random.default_rng(features).uniform(0.1, 2, (2, 3, features))
    every = (np.arange(2**features)[:, None] >> np.arange(features) & 1) == 1
    values = np.where(every[:, None], present, absent).prod(axis=2)  # [coalitions, games]
    found = product_games.interactions(present, absent, pairs)
    assert found == pytest.approx((Index(features, pairs).weights(every).T @ values).T)
    present[:, 2:] = absent[:, 2:] = 1
    alone = product_games.interactions(present, absent, pairs[:, :1])[:, 0]
    assert alone == pytest.approx((present - absent)[:, :2].prod(axis=1))


def test_some_pairs_or_games_are_as_all(monkeypatch):
    present, absent = np.random.default_rng(1).uniform(0.1, 2, (2, 9, FEATURES))
    every = product_games.interactions(present, absent, PAIRS)
    monkeypatch.setattr(product_games, "_MAX_NUMBERS", 40)
    for some in (slice(0, 3), slice(5, 10)):
        assert product_games.interactions(present, absent, PAIRS[:, some]) == pytest.approx(every[:, some])


def test_interactions_of_a_covariance():
    others = EVERY[[0, 3, 17, 31]]
    expected = interaction_matrix().T @ COVARIANCE(EVERY, others)
    assert COVARIANCE.interactions(others, PAIRS) == pytest.approx(expected)


def linear_answers(features: int) -> list[Linear]:
    """Answers of each kind, of a narrow and a wide kernel of LIME too."""
    fits = [Coefficients(Sizes.of(features, width), alpha) for width, alpha in ((25.0, 1.0), (8.0, 0.1))]
    return [Index.of_features(features), Index.of_pairs(features), *fits]


@pytest.mark.parametrize("features", [2, 3, 5, 8])
@pytest.mark.parametrize("kind", range(4))
def test_answers_vary_as_those_of_drawn_games_do(features, kind):
    """Their variances are those of weighted sums over all coalitions."""
    answers = linear_answers(features)[kind]
    relevance = np.random.default_rng(features).normal(size=features)
    process = replace(Covariance.of(relevance), growth=0.4, linear=3.0)
    every = (np.arange(2**features)[:, None] >> np.arange(features) & 1) == 1
    weights = answers.weights(every)
    expected = np.einsum("cf,ce,ef->f", weights, process.of_samples(every), weights)
    assert answers.prior(process) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("index", [Index.of_features, Index.of_pairs])
def test_variances_do_not_depend_on_the_points_taken_together(index, monkeypatch):
    answers, process = index(9), Covariance.of(np.arange(1.0, 10.0))
    expected = answers.prior(process)
    monkeypatch.setattr(product_games, "_MAX_NUMBERS", 40)
    assert answers.prior(process) == pytest.approx(expected)


def test_variances_of_many_features_take_little_memory():
    process = Covariance.of(np.ones(300))
    tracemalloc.start()
    process.shapley_variance()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25


def test_no_variances_are_computed_that_would_take_long():
    many = 200
    assert Coefficients(Sizes.of(many, 25.0), 1.0).prior(Covariance.of(np.ones(many))) is None


def test_a_covariance_is_symmetric_and_positive():
    matrix = COVARIANCE(EVERY, EVERY)
    assert matrix == pytest.approx(matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_the_gradient_is_that_of_the_misfit():
    random = np.random.default_rng(1)
    signs, values = EVERY * 2.0 - 1, random.normal(size=len(EVERY))
    at = random.normal(size=COVARIANCE.parameters) * 0.3

    def misfit(changes: np.ndarray) -> float:
        return COVARIANCE._changed(changes)._misfit(signs, values, changes)[0]

    _, gradient = COVARIANCE._changed(at)._misfit(signs, values, at)
    steps = 1e-5 * np.eye(len(at))
    expected = [(misfit(at + step) - misfit(at - step)) / 2e-5 for step in steps]
    assert gradient == pytest.approx(np.array(expected), abs=1e-5)


def test_what_matters_is_found():
    coalitions = subsets(np.random.default_rng(2), np.random.default_rng(3).integers(0, 11, 120), 10)
    values = coalitions[:, 2] * 2.0 + coalitions[:, 2] * coalitions[:, 7]
    fitted = Covariance.of(np.ones(10)).fitted(coalitions, (values - values.mean()) / values.std())
    assert set(np.argsort(fitted.relevance)[-2:]) == {2, 7}


def test_values_that_are_all_alike_tell_nothing():
    assert COVARIANCE.fitted(EVERY, np.zeros(len(EVERY))) == COVARIANCE


def test_parameters_stay_while_more_samples_come(monkeypatch):
    game, asked = bumpy(12), list[np.ndarray]()
    search = covariance.minimize
    monkeypatch.setattr(covariance, "minimize", lambda *some, **how: asked.append(some[1]) or search(*some, **how))
    explainer = LimeExplainer(12, Lime(), Budget(max_evaluations=1000, seed=7), control=True)
    last = estimates(explainer, game)[-1]
    fits = len(asked)
    again = estimates(explainer, game)[-1]
    # Of all samples and either half, as long as there are fewer than the parameters are fitted to; and of 12 other
    # halves where they are few.
    assert fits <= 3 * 6 + 12
    assert (again.attributions == last.attributions).all()
