import numpy as np
import pytest
from sklearn.linear_model import Lasso
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml.errors import InputError
from ml.explain import Run
from ml.explain.explainers.context import ContextExplainer, draw, link, log_odds_of_probability
from ml.models.objective import log_odds
from ml.result import StopReason
from ml.spec import (
    Budget,
    ContextAttribution,
    ExplanationSpec,
    Features,
    NextTokenTarget,
    Prompt,
    Quality,
    Scale,
    SurrogateKind,
    Target,
)
from tests.unit.ml.explain.games import every_coalition
from tests.unit.ml.explain.toys import YES_RATHER_THAN_NO, ToyGame, ToyModel, additive, estimates

EFFECTS = np.array([3.0, -1.0, 0.0, 0.5, 0.0, 0.0])


def logistic(features=6):
    """A game of log-probabilities whose logit is a sum."""
    return ToyGame(features, lambda present: -np.logaddexp(0, 1 - present @ EFFECTS[:features]))


def explain(game, alpha=0.01, using=log_odds, **budget):
    return estimates(ContextExplainer(game.features, ContextAttribution(alpha), Budget(**budget), using), game)


def last(run):
    *_, update = run
    return update.result


def test_draws():
    draws = draw(8, 3)
    coalitions = np.array([next(draws) for _ in range(4000)])
    assert coalitions.mean(axis=0) == pytest.approx([0.5] * 8, abs=0.03)
    assert np.corrcoef(coalitions.T) == pytest.approx(np.eye(8), abs=0.06)
    again, other = draw(8, 3), draw(8, 4)
    assert (np.array([next(again) for _ in range(50)]) == coalitions[:50]).all()
    assert not (np.array([next(other) for _ in range(50)]) == coalitions[:50]).all()


def test_the_logit():
    chances = np.array([1e-250, 1e-9, 0.2, 0.5, 0.999999])
    expected = np.log(chances) - np.log1p(-chances)
    assert log_odds_of_probability(chances) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert log_odds(np.log(chances)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert np.isfinite(log_odds_of_probability(np.array([0.0, 1.0]))).all()
    assert np.isfinite(log_odds(np.array([-1e4, 0.0, 1e-16]))).all()
    assert np.isnan(log_odds(np.array([np.nan]))).all()


def test_the_link_of_a_target():
    assert link(Target()) is log_odds
    assert link(Target(scale=Scale.PROBABILITY)) is log_odds_of_probability
    assert link(YES_RATHER_THAN_NO)(EFFECTS) is EFFECTS


def test_effects_on_the_logit_are_found():
    found = explain(logistic(), alpha=0.0)[-1]
    assert found.attributions == pytest.approx(EFFECTS, abs=1e-9)
    assert found.surrogate.r_squared == pytest.approx(1)
    assert found.surrogate.intercept == pytest.approx(-1)
    assert found.surrogate.kind is SurrogateKind.LASSO
    assert found.completeness_error is None
    assert explain(logistic(), alpha=0.0, max_evaluations=60)[-1].stability == pytest.approx(1)


def test_the_lasso_drops_what_does_not_matter():
    found = explain(logistic())[-1]
    assert (found.attributions[[2, 4, 5]] == 0).all()
    # The penalty takes α / σ from each, where σ = ½ is a mask's standard deviation.
    assert found.attributions[[0, 1, 3]] == pytest.approx([2.98, -0.98, 0.48], abs=0.005)
    assert (found.stop, found.converged) == (StopReason.COMPLETE, True)


def test_agrees_with_the_papers_definition():
    """Standardized masks, a lasso with an intercept, coefficients per mask again."""
    game = ToyGame(6, lambda present: -np.logaddexp(0, 1 - present @ EFFECTS + 2 * present[:, 1] * present[:, 3]))
    found = explain(game, max_evaluations=60, seed=7)[-1]
    draws = draw(6, 7)
    masks = np.array([next(draws) for _ in range(60)])
    chances = np.exp(game._value(masks))
    scaler, lasso = StandardScaler(), Lasso(alpha=0.01)
    make_pipeline(scaler, lasso).fit(masks.astype(float), np.log(chances / (1 - chances)))
    assert found.attributions == pytest.approx(lasso.coef_ / scaler.scale_, abs=1e-3)
    assert found.surrogate.intercept == pytest.approx(
        lasso.intercept_ - scaler.mean_ / scaler.scale_ @ lasso.coef_, abs=1e-3
    )


def test_standard_errors_are_those_seen_over_seeds():
    def bend(present):
        return present @ EFFECTS + 2 * present[:, 0] * present[:, 1] - present[:, 2] * present[:, 3]

    runs = [explain(ToyGame(6, bend), using=np.asarray, max_evaluations=60, seed=seed)[-1] for seed in range(16)]
    seen = np.std([run.attributions for run in runs], axis=0, ddof=1)
    reported = np.mean([run.standard_errors for run in runs], axis=0)
    assert reported / seen == pytest.approx([1] * 6, abs=0.6)


def test_the_budget_is_kept():
    for largest in (2, 3, 63):
        game = logistic()
        assert explain(game, max_evaluations=largest)[-1].stop is StopReason.EVALUATIONS
        assert game.asked == largest
    game = additive(np.linspace(-1, 2, 12))
    assert explain(game, using=np.asarray, standard_error=0.05)[-1].stop is StopReason.STANDARD_ERROR
    assert game.asked < 1000


@pytest.mark.parametrize("largest", [64, 200])
def test_all_coalitions_within_the_budget_are_exact(largest):
    """The lasso of all coalitions, whatever the seed: that of scikit-learn on standardized masks."""
    game = ToyGame(6, lambda present: present @ EFFECTS + 2 * present[:, 0] * present[:, 1])
    found = [explain(game, using=np.asarray, max_evaluations=largest, seed=seed)[-1] for seed in (0, 1)]
    masks = every_coalition(6) * 1.0
    lasso = Lasso(alpha=0.01).fit(2 * masks, game._value(masks == 1))
    for each in found:
        assert (each.stop, each.converged) == (StopReason.COMPLETE, True)
        assert (each.standard_errors == 0).all()
        assert each.attributions == pytest.approx(2 * lasso.coef_, abs=1e-6)
    assert (found[0].attributions == found[1].attributions).all()
    assert game.asked == 2 * 64


@pytest.mark.parametrize("patience", [0, 1, 2, 50])
def test_out_of_time_it_tells_what_it_knows(patience):
    game = logistic()
    game._patience = patience
    found = explain(game)[-1]
    assert found.stop is StopReason.DURATION
    assert np.isfinite(found.standard_errors).all() == (patience >= 2)


def test_a_contrast_is_fitted_as_it_is():
    model = ToyModel({"good": 2.0, "bad": -1.5})
    spec = ExplanationSpec(
        Prompt(text="the film was good. and not bad!"),
        ContextAttribution(alpha=0.0),
        YES_RATHER_THAN_NO,
        budget=Budget(max_evaluations=200),
        quality=Quality(False),
    )
    found = {each.text: each.attribution for each in last(Run(model, spec)).attributions}
    assert found["good"] == pytest.approx(2, abs=1e-6)
    assert found["bad"] == pytest.approx(-1.5, abs=1e-6)


def test_the_verdict_says_that_the_whole_prompt_was_never_drawn():
    """Two words matter only together; seeds differ in whether three draws have both of them."""
    model, doubted = ToyModel({}, {("not", "bad"): 9.0}), []
    for seed in range(12):
        spec = ExplanationSpec(
            Prompt(text="not bad"),
            ContextAttribution(),
            YES_RATHER_THAN_NO,
            budget=Budget(max_evaluations=3, seed=seed),
            quality=Quality(False),
        )
        result = last(Run(model, spec))
        said = [reason for reason in result.trust.reasons if "may be too small; allow 4 evaluations" in reason]
        assert len(said) == (max(abs(each.attribution) for each in result.attributions) == 0)
        doubted += said
    assert 0 < len(doubted) < 12


@pytest.mark.parametrize("scale", Scale)
def test_sources_on_both_scales(scale):
    model = ToyModel({"good": 2.0, "bad": -1.5})
    spec = ExplanationSpec(
        Prompt(text="the film was very good! the film was bad and not good! the film!"),
        ContextAttribution(alpha=0.0),
        Target(NextTokenTarget("yes"), scale),
        Features(spans=((0, 23), (24, 54), (55, 64))),
        budget=Budget(max_evaluations=100),
    )
    result = last(Run(model, spec))
    assert [each.attribution for each in result.attributions] == pytest.approx([2, 0.5, 0], abs=1e-4)
    assert result.surrogate.r_squared == pytest.approx(1)


def test_resumed_equals_undisturbed(tiny_llama, load_model):
    model = load_model(tiny_llama)
    text = "The film was long, slow and dull"
    spec = ExplanationSpec(
        Prompt(text=text),
        ContextAttribution(),
        budget=Budget(max_evaluations=100, seed=4),
        quality=Quality(False),
    )
    undisturbed = last(Run(model, spec))
    run = Run(model, spec, clock=iter(range(10**6)).__next__)
    for _, _update in zip(range(6), run, strict=False):
        pass
    resumed = last(Run(model, spec, run.checkpoint()))
    assert [each.attribution for each in resumed.attributions] == pytest.approx(
        [each.attribution for each in undisturbed.attributions], abs=1e-5
    )
    assert resumed.cost.evaluations == undisturbed.cost.evaluations


def test_alpha_is_checked():
    for alpha in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError) as error:
            ContextAttribution(alpha)
        assert error.value.field == "alpha"


def test_one_feature():
    assert explain(additive([2.0]), alpha=0.0, using=np.asarray)[-1].attributions == pytest.approx([2.0])
