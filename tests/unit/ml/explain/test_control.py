"""Control variates: the same numbers as the plain estimators in the long run, and closer to them before."""

import math

import numpy as np
import pytest

from ml.explain.control import MOST, Control, subsets
from ml.explain.covariance import Covariance
from ml.explain.kernel_shap import KernelShapExplainer
from ml.explain.lime import LimeExplainer, Sizes, kernel
from ml.explain.surrogates import ridge
from ml.spec import Budget, Lime
from tests.unit.ml.explain.games import shapley_values
from tests.unit.ml.explain.toys import ToyGame, additive, estimates


def saturating(features=12):
    """A game of a few strong players that make up for each other, as words of a prompt do. Shapley values not shown."""
    strengths = np.array([3.0, 2.0, 1.0] + [0.1] * (features - 3))
    return ToyGame(features, lambda present: -np.log1p(np.exp(3 - present @ strengths)) + 0.5 * present[:, 0])


def shapley(game, evaluations, seed, *, control):
    budget = Budget(max_evaluations=evaluations, seed=seed)
    return estimates(KernelShapExplainer(game.features, budget, control=control), game)[-1]


def lime(game, evaluations, seed, *, control):
    budget = Budget(max_evaluations=evaluations, seed=seed)
    return estimates(LimeExplainer(game.features, Lime(), budget, control=control), game)[-1]


def lime_coefficients(game):
    """LIME's ridge over all coalitions, each weighed by how often 1,000 samples draw it."""
    coalitions = (np.arange(1, 2**game.features)[:, None] >> np.arange(game.features) & 1) == 0
    removed = (~coalitions).sum(axis=1)
    often = 1000 / game.features / np.array([math.comb(game.features, size) for size in removed])
    values = game._value(coalitions)
    return ridge(1.0, coalitions * 1.0, values, often * kernel(coalitions, 25.0)).attributions


@pytest.mark.parametrize("explain", [shapley, lime])
def test_errors_are_smaller_and_known(explain):
    game = saturating()
    truth = {shapley: shapley_values, lime: lime_coefficients}[explain](game)
    errors, deviations = {}, {}
    for control in (False, True):
        found = [explain(game, 120, seed, control=control) for seed in range(20)]
        errors[control] = np.sqrt(np.mean([(each.attributions - truth) ** 2 for each in found]))
        deviations[control] = np.sqrt(np.mean([each.standard_errors**2 for each in found]))
    assert errors[True] < 0.6 * errors[False]
    assert 0.5 * errors[True] < deviations[True] < 2 * errors[True]


def test_shapley_values_still_sum_to_the_gain():
    assert shapley(saturating(), 120, 3, control=True).completeness_error == pytest.approx(0, abs=1e-9)


def test_an_additive_game_is_known_closely():
    effects = np.array([3.0, -1.0, 0.0, 0.5, 0.2, -0.7, 0.0, 1.5, 0.0, 0.1])
    found = shapley(additive(effects), 200, 0, control=True)
    assert found.attributions == pytest.approx(effects, abs=5e-3)
    assert found.standard_errors.max() < 0.02


def test_a_constant_game_has_no_error():
    game = ToyGame(8, lambda present: np.full(len(present), 2.5))
    for explain in (shapley, lime):
        found = explain(game, 100, 0, control=True)
        assert found.attributions == pytest.approx(np.zeros(8), abs=1e-9)
        assert found.standard_errors == pytest.approx(np.zeros(8), abs=1e-9)


def test_a_residual_is_of_a_fit_without_its_sample():
    random = np.random.default_rng(0)
    coalitions = subsets(random, random.integers(0, 7, 30), 6)
    values = np.sin(coalitions @ np.arange(6.0))
    whole = Control(np.arange(6.0), coalitions, values)
    centred = (values - values.mean()) / values.std()
    covariance = Covariance.of(np.arange(6.0)).fitted(coalitions, centred)
    for left_out in (0, 13):
        kept = np.arange(30) != left_out
        matrix = covariance(coalitions[kept], coalitions[kept]) + covariance.noise * np.eye(29)
        weights = np.linalg.solve(matrix, centred[kept])
        predicted = covariance(coalitions[[left_out]], coalitions[kept]) @ weights
        expected = values.std() * (centred[left_out] - predicted[0])
        assert whole.residuals[left_out] == pytest.approx(expected, abs=1e-8)


def test_more_samples_than_are_fitted_to():
    game = saturating()
    found = lime(game, MOST + 300, 0, control=True)
    assert found.attributions == pytest.approx(lime(game, 20_000, 1, control=False).attributions, abs=0.03)


def test_sizes_make_up_for_being_drawn_unlike():
    sizes = Sizes.of(9, 25.0)
    assert sizes.probabilities.sum() == pytest.approx(1)
    drawn = sizes.many(np.random.default_rng(0), 40_000)
    removed = (~drawn).sum(axis=1)
    assert (removed >= 1).all()
    evenly = np.bincount(removed, weights=sizes.weights(drawn), minlength=10)[1:] / 40_000
    assert evenly == pytest.approx([1 / 9] * 9, abs=0.01)
