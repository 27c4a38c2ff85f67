from itertools import islice

import numpy as np
import pytest
from sklearn.linear_model import Lasso
from sklearn.metrics.pairwise import cosine_distances

from ml.explain import Run
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.lime_draws import draw, kernel
from ml.explain.sampling.surrogates import Ridge
from ml.result import StopReason
from ml.spec import Budget, Estimator, ExplanationSpec, Lime, Prompt, Quality, Scale, SurrogateKind, Target
from tests.unit.ml.explain.toys import ToyGame, additive, conjunction, estimates


def explain(game, budget=None, **method):
    return estimates(LimeExplainer(game.features, Lime(**method), budget or Budget()), game)


def bumpy(features=6):
    """A game that no surrogate fits."""
    effects = np.linspace(-1, 2, features)
    return ToyGame(
        features, lambda present: np.sin(3 * present @ effects) + present @ effects + present[:, 0] * present[:, 1]
    )


def test_draws():
    coalitions = np.array(list(draw(8, 4000, seed=3)))
    assert coalitions[0].all()
    removed = 8 - coalitions[1:].sum(axis=1)
    assert (np.bincount(removed, minlength=9)[1:] / 3999) == pytest.approx([1 / 8] * 8, abs=0.025)
    assert coalitions[1:].mean(axis=0) == pytest.approx([1 - 4.5 / 8] * 8, abs=0.03)


def test_draws_depend_on_the_seed_alone():
    first, again, other, long = (np.array(list(draw(5, 50, seed))) for seed in (7, 7, 8, 7 + 2**40))
    assert (first == again).all()
    assert not (first == other).all()
    assert not (first == long).all()
    assert (np.array(list(islice(draw(5, 50, 7), 10))) == first[:10]).all()


def test_kernel():
    coalitions = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]], dtype=bool)
    distances = cosine_distances(coalitions.astype(float), np.ones((1, 3))).ravel() * 100
    assert kernel(coalitions, 25) == pytest.approx(np.sqrt(np.exp(-(distances**2) / 25**2)), abs=1e-12)
    assert (kernel(coalitions, 1e-3) > 0).all()


def test_an_additive_game_gives_back_its_terms():
    effects = [3.0, -1.0, 0.0, 0.5]
    last = explain(additive(effects), alpha=0.0)[-1]
    assert last.attributions == pytest.approx(effects, abs=1e-9)
    assert last.standard_errors == pytest.approx([0] * 4, abs=1e-9)
    assert last.surrogate.r_squared == pytest.approx(1)
    assert last.surrogate.intercept == pytest.approx(0.5)
    assert (last.stop, last.converged) == (StopReason.EVALUATIONS, True)
    assert last.stability == pytest.approx(1)


def test_a_conjunction_is_shared():
    last = explain(conjunction(4, 1, 3))[-1]
    assert last.attributions[1] == pytest.approx(last.attributions[3], abs=0.06)
    assert last.attributions[0] == pytest.approx(last.attributions[2], abs=0.06)
    assert last.attributions[[1, 3]].min() > last.attributions[[0, 2]].max() + 0.2


def test_it_tells_more_and_more():
    reported = explain(bumpy())
    assert len(reported) > 5
    assert all(estimate.stop is None for estimate in reported[:-1])
    assert reported[-1].standard_errors.max() < reported[0].standard_errors.max()


def test_the_budget_is_kept():
    for largest in (2, 3, 64, 65, 300):
        game = bumpy()
        last = explain(game, Budget(max_evaluations=largest))[-1]
        assert game.asked == largest
        assert last.stop is StopReason.EVALUATIONS
        assert np.isfinite(last.attributions).all()


@pytest.mark.parametrize("surrogate", SurrogateKind)
def test_it_stops_when_it_is_sure_enough(surrogate):
    limit = 0.2
    game = bumpy()
    reported = explain(game, Budget(standard_error=limit, max_evaluations=100_000), surrogate=surrogate)
    assert reported[-1].stop is StopReason.STANDARD_ERROR
    assert reported[-1].standard_errors.max() < limit
    assert reported[-1].converged
    assert game.asked < 100_000


@pytest.mark.parametrize("patience", [0, 1, 2, 3, 50, 100])
def test_out_of_time_it_tells_what_it_knows(patience):
    game = bumpy()
    game._patience = patience
    last = explain(game)[-1]
    assert last.stop is StopReason.DURATION
    assert np.isfinite(last.attributions).all()
    assert np.isfinite(last.standard_errors).all() == (patience >= 2)


def test_one_feature():
    last = explain(additive([2.0]), alpha=0.0)[-1]
    assert last.attributions == pytest.approx([2.0])
    assert last.stability is None


def test_a_constant_game():
    for surrogate in SurrogateKind:
        last = explain(ToyGame(4, lambda coalitions: np.full(len(coalitions), 7.0)), surrogate=surrogate)[-1]
        assert last.attributions == pytest.approx([0] * 4, abs=1e-12)
        assert last.stability is None


def test_standard_errors_are_those_seen_over_seeds():
    game, n, seeds = bumpy(), 250, 120
    fits = []
    for seed in range(seeds):
        coalitions = np.array(list(draw(game.features, n, seed)))
        fits.append(Ridge(1, coalitions.astype(float), kernel(coalitions, 25))(game._value(coalitions)))
    found = np.array([fit.attributions for fit in fits])
    reported = np.array([fit.standard_errors for fit in fits])
    assert reported.mean(axis=0) / found.std(axis=0, ddof=1) == pytest.approx(np.ones(game.features), abs=0.25)
    covered = np.abs(found - found.mean(axis=0)) < 1.96 * reported
    assert 0.90 <= covered.mean() <= 0.99


@pytest.mark.filterwarnings("ignore")  # lime's own
@pytest.mark.parametrize("regressor", [None, Lasso(alpha=0.01)])
def test_agrees_with_lime_on_the_same_samples(regressor):
    from lime.lime_base import LimeBase

    game = bumpy(9)
    surrogate = SurrogateKind.RIDGE if regressor is None else SurrogateKind.LASSO
    last = explain(game, Budget(seed=5, max_evaluations=400), surrogate=surrogate)[-1]
    coalitions = np.array(list(draw(9, 400, 5)))
    distances = cosine_distances(coalitions.astype(float), np.ones((1, 9))).ravel() * 100
    base = LimeBase(lambda distance: np.sqrt(np.exp(-(distance**2) / 25**2)), random_state=0)
    intercept, weights, score, _ = base.explain_instance_with_data(
        coalitions.astype(float), game._value(coalitions)[:, None], distances, 0, 9, "none", regressor
    )
    assert last.attributions == pytest.approx([weight for _, weight in sorted(weights)], abs=1e-6)
    assert last.surrogate.intercept == pytest.approx(intercept, abs=1e-6)
    assert last.surrogate.r_squared == pytest.approx(score, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_lime_from_text_to_numbers(tiny_lstm, load_model):
    """The text explainer of `lime` masks words of a string, with the same seed: same draws and answers."""
    from lime.lime_text import LimeTextExplainer

    model = load_model(tiny_lstm)
    text = "The king and the queen lived in a castle"
    spec = ExplanationSpec(
        Prompt(text=text),
        Lime(estimator=Estimator.TEXTBOOK),
        Target(scale=Scale.PROBABILITY),
        budget=Budget(max_evaluations=200, seed=11),
        quality=Quality(False),
    )
    *_, update = Run(model, spec)
    result = update.result
    target = result.target.tokens[0].id

    def classify(texts):
        logits = model.logits([model.tokenizer.encode(Prompt(text=each)).ids for each in texts])
        chance = np.array([rows[-1].double().softmax(-1)[target].item() for rows in logits])
        return np.column_stack([1 - chance, chance])

    explainer = LimeTextExplainer(
        split_expression=r"\s+", bow=False, mask_string="<unk>", feature_selection="none", random_state=11
    )
    explanation = explainer.explain_instance(text, classify, num_features=99, num_samples=200)
    weights = dict(explanation.as_map()[1])
    assert [each.attribution for each in result.attributions] == pytest.approx(
        [weights[index] for index in range(len(result.attributions))], abs=1e-6
    )
    assert result.surrogate.r_squared == pytest.approx(explanation.score, abs=1e-6)
