"""Control variates: the same numbers as the plain estimators in the long run, and closer to them before."""

from itertools import combinations

import numpy as np
import pytest

from ml.explain.control_variates.control import MAX_SAMPLES, Control
from ml.explain.control_variates.covariance import Covariance
from ml.explain.control_variates.draws import Draws
from ml.explain.control_variates.indices import Index
from ml.explain.control_variates.missed import InCommon, Missed
from ml.explain.control_variates.process import Process
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.lime_draws import Coefficients, Sizes
from ml.explain.sampling.surrogates import Ridge
from ml.spec import Budget, Lime
from tests.unit.ml.explain.games import bumpy, every_coalition, lime_coefficients, saturating, shapley_values
from tests.unit.ml.explain.toys import ToyGame, additive, final


def shapley(game, evaluations, seed, *, control):
    budget = Budget(max_evaluations=evaluations, seed=seed)
    return final(KernelShapExplainer(game.features, budget, control=control), game)


def lime(game, evaluations, seed, *, control):
    budget = Budget(max_evaluations=evaluations, seed=seed)
    return final(LimeExplainer(game.features, Lime(), budget, control=control), game)


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


@pytest.mark.parametrize("rows", [1, 2])
def test_changes_are_what_leaving_out_a_block_changes(rows):
    """The value of a block is then the one that the fit to the others expects."""
    random = np.random.default_rng(0)
    coalitions = every_coalition(6)[random.permutation(64)[:31]]
    values = np.sin(coalitions @ np.arange(6.0))
    draws = Draws(fixed=1, rows=rows, strata=np.zeros(30 // rows, dtype=int), counts=np.array([1000.0]))
    process = Process(np.arange(6.0), coalitions, values, draws, max_samples=31)
    index = Index.of_features(6)
    covariance = process.covariance
    cross = index.cross(covariance, coalitions) + covariance.noise * index.weights(coalitions).T
    [sampled] = process.sampled(values[None])
    changes = process.whole.changes(process.whole.projector(cross), sampled.left_out)
    matrix = covariance(coalitions, coalitions) + covariance.noise * np.eye(31)
    centred = sampled.values
    answer = cross @ np.linalg.solve(matrix, centred)
    for block in (0, 7):
        own = np.arange(1 + block * rows, 1 + (block + 1) * rows)
        others = np.delete(np.arange(31), own)
        expected = centred.copy()
        expected[own] = matrix[np.ix_(own, others)] @ np.linalg.solve(matrix[np.ix_(others, others)], centred[others])
        assert changes[block] == pytest.approx(answer - cross @ np.linalg.solve(matrix, expected), abs=1e-8)


def test_halves_are_smaller_samples_of_the_same_kind():
    strata = np.array([0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 2])
    first, second = Draws(1, 1, strata, np.array([4.0, 50.0, 50.0])).halves()
    whole = np.flatnonzero(strata == 0)
    assert set(first) & set(second) == {*whole}  # which are known whole, in either half
    assert {*first, *second} == {*range(11)}
    assert np.bincount(strata[first])[1] == np.bincount(strata[second])[1] == 3


def test_what_is_missed_is_estimated_without_bias():
    """On average over all draws of three of seven blocks, it is what the four others add."""
    added = np.random.default_rng(0).normal(size=(7, 2))
    strata, counts = np.zeros(3, dtype=int), np.array([7.0])
    found = [Missed.of(added[[*drawn]], strata, Draws(0, 1, strata, counts)) for drawn in combinations(range(7), 3)]
    assert np.mean([each.lack for each in found], axis=0) == pytest.approx(4 * added.mean(axis=0))


@pytest.mark.parametrize(("deviation", "is_sure"), [(1e-3, True), (30.0, False)])
def test_what_answers_lack_alike_is_believed_as_far_as_it_is_sure(deviation, is_sure):
    values, strata = np.array([0.1, 3.0, -0.1, -2.0]), np.zeros(50, dtype=int)
    draws = Draws(0, 1, strata, np.array([1000.0]))
    # The smaller half lacks something that the larger one has, and the largest have too much.
    alike = np.array([1.0, -1.0, 1.0, -1.0]) - 0.3 * np.array([0.0, 3.0, 0.0, -2.0])
    shown = alike + deviation * np.random.default_rng(0).normal(size=(50, 4))
    in_common = InCommon.of(values, shown, draws)
    correction, left = in_common.believed(shown, draws)
    if is_sure:
        assert in_common.shares.min() > 0.99
        assert correction.lack == pytest.approx(950 * alike, rel=0.01)
    else:
        assert in_common.shares.max() < 0.5
    assert (correction.variance + left >= 0).all()


def test_more_samples_than_are_fitted_to():
    game = saturating(12)
    found = lime(game, MAX_SAMPLES + 300, 0, control=True)
    assert found.attributions == pytest.approx(lime(game, 20_000, 1, control=False).attributions, abs=0.03)


def test_samples_beyond_the_fit_are_predicted_in_parts(monkeypatch):
    game, index = bumpy(10), Index.of_features(10)
    coalitions = every_coalition(10)[np.random.default_rng(0).permutation(1024)[:300]]
    draws = Draws(0, 1, coalitions.sum(axis=1), Sizes.of(10, 25.0).counts)
    whole = Control(np.arange(10.0), coalitions, game._value(coalitions), draws, max_samples=100).estimate(index)
    monkeypatch.setattr("ml.explain.control_variates.process._AT_ONCE", 7)
    parts = Control(np.arange(10.0), coalitions, game._value(coalitions), draws, max_samples=100).estimate(index)
    assert parts.values == pytest.approx(whole.values)
    assert parts.standard_errors == pytest.approx(whole.standard_errors)


@pytest.mark.parametrize("index", [Index.of_features(10), Index.of_pairs(10), Coefficients(Sizes.of(10, 25.0), 1.0)])
@pytest.mark.parametrize("max_samples", [100, 1024])
def test_answers_about_games_that_sum_to_another_sum_to_its_own(index, max_samples, monkeypatch):
    """However many samples are beyond the fit, and in however many parts the answers come."""
    coalitions = every_coalition(10)[1 + np.random.default_rng(0).permutation(1023)[:300]]
    draws = Draws(0, 1, coalitions.sum(axis=1), Sizes.of(10, 25.0).counts)
    games = np.array([make(10)._value(coalitions) * 1e3**scale for scale, make in enumerate((bumpy, saturating))])
    control = Control(np.arange(10.0), coalitions, games.sum(axis=0), draws, max_samples)
    found = control.answers(index)(games)
    whole = control.estimate(index)
    assert sum(each.values for each in found) == pytest.approx(whole.values, rel=1e-9, abs=1e-7)
    monkeypatch.setattr("ml.explain.control_variates.indices._AT_ONCE", 2000)
    for each, other in zip(found, control.answers(index)(games), strict=True):
        assert other.values == pytest.approx(each.values)
        assert other.standard_errors == pytest.approx(each.standard_errors)


def test_no_coalition_is_drawn_twice():
    drawn = [coalition.tobytes() for coalition in Sizes.of(6, 25.0).draw(0)]
    assert len(drawn) == len({*drawn}) == 64
    assert drawn[0] == np.ones(6, dtype=bool).tobytes()


def test_a_size_that_is_not_here_counts_with_the_nearest():
    sizes = Sizes.of(6, 25.0)
    coalitions = np.array([[1] * 6, [1, 1, 1, 0, 0, 0]], dtype=bool)
    assert sizes.weights(coalitions) == pytest.approx([sizes.size_weights[:2].sum(), sizes.size_weights[2:].sum()])


@pytest.mark.parametrize("width", [0.01, 25.0, 1e6])
def test_coefficients_are_those_of_the_ridge_of_all_coalitions(width):
    coalitions = every_coalition(7)
    sizes = Sizes.of(7, width)
    weights = sizes.weights(coalitions)
    values = np.random.default_rng(0).normal(size=(128, 2))
    found = Coefficients(sizes, 1.0).weights(coalitions).T @ values
    for each, own in zip(values.T, found.T, strict=True):
        assert own == pytest.approx(Ridge(1.0, coalitions * 1.0, weights)(each).attributions, abs=1e-9)


@pytest.mark.parametrize("features", [2, 7])
def test_coefficients_of_a_fitted_game_are_exact(features):
    coalitions = every_coalition(features)
    sizes = Sizes.of(features, 25.0)
    covariance = Covariance.of(np.arange(1.0, 1 + features)).fitted(coalitions, bumpy(features)._value(coalitions))
    games = covariance(coalitions, coalitions[:3])
    found = Coefficients(sizes, 2.0).cross(covariance, coalitions[:3])
    for game, own in zip(games.T, found.T, strict=True):
        expected = Ridge(2.0, coalitions * 1.0, sizes.weights(coalitions))(game).attributions
        assert own == pytest.approx(expected, abs=1e-8)


def six_features():
    """All coalitions of six features, the values of a game, and what makes its interactions and its Shapley values."""
    every = (np.arange(64)[:, None] >> np.arange(6) & 1) == 1
    values = np.random.default_rng(0).normal(size=64) + every @ np.arange(6.0)
    return every, values, [Index(6, np.arange(6)[None]), Index(6, np.array(np.triu_indices(6, 1)))]


def test_of_a_game_that_is_known_answers_are_exact():
    every, values, indices = six_features()
    draws = Draws(0, 1, every.sum(axis=1), Sizes.of(6, 25.0).counts)
    for index in indices:
        found = Control(np.arange(6.0), every, values, draws).estimate(index)
        assert found.values == pytest.approx(index.weights(every).T @ values)
        assert found.standard_errors == pytest.approx(np.zeros(len(found.values)), abs=1e-6)


@pytest.mark.parametrize("linear", [Index.of_features(600), Coefficients(Sizes.of(600, 25.0), 1.0)])
def test_more_coalitions_than_have_a_square(linear):
    """There are 1e179 of 300 of 600 features, and each weighs as little; some samples are beyond the fit."""
    random = np.random.default_rng(0)
    coalitions = random.random((120, 600)) < random.random((120, 1))
    effects = np.linspace(0, 1, 600)
    draws = Draws(0, 1, (~coalitions).sum(axis=1), Sizes.of(600, 25.0).counts)
    found = Control(effects, coalitions, coalitions @ effects, draws, max_samples=80).estimate(linear)
    assert np.isfinite(found.values).all()
    assert np.isfinite(found.standard_errors).all()
    assert (found.standard_errors > 0).all()
