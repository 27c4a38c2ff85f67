"""Shapley values by enumeration and by permutations."""

import numpy as np
import pytest

from ml.errors import InputError
from ml.explain import Run, prepare
from ml.explain.explainers.enumeration import EnumerationExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.explainers.shapley import kernel
from ml.explain.sampling.draws import is_enumerable
from ml.result import StopReason
from ml.spec import Budget, ExplanationSpec, KernelShap, Prompt, Quality, ShapleyPermutation
from tests.unit.ml.explain.games import crooked, glove, mean_over_all_orders, shapley_values
from tests.unit.ml.explain.toys import YES_RATHER_THAN_NO, ToyGame, ToyModel, additive, conjunction, estimates, final

TEXT = "the film was not good and the film was bad"
BOTH = pytest.mark.parametrize("explainer", [KernelShapExplainer, PermutationExplainer])


def enumerated(game, **budget):
    return estimates(EnumerationExplainer(game.features, Budget(**budget)), game)


def permuted(game, evaluations=400, **budget):
    return estimates(PermutationExplainer(game.features, Budget(max_evaluations=evaluations, **budget)), game)


def toy():
    return ToyModel({"good": 2.0, "bad": -1.5, "film": 0.25}, {("not", "good"): -3.0})


def spec(method, text=TEXT, **budget):
    return ExplanationSpec(Prompt(text=text), method, YES_RATHER_THAN_NO, budget=Budget(**budget))


def last(run):
    *_, update = run
    return update.result


@pytest.mark.parametrize("game", [crooked(3), crooked(6), glove(1, 2), glove(2, 3), conjunction(5, 1, 3)])
def test_enumeration_is_the_definition(game):
    found = enumerated(game)[-1]
    assert found.attributions == pytest.approx(shapley_values(game), abs=1e-12)
    assert found.attributions == pytest.approx(mean_over_all_orders(game), abs=1e-12)
    assert (found.standard_errors == 0).all()
    assert found.completeness_error == pytest.approx(0, abs=1e-12)
    assert (found.stop, found.converged) == (StopReason.COMPLETE, True)
    assert game.asked == 2**game.features
    game.asked = 0


def test_known_games():
    assert enumerated(glove(1, 2))[-1].attributions == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    assert enumerated(conjunction(4, 1, 3))[-1].attributions == pytest.approx([0, 0.5, 0, 0.5], abs=1e-12)
    assert enumerated(additive([3.0, -1.0, 0.0]))[-1].attributions == pytest.approx([3, -1, 0], abs=1e-12)
    assert enumerated(additive([2.0]))[-1].attributions.tolist() == [2.0]
    assert enumerated(additive([2.0, 1.0]))[-1].attributions == pytest.approx([2, 1])


def test_the_axioms():
    values = enumerated(crooked(8))[-1].attributions
    assert values[-1] == pytest.approx(0, abs=1e-12)
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    assert values.sum() == pytest.approx(np.diff(crooked(8)._value(np.array([[False] * 8, [True] * 8])))[0])


def test_the_kernel():
    assert kernel(4) == pytest.approx(np.array([1 / 3, 1 / 4, 1 / 3]) / (11 / 12))
    assert kernel(2) == pytest.approx([1])


def test_what_is_enumerable():
    assert is_enumerable(9, Budget())
    assert not is_enumerable(10, Budget())
    assert is_enumerable(3, Budget(max_evaluations=8))
    assert not is_enumerable(3, Budget(max_evaluations=7))
    assert not is_enumerable(5000, Budget())


@pytest.mark.parametrize("patience", [0, 1, 2, 3, 50, 200, 300])
def test_enumeration_out_of_time(patience):
    game = crooked(9)
    game._patience = patience
    found = enumerated(game)[-1]
    assert found.stop is StopReason.DURATION
    assert np.isfinite(found.standard_errors).all() == (patience >= 50)
    if patience >= 50:
        assert (np.abs(found.attributions - shapley_values(game)) < 5 * found.standard_errors).all()


def test_enumeration_that_is_sure_enough_stops():
    game = crooked(9)
    found = enumerated(game, standard_error=0.05)[-1]
    assert found.stop is StopReason.STANDARD_ERROR
    assert game.asked < 2**9
    assert found.standard_errors.max() < 0.05


def test_permutations_of_an_additive_game():
    effects = [3.0, -1.0, 0.0, 0.5]
    found = permuted(additive(effects))[-1]
    assert found.attributions == pytest.approx(effects)
    assert found.standard_errors == pytest.approx([0] * 4, abs=1e-12)
    assert found.stability == pytest.approx(1)
    assert (found.stop, found.converged) == (StopReason.EVALUATIONS, True)


def test_a_pair_of_permutations_is_enough_for_pairwise_games():
    """Who joins before another in a permutation joins after it in the reverse: half of their product goes to each."""
    found = permuted(conjunction(7, 2, 5), 26)[-1]
    assert found.attributions == pytest.approx([0, 0, 0.5, 0, 0, 0.5, 0], abs=1e-12)
    assert found.standard_errors == pytest.approx([0] * 7, abs=1e-12)


@BOTH
def test_the_budget_is_kept(explainer):
    for largest in (42, 43, 64, 99, 300, 1000):
        game = crooked(11)
        asker = explainer(11, Budget(max_evaluations=largest))
        found = estimates(asker, game)[-1]
        assert game.asked == asker.max_evaluations <= largest
        assert found.stop is StopReason.EVALUATIONS
        assert np.isfinite(found.standard_errors).all()
        assert found.completeness_error == pytest.approx(0, abs=1e-9)


@BOTH
def test_values_are_found_and_intervals_are_honest(explainer):
    game, seeds, evaluations = crooked(11), 40, 700
    truth = shapley_values(game)
    found, errors = [], []
    for seed in range(seeds):
        estimate = final(explainer(11, Budget(max_evaluations=evaluations, seed=seed)), game)
        found.append(estimate.attributions)
        errors.append(estimate.standard_errors)
    found, errors = np.array(found), np.array(errors)
    assert found.mean(axis=0) == pytest.approx(truth, abs=0.01)
    reported, seen = np.sqrt((errors**2).mean(axis=0)), found.std(axis=0)
    assert np.linalg.norm(reported) == pytest.approx(np.linalg.norm(seen), rel=0.2)
    assert (reported > 0.65 * seen).all()
    assert 0.90 <= (np.abs(found - truth) <= 1.96 * errors + 1e-12).mean() <= 0.99


@BOTH
def test_anytime(explainer):
    reported = estimates(explainer(11, Budget(max_evaluations=1500)), crooked(11))
    assert len(reported) > 5
    assert all(estimate.stop is None for estimate in reported[:-1])
    assert reported[-1].standard_errors.max() < reported[0].standard_errors.max()
    assert reported[-1].stability > 0.9


@BOTH
def test_it_stops_when_it_is_sure_enough(explainer):
    game = crooked(20)
    found = estimates(explainer(20, Budget(standard_error=0.02, max_evaluations=50_000)), game)[-1]
    assert found.stop is StopReason.STANDARD_ERROR
    assert found.standard_errors.max() < 0.02
    assert found.converged
    assert game.asked < 20_000


@BOTH
@pytest.mark.parametrize("patience", [0, 1, 2, 3, 45, 100, 500])
def test_out_of_time_it_tells_what_it_knows(explainer, patience):
    game = crooked(11)
    game._patience = patience
    found = estimates(explainer(11, Budget()), game)[-1]
    assert found.stop is StopReason.DURATION
    assert np.isfinite(found.attributions).all()
    assert np.isfinite(found.standard_errors).all() == (patience >= 45)


@BOTH
def test_draws_depend_on_the_seed_alone(explainer):
    def run(seed):
        return final(explainer(11, Budget(seed=seed)), crooked(11)).attributions

    assert (run(3) == run(3)).all()
    assert not (run(3) == run(4)).all()
    assert not (run(3) == run(3 + 2**63)).all()


@BOTH
def test_a_constant_game(explainer):
    found = estimates(explainer(12, Budget()), ToyGame(12, lambda present: np.full(len(present), 7.0)))[-1]
    assert found.attributions == pytest.approx([0] * 12, abs=1e-12)
    assert found.stability is None


@pytest.mark.parametrize("method", [KernelShap(), ShapleyPermutation()])
def test_a_toy_model(method):
    result = last(Run(toy(), spec(method, max_evaluations=1024)))
    found = {(each.text, each.span[0]): each.attribution for each in result.attributions}
    assert found["not", 13] == pytest.approx(-1.5)
    assert found["good", 17] == pytest.approx(0.5)
    assert found["bad", 39] == pytest.approx(-1.5)
    assert found["film", 4] == pytest.approx(0.25)
    assert result.completeness_error == pytest.approx(0, abs=1e-9)
    assert result.cost.stop_reason is StopReason.COMPLETE
    assert result.converged
    sampled = last(Run(toy(), spec(method, max_evaluations=300)))
    assert sampled.cost.stop_reason is StopReason.EVALUATIONS
    assert sampled.completeness_error == pytest.approx(0, abs=1e-9)
    assert all(each.interval.lower <= each.attribution <= each.interval.upper for each in sampled.attributions)


@pytest.mark.parametrize("evaluations", [60, 600])  # sampled; enumerated
@pytest.mark.parametrize("method", [KernelShap(), ShapleyPermutation()])
def test_resumed_equals_undisturbed(tiny_llama, load_model, method, evaluations):
    model = load_model(tiny_llama)
    task = ExplanationSpec(
        Prompt(text="The film was long, slow and dull"),
        method,
        budget=Budget(max_evaluations=evaluations, seed=4),
        quality=Quality(False),
    )
    undisturbed = last(Run(model, task))
    run = Run(model, task, clock=iter(range(10**6)).__next__)
    for _, _update in zip(range(6), run, strict=False):
        pass
    resumed = last(Run(model, task, run.checkpoint()))
    for ours, theirs in zip(resumed.attributions, undisturbed.attributions, strict=True):
        assert ours.attribution == pytest.approx(theirs.attribution, abs=1e-5)
        assert ours.standard_error == pytest.approx(theirs.standard_error, abs=1e-5)
    assert resumed.cost.evaluations == undisturbed.cost.evaluations


@pytest.mark.parametrize(
    ("method", "largest", "smallest"),
    [(ShapleyPermutation(), 37, 38), (KernelShap(), 5, 6), (ShapleyPermutation(), 2, 38)],
)
def test_too_small_a_budget_is_refused(method, largest, smallest):
    model = toy()
    with pytest.raises(InputError, match=f"at least {smallest} evaluations for these 10") as error:
        prepare(model.tokenizer, model.info, spec(method, max_evaluations=largest))
    assert error.value.field == "budget.max_evaluations"
    prepare(model.tokenizer, model.info, spec(method, max_evaluations=smallest))


@pytest.mark.parametrize("method", [KernelShap(), ShapleyPermutation()])
def test_few_features(method):
    one = last(Run(toy(), ExplanationSpec(Prompt(text="good"), method, YES_RATHER_THAN_NO, budget=Budget(2))))
    assert one.attributions[0].attribution == pytest.approx(2)
    two = last(Run(toy(), ExplanationSpec(Prompt(text="not good"), method, YES_RATHER_THAN_NO)))
    assert [each.attribution for each in two.attributions] == pytest.approx([-1.5, 0.5])
    model = toy()
    with pytest.raises(InputError, match="at least 4"):
        prepare(model.tokenizer, model.info, spec(method, "not good", max_evaluations=3))
