import numpy as np
import pytest
import torch

from ml.explain.explainers.kernel_shap import KernelShapExplainer, Layers, draw
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.explainers.shapley import Pairs
from ml.spec import Budget
from tests.unit.ml.explain.games import crooked, glove, shapley_values
from tests.unit.ml.explain.toys import additive, conjunction, estimates, final


def explain(game, evaluations=400, **budget):
    return estimates(KernelShapExplainer(game.features, Budget(max_evaluations=evaluations, **budget)), game)


def drawn(features, pairs, seed=0):
    return np.array([pair for _, pair in zip(range(pairs), draw(features, seed), strict=False)])


@pytest.mark.parametrize("evaluations", [60, 400])
def test_an_additive_game_gives_back_its_terms(evaluations):
    effects = np.linspace(-2, 3, 12)
    found = explain(additive(effects), evaluations)[-1]
    assert found.attributions == pytest.approx(effects)
    assert found.standard_errors == pytest.approx([0] * 12, abs=1e-9)
    assert found.converged
    assert found.stability == pytest.approx(1) or evaluations == 60


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("features", [3, 4, 12])
def test_the_smallest_budgets_give_numbers(features, control):
    for evaluations in range(6, min(20, 2**features)):
        game = conjunction(features, 0, 1)
        found = final(KernelShapExplainer(features, Budget(max_evaluations=evaluations), control), game)
        assert np.isfinite(found.attributions).all()
        assert found.stability is None or evaluations >= 10  # two pairs in each half


@pytest.mark.parametrize("game", [conjunction(12, 3, 4), glove(4, 8), crooked(12)])
def test_games_that_are_not_additive(game):
    found = explain(game, 1500)[-1]
    assert found.attributions == pytest.approx(shapley_values(game), abs=0.03)


def test_pairs_are_a_coalition_and_its_complement():
    pairs = drawn(11, 500)
    assert (pairs[:, 0] ^ pairs[:, 1]).all()
    assert pairs[:, 0].any(axis=1).all()
    assert not pairs[:, 0].all(axis=1).any()
    assert len(np.unique(pairs.reshape(-1, 11), axis=0)) == 1000


@pytest.mark.parametrize("features", [2, 3, 4, 5, 8, 9])
def test_all_pairs_are_drawn_once(features):
    pairs = list(draw(features, 1))
    assert len(pairs) == 2 ** (features - 1) - 1 == Layers.of(features).counts.sum()
    assert len(np.unique(np.concatenate(pairs), axis=0)) == 2**features - 2


def test_the_last_pair_leaves_nothing_to_chance():
    found = explain(crooked(9), 2**9)[-1]
    assert found.attributions == pytest.approx(shapley_values(crooked(9)), abs=1e-12)
    assert (found.standard_errors == 0).all()


@pytest.mark.parametrize("pairs", [19, 40, 66])
def test_sizes_are_drawn_in_proportion_at_any_moment(pairs):
    sizes = drawn(30, pairs, seed=5)[:, 0].sum(axis=1)
    share = Layers.of(30).layer_weights
    assert share.sum() == pytest.approx(1)
    assert np.bincount(sizes, minlength=16)[1:] / pairs == pytest.approx(share, abs=1.5 / pairs)


def test_the_regressions_matrix_in_expectation():
    """What the estimator for few pairs takes it to be."""
    features = 9
    pairs = np.concatenate([drawn(features, 10, seed) for seed in range(1500)])
    design = Pairs.of(pairs).design
    expected = (np.eye(features) - 1 / features) / (2 * (1 / np.arange(1, features)).sum())
    assert design.T @ design / len(design) == pytest.approx(expected, abs=0.005)


def test_few_pairs_are_unbiased():
    game = crooked(14)
    found = [explain(game, 30, seed=seed)[-1] for seed in range(225)]
    mean = np.mean([each.attributions for each in found], axis=0)
    spread = np.std([each.attributions for each in found], axis=0)
    assert (np.abs(mean - shapley_values(game)) < 4 * spread / 15).all()
    reported = np.sqrt(np.mean([each.standard_errors**2 for each in found], axis=0))
    assert reported == pytest.approx(spread, rel=0.2)


def test_needs_fewer_evaluations_than_permutations():
    game = crooked(12)
    truth = shapley_values(game)

    def error(explainer, evaluations):
        budgets = [Budget(max_evaluations=evaluations, seed=seed) for seed in range(20)]
        found = [final(explainer(12, budget), game).attributions for budget in budgets]
        return np.sqrt(np.mean((np.array(found) - truth) ** 2))

    assert error(KernelShapExplainer, 300) < error(PermutationExplainer, 500)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # shap's own
def test_agrees_with_shap():
    import shap

    game = crooked(11)

    def value(rows):
        return game._value(np.asarray(rows) > 0.5)

    exact = shap.KernelExplainer(value, np.zeros((1, 11)))
    exact = exact.shap_values(np.ones((1, 11)), nsamples=2**11, l1_reg=False, silent=True)[0]
    assert shapley_values(game) == pytest.approx(exact, abs=1e-9)
    ours = explain(game, 1200)[-1]
    assert (np.abs(ours.attributions - exact) <= 4 * ours.standard_errors + 1e-9).all()

    walker = shap.PermutationExplainer(value, shap.maskers.Independent(np.zeros((1, 11))), seed=0)
    walked = walker(np.ones((1, 11)), max_evals=2301, silent=True).values[0]
    (*_, ours) = estimates(PermutationExplainer(11, Budget(max_evaluations=2302)), game)
    assert (np.abs(ours.attributions - walked) <= 6 * ours.standard_errors + 1e-9).all()


@pytest.mark.filterwarnings("ignore")  # captum's own
def test_agrees_with_captum():
    from captum.attr import ShapleyValueSampling

    game = crooked(11)
    torch.manual_seed(0)
    oracle = ShapleyValueSampling(lambda rows: torch.from_numpy(game._value(rows.numpy() > 0.5)))
    theirs = oracle.attribute(torch.ones(1, 11), n_samples=200, perturbations_per_eval=11)[0].numpy()
    assert explain(game, 1200)[-1].attributions == pytest.approx(theirs, abs=0.08)
