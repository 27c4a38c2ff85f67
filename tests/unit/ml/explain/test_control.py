"""Control variates: the same numbers as the plain estimators in the long run, and closer to them before."""

import numpy as np
import pytest

from ml.explain.control import MOST, Control, subsets
from ml.explain.covariance import Covariance
from ml.explain.interactions import Index
from ml.explain.kernel_shap import KernelShapExplainer
from ml.explain.lime import LimeExplainer, Sizes, kernel
from ml.explain.surrogates import ridge_projector
from ml.spec import Budget, Lime
from tests.unit.ml.explain.games import every_coalition, lime_coefficients, saturating, shapley_values
from tests.unit.ml.explain.toys import ToyGame, additive, estimates


def shapley(game, evaluations, seed, *, control):
    budget = Budget(max_evaluations=evaluations, seed=seed)
    return estimates(KernelShapExplainer(game.features, budget, control=control), game)[-1]


def lime(game, evaluations, seed, *, control):
    budget = Budget(max_evaluations=evaluations, seed=seed)
    return estimates(LimeExplainer(game.features, Lime(), budget, control=control), game)[-1]


@pytest.mark.parametrize("explain", [shapley, lime])
def test_errors_are_smaller_and_known(explain):
    game = saturating(12)
    truth = {shapley: shapley_values, lime: lime_coefficients}[explain](game)
    errors, deviations = {}, {}
    for control in (False, True):
        found = [explain(game, 120, seed, control=control) for seed in range(20)]
        errors[control] = np.sqrt(np.mean([(each.attributions - truth) ** 2 for each in found]))
        deviations[control] = np.sqrt(np.mean([each.standard_errors**2 for each in found]))
    assert errors[True] < 0.6 * errors[False]
    assert 0.5 * errors[True] < deviations[True] < 2 * errors[True]


def test_shapley_values_still_sum_to_the_gain():
    assert shapley(saturating(12), 120, 3, control=True).completeness_error == pytest.approx(0, abs=1e-9)


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
    game = saturating(12)
    found = lime(game, MOST + 300, 0, control=True)
    assert found.attributions == pytest.approx(lime(game, 20_000, 1, control=False).attributions, abs=0.03)


def test_samples_beyond_the_fit_are_predicted_in_parts(monkeypatch):
    random = np.random.default_rng(0)
    coalitions = subsets(random, random.integers(0, 9, 60), 8)
    values = np.sin(coalitions @ np.arange(8.0))
    whole = Control(np.arange(8.0), coalitions, values, most=40)
    assert whole.residuals[:40] == pytest.approx(Control(np.arange(8.0), coalitions[:40], values[:40]).residuals)
    monkeypatch.setattr("ml.explain.control._AT_ONCE", 7)
    parts = Control(np.arange(8.0), coalitions, values, most=40)
    assert parts.residuals == pytest.approx(whole.residuals)
    assert len(parts.residuals) == 60


def test_sizes_make_up_for_being_drawn_unlike():
    sizes = Sizes.of(9, 25.0)
    assert sizes.probabilities.sum() == pytest.approx(1)
    drawn = sizes.many(np.random.default_rng(0), 40_000)
    removed = (~drawn).sum(axis=1)
    assert (removed == 0).sum() == 1
    often = np.bincount(removed, sizes.weights(drawn) / kernel(drawn, 25.0), 10)
    assert often == pytest.approx([1, *[111] * 9])


def test_no_coalition_is_drawn_twice():
    drawn = [coalition.tobytes() for coalition in Sizes.of(6, 25.0).draw(0)]
    assert len(drawn) == len({*drawn}) == 64
    assert drawn[0] == np.ones(6, dtype=bool).tobytes()


def test_a_size_that_is_not_here_counts_with_the_nearest():
    sizes = Sizes.of(6, 25.0)
    coalitions = np.array([[1] * 6, [1, 1, 1, 0, 0, 0]], dtype=bool)
    assert sizes.weights(coalitions) == pytest.approx([sizes.mass[:2].sum(), sizes.mass[2:].sum()])


@pytest.mark.parametrize("width", [0.01, 25.0, 1e6])
def test_the_projector_of_all_coalitions_is_the_ridge(width):
    coalitions = every_coalition(7)
    sizes = Sizes.of(7, width)
    expected = ridge_projector(1.0, coalitions * 1.0, sizes.weights(coalitions))
    assert sizes.projector(1.0, coalitions) == pytest.approx(expected, abs=1e-12)


def six_features():
    """All coalitions of six features, the values of a game, and what makes its interactions and its Shapley values."""
    every = (np.arange(64)[:, None] >> np.arange(6) & 1) == 1
    values = np.random.default_rng(0).normal(size=64) + every @ np.arange(6.0)
    return every, values, [Index(6, np.arange(6)[None]), Index(6, np.array(np.triu_indices(6, 1)))]


def test_of_a_game_that_is_known_the_posterior_is_exact():
    every, values, indices = six_features()
    for index in indices:
        found, variances = Control(np.arange(6.0), every, values).posterior(index)
        assert found == pytest.approx(index.weights(every).T @ values)
        assert variances == pytest.approx(np.zeros(len(found)), abs=1e-9)


def test_a_posterior_is_of_the_process_with_its_noise():
    every, values, indices = six_features()
    known = np.random.default_rng(1).permutation(64)[:50]
    fitted = Control(np.arange(6.0), every[known], values[known])
    covariance = Covariance.of(np.arange(6.0))
    covariance = covariance.fitted(every[known], (values[known] - values[known].mean()) / values[known].std())
    matrix = covariance(every, every) + covariance.noise * np.eye(64)
    some = matrix[:, known] @ np.linalg.inv(matrix[np.ix_(known, known)])
    left = matrix - some @ matrix[known]
    for index in indices:
        found, variances = fitted.posterior(index)
        weights = index.weights(every)
        assert found == pytest.approx(weights.T @ some @ (values[known] - values[known].mean()))
        shares = variances / np.einsum("ca,cd,da->a", weights, left, weights)
        assert shares == pytest.approx(np.full(len(shares), shares[0]))


def test_a_posterior_is_corrected_by_what_is_not_noise():
    every, values, _ = six_features()
    fitted = Control(np.arange(6.0), every[:50], values[:50])
    posterior = np.arange(8.0), np.full(8, 0.01)
    rest = np.array([3.0, -3.0] * 4)

    clear, _ = fitted.corrected(posterior, (rest, np.full(8, 1e-6)))
    assert clear == pytest.approx(posterior[0] + rest, abs=1e-4)
    noisy, errors = fitted.corrected(posterior, (rest, np.full(8, 10.0)))
    assert noisy == pytest.approx(posterior[0])
    assert (errors > 0.1).all()
    exact, errors = fitted.corrected((posterior[0], np.zeros(8)), (np.zeros(8), np.zeros(8)))
    assert exact == pytest.approx(posterior[0])
    assert (errors == 0).all()
