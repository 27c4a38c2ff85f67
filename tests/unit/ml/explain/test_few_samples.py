"""What few samples show: intervals of results that end after few evaluations, on games with known answers."""

import numpy as np
import pytest

from ml.explain.explainers.enumeration import EnumerationExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.sampling.errors import moderated
from ml.explain.sampling.interval import two_sided_95
from ml.spec import Budget, Lime
from tests.unit.ml.explain.games import bumpy, crooked, glove, lime_coefficients, saturating, shapley_values
from tests.unit.ml.explain.toys import ToyGame, final

SEEDS = 40


def largest(features: int) -> ToyGame:
    """A prompt is worth its best feature."""
    return ToyGame(features, lambda present: (present * np.linspace(0.1, 1, features)).max(axis=1))


def product(features: int) -> ToyGame:
    return ToyGame(features, lambda present: np.where(present, 1.3, 0.8).prod(axis=1))


GAMES = [saturating, crooked, bumpy, largest, product, lambda features: glove(2, features - 2)]


def measured(make, features, truth, patience=float("inf")):
    """Coverage, and the reported error beside the true one, both over all games, features and seeds."""
    held, ratios = [], []
    for made in GAMES:
        game = made(features)
        right = truth(game)
        missed, reported = [], []
        for seed in range(SEEDS):
            game.asked, game._patience = 0, patience
            found = final(make(features, seed), game)
            missed.append(np.abs(found.attributions - right))
            reported.append(found.standard_errors)
            reach = two_sided_95(found.freedom) * found.standard_errors
            held.append((missed[-1] <= reach + 1e-9 * np.abs(right).max()).mean())
        ratios.append(np.sqrt(np.mean(np.square(reported)) / np.mean(np.square(missed))))
    return np.mean(held), np.median(ratios)


@pytest.mark.parametrize("patience", [34, 50, 100, 200])
def test_partial_results_on_the_way_to_all_coalitions_are_honest(patience):
    def make(features, seed):
        return EnumerationExplainer(features, Budget(max_evaluations=256, seed=seed))

    coverage, ratio = measured(make, 8, shapley_values, patience)
    assert coverage > 0.87
    assert 0.85 < ratio < 1.3


def test_half_of_all_coalitions_tell_as_much_as_the_same_number_that_were_drawn():
    game, truth = crooked(9), shapley_values(crooked(9))

    def error(explainer):
        game.asked = 0
        return np.square(final(explainer, game).attributions - truth).mean()

    game._patience = 256
    whole = [error(EnumerationExplainer(9, Budget(max_evaluations=512, seed=seed))) for seed in range(SEEDS)]
    game._patience = float("inf")
    drawn = [error(KernelShapExplainer(9, Budget(max_evaluations=256, seed=seed))) for seed in range(SEEDS)]
    assert np.mean(whole) == pytest.approx(np.mean(drawn), rel=0.5)


@pytest.mark.parametrize(("features", "evaluations"), [(8, 28), (8, 32), (12, 42), (12, 60), (14, 46)])
def test_the_errors_of_a_regression_on_few_pairs(features, evaluations):
    def make(features, seed):
        return KernelShapExplainer(features, Budget(max_evaluations=evaluations, seed=seed))

    coverage, ratio = measured(make, features, shapley_values)
    assert coverage > 0.87
    assert 0.9 < ratio < 1.4


@pytest.mark.parametrize(("features", "evaluations"), [(8, 30), (12, 46), (6, 22)])
def test_two_pairs_of_permutations_know_little_of_their_errors(features, evaluations):
    def make(features, seed):
        return PermutationExplainer(features, Budget(max_evaluations=evaluations, seed=seed))

    coverage, _ = measured(make, features, shapley_values)
    assert coverage > 0.85


@pytest.mark.parametrize("evaluations", [6, 9, 12, 18, 25, 40])
def test_lime_of_few_samples_does_not_look_certain(evaluations):
    """A ridge passes through as many samples as it has coefficients: their residuals are 0, and the errors are not."""

    def make(features, seed):
        return LimeExplainer(features, Lime(), Budget(max_evaluations=evaluations, seed=seed), control=True)

    _, ratio = measured(make, 12, lime_coefficients)
    assert 0.5 < ratio < 2.3


@pytest.mark.parametrize("evaluations", [12, 20, 34])
def test_few_evaluations_are_drawn_as_the_kernel_has_them_whatever_the_estimator(evaluations):
    """Nothing is fitted to them, and draws for a fit would only make the errors larger."""
    found = [
        final(KernelShapExplainer(12, Budget(max_evaluations=evaluations), control=control), crooked(12))
        for control in (False, True)
    ]
    assert found[0].attributions.tolist() == found[1].attributions.tolist()
    assert found[0].standard_errors.tolist() == found[1].standard_errors.tolist()


def test_the_mean_variance_has_no_more_degrees_of_freedom_than_its_parts():
    ones = np.ones(8)
    assert moderated(np.ones(8), 40 * ones)[1] == 48  # the mean's own are many, and count for 8
    assert moderated(np.ones(8), ones)[1] == 9
    assert moderated(np.array([1.0, *np.full(7, 1e-3)]), ones)[1] == 2  # one variance is nearly all of it
    assert moderated(1e-200 * np.ones(8), ones)[1] == 9
    assert moderated(np.zeros(8), ones)[1] == 9
    errors = np.array([1.0, 0.5, 0.25])
    assert moderated(errors, np.full(3, 2.0))[1] == 5  # 2 + (1 + 1/4 + 1/16)² / ((1 + 1/16 + 1/256) / 2)


def test_a_feature_that_varies_more_than_others_keeps_its_error():
    """Over draws of eleven pairs, the mean variance of one of twelve features that has four times the others' error."""
    random, freedom = np.random.default_rng(0), np.full(12, 10.0)
    true = np.array([4.0, *np.ones(11)])
    found = [moderated(true * np.sqrt(random.chisquare(freedom) / freedom), freedom)[0] for _ in range(400)]
    assert np.mean(np.square(found), axis=0)[0] > 0.75 * 16  # a fixed share of the mean made it 0.62
    alike = [moderated(np.sqrt(random.chisquare(freedom) / freedom), freedom)[0] for _ in range(400)]
    assert np.mean(np.square(alike)) == pytest.approx(1, abs=0.05)
    assert np.var(np.square(alike)) < 0.5 * 2 / 10  # of which chance alone would make 2 / 10
