from dataclasses import replace

import numpy as np
import pytest

from ml.explain.estimator import Estimate
from ml.explain.explainers.context import ContextExplainer
from ml.explain.explainers.interactions import InteractionsExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.trust.doubts import of_ends, of_samples
from ml.explain.trust.verdict import judge
from ml.result import (
    Attribution,
    ControlledCurve,
    ControlledMetric,
    ExplanationResult,
    Faithfulness,
    Interaction,
    ResolvedRemoval,
    ResolvedTarget,
    StopReason,
    SurrogateFit,
    Verdict,
)
from ml.spec import (
    Budget,
    ContextAttribution,
    Estimator,
    Interactions,
    KernelShap,
    Lime,
    RemovalKind,
    Scale,
    ShapleyPermutation,
    SurrogateKind,
)
from tests.unit.ml.explain.games import bumpy, crooked, saturating, votes
from tests.unit.ml.explain.toys import ToyGame, additive, final


def faithfulness(value, random, deviation):
    metric = ControlledMetric(value, random, deviation)
    curve = ControlledCurve((value,), (random,), metric)
    return Faithfulness((0.5,), curve, curve, metric, metric, 10)


GOOD = ExplanationResult(
    text="a b c d",
    tokens=(),
    target=ResolvedTarget("log p(x)", (), Scale.LOG_PROBABILITY),
    removal=ResolvedRemoval(RemovalKind.DELETE),
    attributions=tuple(
        Attribution(text, (0, 1), (0,), value, 0.01) for text, value in zip("abcd", (3.0, 1, 0, -1), strict=True)
    ),
    base_value=-5.0,
    full_value=-1.0,
    surrogate=SurrogateFit(SurrogateKind.RIDGE, 0.9),
    faithfulness=faithfulness(3.0, 1.0, 0.5),
    converged=True,
)


def with_errors(error):
    return replace(GOOD, attributions=tuple(replace(each, standard_error=error) for each in GOOD.attributions))


@pytest.mark.parametrize(("share", "shown"), [(-0.001, "0.00"), (-0.07, "−0.07"), (0.07, "0.07")])
def test_reasons_write_minus_as_the_numbers_beside_them(share, shown):
    found = replace(GOOD, surrogate=SurrogateFit(SurrogateKind.RIDGE, share), faithfulness=faithfulness(-1.5, -0.25, 1))
    poor, ranking = judge(found, faithfulness_asked=True).reasons
    assert poor.endswith(f"its R² is {shown}.")
    assert "by −1.5 on average" in ranking
    assert "by −0.25 ±" in ranking


def test_small_errors_are_no_reason():
    found = replace(GOOD, completeness_error=0.3, interactions=(Interaction(0, 1, 0.1, 0.1),))
    assert judge(found, faithfulness_asked=True).verdict is Verdict.TRUSTED


def test_shares_tell_no_effect_by_their_size():
    found = replace(GOOD, full_value=GOOD.base_value + 0.001)
    assert judge(found, faithfulness_asked=True).verdict is Verdict.TRUSTED
    judged = judge(found, faithfulness_asked=True, in_units=False)
    assert judged.verdict is Verdict.NOT_TRUSTED
    assert "hardly matters" in judged.reasons[0]
    assert "no feature" not in judged.reasons[0]


@pytest.mark.parametrize(
    ("full", "base", "matters"), [(3e-7, 2e-9, True), (0.0, 3e-7, True), (3e-7, 2.99e-7, False), (0.5, 0.4995, False)]
)
def test_what_makes_an_improbable_target_likely_matters(full, base, matters):
    """As it does to the logarithm of its probability."""
    rare = tuple(replace(each, attribution=(full - base) / 4) for each in GOOD.attributions)
    target = replace(GOOD.target, scale=Scale.PROBABILITY)
    judged = judge(
        replace(GOOD, target=target, full_value=full, base_value=base, attributions=rare), faithfulness_asked=True
    )
    assert any("hardly matters" in reason for reason in judged.reasons) is not matters


@pytest.mark.parametrize(
    ("unchanged", "verdict", "named"),
    [((1,), Verdict.CAUTION, '"b" and'), ((0, 1, 2, 3), Verdict.NOT_TRUSTED, '"a", "b", "c" and 1 more and')],
)
def test_what_is_removed_already_is_the_reason_why_nothing_changes(unchanged, verdict, named):
    masked = replace(GOOD, removal=ResolvedRemoval(RemovalKind.MASK_TOKEN, "<unk>"), base_value=GOOD.full_value)
    judged = judge(masked, faithfulness_asked=True, unchanged=unchanged)
    assert judged.verdict is verdict
    assert [reason for reason in judged.reasons if "hardly matters" in reason] == []
    assert f"no tokens for {named} reads <unk> there" in judged.reasons[0]
    (reason,) = judge(replace(GOOD), faithfulness_asked=True, unchanged=unchanged).reasons
    assert "is the same" in reason


@pytest.mark.parametrize(("outside", "said"), [(0.2, None), (0.75, "75.0% of what"), (1 - 1e-11, "Over 99.9% of what")])
def test_an_attention_sink_is_told_apart(outside, said):
    judged = judge(replace(GOOD, outside_share=outside), faithfulness_asked=True, in_units=False)
    assert [reason.startswith(said) for reason in judged.reasons] == [True] * (said is not None)


def test_attributions_that_are_as_good_as_nothing():
    # What LIME finds with a kernel so narrow that the prompt alone has weight: ranked well, known well, and nothing.
    found = replace(
        GOOD,
        attributions=tuple(
            replace(each, attribution=each.attribution * 1e-38, standard_error=1e-99) for each in GOOD.attributions
        ),
        surrogate=SurrogateFit(SurrogateKind.RIDGE, 1.0),
    )
    judged = judge(found, faithfulness_asked=True)
    assert judged.verdict is Verdict.NOT_TRUSTED
    assert "mean nothing" in judged.reasons[0]


def test_nothing_speaks_against_it():
    trust = judge(GOOD, faithfulness_asked=True)
    assert (trust.verdict, trust.reasons) == (Verdict.TRUSTED, ())


@pytest.mark.parametrize(
    ("result", "verdict", "words"),
    [
        (replace(GOOD, faithfulness=None), Verdict.CAUTION, "time ran out"),
        (replace(GOOD, faithfulness=faithfulness(1.2, 1.0, 0.5)), Verdict.CAUTION, "1.2 on average"),
        (replace(GOOD, faithfulness=faithfulness(0.9, 1.0, 0.5)), Verdict.NOT_TRUSTED, "no better than a random one"),
        (replace(GOOD, surrogate=SurrogateFit(SurrogateKind.RIDGE, 0.41)), Verdict.CAUTION, "R² is 0.41"),
        (replace(GOOD, surrogate=SurrogateFit(SurrogateKind.LASSO, 0.1)), Verdict.NOT_TRUSTED, "lasso"),
        (replace(GOOD, completeness_error=0.5), Verdict.CAUTION, "should sum to, 4, by 0.5"),
        (replace(GOOD, target=replace(GOOD.target, overlap=" wor")), Verdict.CAUTION, "ends inside a token"),
        (replace(GOOD, interactions=(Interaction(0, 1, 1.0, 0.6),)), Verdict.CAUTION, "few for pairs"),
        (with_errors(2.0), Verdict.CAUTION, "standard error is 2"),
        (with_errors(4.0), Verdict.NOT_TRUSTED, "largest attribution 3"),
        (with_errors(None), Verdict.NOT_TRUSTED, "4 of 4 features"),
        (
            replace(with_errors(0.0), full_value=-5.001, attributions=()),
            Verdict.NOT_TRUSTED,
            "changes the value by 0.001",
        ),
    ],
)
def test_reasons(result, verdict, words):
    trust = judge(result, faithfulness_asked=True)
    assert trust.verdict is verdict
    assert len(trust.reasons) == 1
    assert words in trust.reasons[0]
    assert trust.reasons[0].endswith(".")


def test_effects_that_cancel_are_no_lack_of_effect():
    assert judge(replace(GOOD, full_value=GOOD.base_value), faithfulness_asked=True).verdict is Verdict.TRUSTED


def test_the_worst_reason_decides():
    result = replace(GOOD, faithfulness=None, surrogate=SurrogateFit(SurrogateKind.RIDGE, 0.0))
    trust = judge(result, faithfulness_asked=False)
    assert trust.verdict is Verdict.NOT_TRUSTED
    assert len(trust.reasons) == 2
    assert "not asked for" in trust.reasons[1]


def test_few_features_have_no_noise_to_rise_above():
    few = replace(GOOD, attributions=GOOD.attributions[:3], faithfulness=faithfulness(1.2, 1.0, 0.5))
    assert judge(few, faithfulness_asked=True).verdict is Verdict.TRUSTED


def test_of_two_features_chance_is_right_half_of_the_time():
    two = replace(GOOD, attributions=GOOD.attributions[:2], faithfulness=faithfulness(2.0, 1.0, 1.05))
    trust = judge(two, faithfulness_asked=True)
    assert trust.verdict is Verdict.CAUTION
    assert "two features" in trust.reasons[0]


@pytest.mark.parametrize("measured", [None, faithfulness(1.0, 1.0, 0.0)])
def test_a_single_feature_is_not_trusted_as_nothing_can_be_compared(measured):
    one = replace(GOOD, attributions=GOOD.attributions[:1], faithfulness=measured)
    trust = judge(one, faithfulness_asked=True)
    assert trust.verdict is Verdict.CAUTION
    assert "single feature" in trust.reasons[0]
    assert len(trust.reasons) == 1


LINEAR_SURROGATES = [
    Lime(),
    Lime(estimator=Estimator.TEXTBOOK),
    Lime(SurrogateKind.LASSO),
    ContextAttribution(),
]


@pytest.mark.parametrize(
    ("method", "samples", "doubted"),
    [
        (KernelShap(), 64, True),
        (KernelShap(), 120, False),
        (KernelShap(), 38, True),
        (KernelShap(), 37, False),  # nothing is fitted to so few
        (KernelShap(Estimator.TEXTBOOK), 64, False),
        (Interactions(), 64, True),
        (Lime(SurrogateKind.DECISION_TREE), 40, True),
        (Lime(), 47, True),
        (Lime(), 48, False),
        (Lime(estimator=Estimator.TEXTBOOK), 60, False),
        *((method, 25, True) for method in LINEAR_SURROGATES),  # fewer than two for each of 13 coefficients
        *((method, 26, False) for method in LINEAR_SURROGATES[1:]),
        (ShapleyPermutation(), 64, True),  # the largest, from two or three pairs of permutations
        (ShapleyPermutation(), 120, False),
    ],
)
def test_errors_from_few_evaluations_are_doubted_where_they_were_found_too_small(method, samples, doubted):
    reasons = list(of_samples(method, 12, samples, Estimate(np.ones(12), np.ones(12), StopReason.EVALUATIONS)))
    assert [verdict for verdict, _ in reasons] == [Verdict.CAUTION] * doubted
    assert all(f"{samples} evaluations are few for 12 features" in sentence for _, sentence in reasons)
    assert all("allow 120." in sentence for _, sentence in reasons)


@pytest.mark.parametrize("stop", [StopReason.COMPLETE, StopReason.RANKED])
def test_exact_answers_and_widened_errors_are_not_doubted(stop):
    found = Estimate(np.ones(12), np.ones(12), stop, surprise=99, missed_in=1)
    assert not list(of_samples(KernelShap(), 12, 64, found))


@pytest.mark.parametrize(("missed_in", "error", "doubted"), [(1.2, 0.01, True), (3, 0.01, False), (1.2, 1e-5, False)])
def test_errors_that_rest_on_one_or_two_samples_are_doubted_where_they_matter(missed_in, error, doubted):
    found = Estimate(np.ones(8), np.full(8, error), StopReason.EVALUATIONS, missed_in=missed_in)
    reasons = [sentence for _, sentence in of_samples(Lime(), 8, 64, found)]
    assert len(reasons) == doubted
    assert all("in one or two of 64 evaluations" in sentence and "allow 128." in sentence for sentence in reasons)


def needs_all(features: int) -> ToyGame:
    """Only the whole prompt is worth anything, which no sample shows."""
    return ToyGame(features, lambda present: present.all(axis=1) * 1.0)


def needs_none(features: int) -> ToyGame:
    """Any word is worth as much as all are: only the empty prompt differs."""
    return ToyGame(features, lambda present: present.any(axis=1) * 1.0)


def needs_any(features: int) -> ToyGame:
    """Any word is worth most of what all are."""
    return ToyGame(features, lambda present: (present * np.linspace(1, 2, features)).max(axis=1))


@pytest.mark.parametrize("evaluations", [130, 333])
@pytest.mark.parametrize("method", [KernelShap(), Interactions()])
@pytest.mark.parametrize(
    ("game", "doubted"),
    [
        (needs_all, True),
        (needs_any, True),
        (saturating, False),
        (crooked, False),
        (bumpy, False),
        (votes, False),
        (lambda features: additive(0.75 ** np.arange(features)), False),
        (lambda features: additive(np.ones(features)), False),
    ],
)
def test_a_jump_at_the_whole_or_the_empty_prompt_is_a_reason_to_doubt_errors(game, doubted, method, evaluations):
    """A fitted game is smooth: what it makes of such a jump is off alike in all samples, which no error shows."""
    budget, fits = Budget(max_evaluations=evaluations), isinstance(method, KernelShap)
    explainer = KernelShapExplainer(12, budget, control=True) if fits else InteractionsExplainer(12, budget)
    found = final(explainer, game(12))
    said = [sentence for _, sentence in of_samples(method, 12, evaluations, found)]
    assert [sentence.startswith("The value of the whole prompt") for sentence in said] == [True] * doubted


@pytest.mark.parametrize(
    ("game", "evaluations", "min_share", "max_share"),
    [
        (needs_any(8), 64, 0.7, 1),
        (needs_any(12), 166, 0.7, 1),
        *(
            (made(features), evaluations, 0, 0.15)
            for made in (crooked, bumpy, votes)
            for features, evaluations in ((8, 64), (12, 166))
        ),
        (additive(np.ones(12)), 166, 0, 0),
    ],
)
def test_a_fit_that_misses_one_or_two_samples_is_a_reason_to_doubt_errors(game, evaluations, min_share, max_share):
    """LIME draws few prompts with hardly any words, where a vote by any word is decided."""
    doubted = []
    for seed in range(20):
        budget = Budget(max_evaluations=evaluations, seed=seed)
        found = final(LimeExplainer(game.features, Lime(), budget, control=True), game)
        said = [sentence for _, sentence in of_samples(Lime(), game.features, evaluations, found)]
        doubted.append(any(sentence.startswith("Nearly all that a fit misses") for sentence in said))
    assert min_share <= np.mean(doubted) <= max_share


def test_the_textbook_estimator_fits_no_game_that_a_jump_could_mislead():
    found = final(KernelShapExplainer(12, Budget(max_evaluations=333)), needs_any(12))
    assert found.surprise == 0
    assert found.missed_in == np.inf


def attributed(game: ToyGame, seed: int, evaluations: int) -> tuple[Estimate, bool]:
    """Context attribution, and whether its verdict doubts the errors."""
    budget = Budget(max_evaluations=evaluations, seed=seed)
    explainer = ContextExplainer(game.features, ContextAttribution(), budget, link=np.asarray)
    found = final(explainer, game)
    empty, full = game._value(np.array([[False] * game.features, [True] * game.features])) * 1.0
    said = list(of_ends(explainer, evaluations, found, float(empty), float(full)))
    assert all(f"allow {2**game.features} evaluations" in sentence for _, sentence in said)
    return found, bool(said)


@pytest.mark.parametrize("features", [6, 7, 8])
@pytest.mark.parametrize(("made", "worth"), [(needs_all, 10.0), (needs_all, 1000.0), (needs_none, 10.0)])
def test_the_whole_or_the_empty_prompt_that_context_attribution_never_drew_is_a_reason_to_doubt(features, made, worth):
    """Its coalitions are 2^d, so it may not have drawn the only one that is worth anything."""
    game = made(features)
    scaled = ToyGame(features, lambda present: worth * game._value(present))
    truth = 2 * (worth / 2**features - 0.01)  # of the lasso on all coalitions
    held, doubted = [], []
    for seed in range(40):
        found, said = attributed(scaled, seed, 2 ** (features - 1))
        reach = 1.96 * found.standard_errors
        held.append((np.abs(found.attributions - truth) <= reach).mean())
        doubted.append(said)
    held, doubted = np.array(held), np.array(doubted)
    assert 0.4 < doubted.mean() < 0.8  # the chance not to have drawn it is 0.6
    assert held[doubted].max() == 0
    assert held[~doubted].mean() > 0.85


@pytest.mark.parametrize(
    ("game", "evaluations"),
    [
        *((game, 64) for game in (saturating(7), crooked(7), bumpy(8), votes(8), additive(np.ones(8)))),
        (saturating(12), 166),
        (needs_all(12), 64),  # one of 4,096, which hardly changes any attribution
        (needs_all(20), 333),
        (needs_all(6), 64),  # all coalitions are evaluated
    ],
)
def test_smooth_values_and_many_features_leave_no_doubt_about_context_attribution(game, evaluations):
    assert np.mean([attributed(game, seed, evaluations)[1] for seed in range(20)]) <= 0.05


@pytest.mark.parametrize("features", [1023, 1024, 4096])
def test_as_many_features_as_there_may_be_leave_no_doubt_about_context_attribution(features):
    """Their coalitions are more than the largest float."""
    found, doubted = attributed(additive(np.full(features, 0.1)), 0, 64)
    assert np.isfinite(found.standard_errors).all()
    assert not doubted
