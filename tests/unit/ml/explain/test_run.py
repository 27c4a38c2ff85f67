from dataclasses import replace
from itertools import count

import pytest

from ml.errors import InputError, PromptTooLongError
from ml.explain import Run, forecast, prepare
from ml.result import AttributionUnit, Stage, StopReason, Verdict
from ml.spec import (
    AttentionRollout,
    Budget,
    ContextAttribution,
    Continuation,
    Estimator,
    ExplanationSpec,
    Features,
    GenerationTarget,
    Hierarchical,
    InputTimesGradient,
    IntegratedGradients,
    Interactions,
    KernelShap,
    Lime,
    NodeValue,
    Occlusion,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Rows,
    Scale,
    ShapleyPermutation,
    SurrogateKind,
    Target,
    Unit,
    ValueZeroing,
)
from tests.unit.ml.explain.toys import YES_RATHER_THAN_NO, ToyModel, byte_tokenizer, word_tokenizer

TEXT = "the film was not good and the film was bad"
EFFECTS = {"good": 2.0, "bad": -1.5, "film": 0.25}


def toy():
    return ToyModel(EFFECTS, {("not", "good"): -3.0})


def spec(method=None, **parts):
    return ExplanationSpec(Prompt(text=TEXT), method or Occlusion(), **{"target": YES_RATHER_THAN_NO, **parts})


def last(run):
    *_, update = run
    return update.result


def test_occlusion_of_a_toy():
    result = last(Run(toy(), spec()))
    by_word = {(each.text, each.span[0]): each.attribution for each in result.attributions}
    assert by_word["good", 17] == pytest.approx(-1.0)  # 2 alone, -3 with "not"
    assert by_word["not", 13] == pytest.approx(-3.0)
    assert by_word["bad", 39] == pytest.approx(-1.5)
    assert by_word["the", 0] == pytest.approx(0.0)
    assert result.full_value == pytest.approx(2.0 - 1.5 + 0.5 - 3.0)
    assert result.base_value == pytest.approx(0.0)
    assert result.target.description == 'log p("yes") − log p("no")'
    assert result.cost.stop_reason is StopReason.COMPLETE
    assert result.converged
    assert result.faithfulness.comprehensiveness.aopc.value > result.faithfulness.comprehensiveness.aopc.random
    assert all(each.interval.lower == each.attribution == each.interval.upper for each in result.attributions)
    assert [token.text for token in result.tokens] == TEXT.split()


@pytest.mark.parametrize("surrogate", SurrogateKind)
def test_lime_of_a_toy(surrogate):
    result = last(Run(toy(), spec(Lime(surrogate), budget=Budget(max_evaluations=400))))
    ranked = sorted(result.attributions, key=lambda each: each.attribution)
    assert ranked[0].text in {"not", "bad"}
    assert result.surrogate.kind is surrogate
    assert result.surrogate.r_squared > 0.5
    assert all(each.standard_error >= 0 for each in result.attributions)
    assert all(each.interval.lower <= each.attribution <= each.interval.upper for each in result.attributions)
    assert result.cost.stop_reason is StopReason.EVALUATIONS
    assert result.cost.evaluations <= 2**10
    assert result.trust is not None
    assert result.stability > 0.8


@pytest.mark.parametrize("kind", [RemovalKind.MASK_TOKEN, RemovalKind.TEXT_AND_DELETE])
@pytest.mark.parametrize("quality", [True, False])
@pytest.mark.parametrize("method", [Occlusion(), Lime(estimator=Estimator.TEXTBOOK), KernelShap(), Hierarchical()])
def test_few_features_are_not_said_to_take_more_than_all_their_coalitions(method, quality, kind):
    for features in range(1, 6):
        asked = ExplanationSpec(
            Prompt(text=" ".join(["film", "good", "not", "bad", "very"][:features])),
            method,
            YES_RATHER_THAN_NO,
            removal=Removal(kind, "!" if kind is RemovalKind.TEXT_AND_DELETE else ""),
            quality=Quality(quality),
        )
        run = Run(toy(), asked)
        planned, every = run.problem.max_evaluations, 2**features
        spent = last(run).cost.evaluations
        assert spent <= planned <= every * run.problem.prompts.removals
        exact = isinstance(method, Occlusion) and features > 1 and not quality  # of one, the only window is everything
        if kind is RemovalKind.MASK_TOKEN and (exact or not isinstance(method, Occlusion | Hierarchical)):
            assert spent == planned


@pytest.mark.parametrize("evaluations", [3, None])
@pytest.mark.parametrize("surrogate", list(SurrogateKind))
@pytest.mark.parametrize("text", ["film", "good film", "the film was", "the film was bad", "the film was not good"])
def test_repeated_draws_count_each_time(text, surrogate, evaluations):
    """A thousand draws of a few features are not few, although hardly any of them is a new evaluation."""
    method, budget = Lime(surrogate, estimator=Estimator.TEXTBOOK), Budget(max_evaluations=evaluations)
    result = last(Run(toy(), ExplanationSpec(Prompt(text=text), method, YES_RATHER_THAN_NO, budget=budget)))
    assert result.cost.evaluations <= 2 ** len(result.attributions)
    few = [reason for reason in result.trust.reasons if " are few for " in reason]
    assert len(few) == (evaluations is not None)


def test_progress_moves_forward_to_its_end():
    ticks = count()
    every = Budget(max_evaluations=1000)
    updates = list(Run(toy(), spec(Lime(), budget=every), clock=lambda: next(ticks) * 0.1))
    done = [update.progress.evaluations_done for update in updates]
    assert done == sorted(done)
    assert done[-1] == updates[-1].progress.evaluations_planned
    assert {update.progress.stage for update in updates} >= {
        Stage.PREPARING,
        Stage.EXPLAINING,
        Stage.MEASURING_FAITHFULNESS,
    }
    assert all(update.progress.evaluations_done <= update.progress.evaluations_planned for update in updates)
    assert updates[-1].progress.remaining_duration == 0
    partial = [update.result for update in updates[:-1] if update.result is not None]
    assert len(partial) > 3
    assert all(result.trust is None and result.faithfulness is None for result in partial)
    assert len(partial[0].attributions) == 10
    assert updates[0].progress.evaluations_planned == 2**10  # 1,000 and those of faithfulness would be more


@pytest.mark.parametrize(
    "method",
    [
        Occlusion(),
        Lime(),
        KernelShap(),
        ShapleyPermutation(),
        ContextAttribution(),
        Interactions(),
        Hierarchical(),
        Hierarchical(NodeValue.OWEN),
    ],
)
@pytest.mark.parametrize("faithfulness", [True, False])
def test_a_forecast_is_the_run_before_its_first_step(method, faithfulness):
    asked = spec(method, budget=Budget(max_evaluations=200), quality=Quality(faithfulness))
    planned = forecast(prepare(toy().tokenizer, toy().info, asked)).progress(None)
    run = list(Run(toy(), asked))
    first, end = run[0].progress, run[-1].progress
    assert (planned.evaluations_planned, planned.tokens_planned) == (first.evaluations_planned, first.tokens_planned)
    assert end.evaluations_done <= planned.evaluations_planned
    assert run[-1].result.cost.tokens_computed + run[-1].result.cost.tokens_saved <= planned.tokens_planned


def test_a_forecast_tells_a_time_from_a_throughput_and_the_budget():
    def seconds(tokens_per_second, max_duration=None):
        asked = spec(budget=Budget(max_duration=max_duration))
        return forecast(prepare(toy().tokenizer, toy().info, asked)).progress(tokens_per_second).remaining_duration

    assert seconds(None) is seconds(None, 5) is None
    tokens = forecast(prepare(toy().tokenizer, toy().info, spec())).tokens
    assert seconds(100) == pytest.approx(tokens / 100)
    assert seconds(100, 1e9) == seconds(100)
    assert seconds(1e-6, 5) == 5


def test_updates_come_at_a_bounded_rate():
    stopped = 0.0
    updates = list(Run(toy(), spec(Lime()), clock=lambda: stopped))
    assert len(updates) <= 4


def test_the_same_run_twice_is_equal_to_the_bit(tiny_llama, load_model):
    model = load_model(tiny_llama)
    task = ExplanationSpec(Prompt(text="The film was long, slow and dull"), Lime(), budget=Budget(max_evaluations=100))
    first, second = (last(Run(model, task)) for _ in range(2))
    assert replace(first, cost=None) == replace(second, cost=None)


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
@pytest.mark.parametrize("method", [Occlusion(2, 1), Lime()])
def test_resumed_equals_undisturbed(request, load_model, folder, method):
    model = load_model(request.getfixturevalue(folder))
    task = ExplanationSpec(
        Prompt(text="The film was long, slow and dull"),
        method,
        Target(GenerationTarget(3)),
        removal=Removal(RemovalKind.DELETE),
        budget=Budget(max_evaluations=150, seed=4),
    )
    undisturbed = last(Run(model, task))
    checkpoint = None
    for attempt in range(4):  # each attempt is cut short a little later
        ticks = count()
        run = Run(model, task, checkpoint, clock=lambda ticks=ticks: float(next(ticks)))
        for _, _update in zip(range(3 + 3 * attempt), run, strict=False):
            pass
        checkpoint = run.checkpoint()
    resumed = last(Run(model, task, checkpoint))
    for ours, theirs in zip(resumed.attributions, undisturbed.attributions, strict=True):
        assert ours.attribution == pytest.approx(theirs.attribution, abs=1e-5)
        assert ours.standard_error == pytest.approx(theirs.standard_error, abs=1e-5)
    assert resumed.faithfulness.deletion_auc.value == pytest.approx(
        undisturbed.faithfulness.deletion_auc.value, abs=1e-4
    )
    assert resumed.cost.evaluations == undisturbed.cost.evaluations
    assert resumed.cost.cache_hits == undisturbed.cost.cache_hits


ANSWER = Continuation(text=" and dull")
ROWS = {"target": Target(ANSWER), "rows": Rows(Unit.WORD)}
LOOKING_INTO_THE_MODEL = [
    InputTimesGradient(),
    IntegratedGradients(),
    IntegratedGradients(steps=9),
    AttentionRollout(),
    ValueZeroing(),
]


@pytest.mark.parametrize(
    ("method", "parts_of_the_target"),
    [
        *((method, {}) for method in [*LOOKING_INTO_THE_MODEL, Occlusion(2, 1), KernelShap()]),
        *((method, ROWS) for method in [*LOOKING_INTO_THE_MODEL[:3], Occlusion(2, 1), KernelShap()]),
        (IntegratedGradients(), ROWS | {"target": Target(ANSWER, Scale.PROBABILITY)}),
    ],
)
def test_put_off_whenever_it_can_be_equals_undisturbed(load_model, tiny_llama, method, parts_of_the_target):
    model = load_model(tiny_llama)
    task = ExplanationSpec(
        Prompt(text="The film was long, slow and dull"),
        method,
        budget=Budget(max_evaluations=150, seed=4),
        **parts_of_the_target,
    )
    undisturbed = last(Run(model, task))
    checkpoint, parts = None, 0
    while True:
        parts += 1
        ticks = count()
        run = Run(model, task, checkpoint, clock=lambda ticks=ticks: float(next(ticks)))
        update = next(update for update in run if run.resumable or update.progress.stage is Stage.DONE)
        if update.progress.stage is Stage.DONE:
            break
        assert run.checkpoint() != checkpoint, "it gets on"
        checkpoint = run.checkpoint()
    assert parts > 2
    for ours, theirs in zip(update.result.rows, undisturbed.rows, strict=True):
        assert ours.attributions == pytest.approx(theirs.attributions, abs=1e-5)
        assert ours.standard_errors == pytest.approx(theirs.standard_errors, abs=1e-5)
    for ours, theirs in zip(update.result.attributions, undisturbed.attributions, strict=True):
        assert ours.attribution == pytest.approx(theirs.attribution, abs=1e-5)
        assert ours.standard_error == pytest.approx(theirs.standard_error, abs=1e-5)
    ours, theirs = update.result.cost, undisturbed.cost
    assert (ours.evaluations, ours.cache_hits) == (theirs.evaluations, theirs.cache_hits)


def test_of_the_budgets_time_what_is_spent_is_gone():
    def run(spent):
        ticks = count()
        budget = Budget(max_duration=80, max_evaluations=1000)
        return last(Run(toy(), spec(Lime(), budget=budget), spent=spent, clock=lambda: float(next(ticks))))

    whole, rest, none = (run(spent).cost for spent in (0, 40, 300))
    assert whole.evaluations > rest.evaluations > none.evaluations > 0
    assert {whole.stop_reason, rest.stop_reason, none.stop_reason} == {StopReason.DURATION}


def test_a_finished_runs_checkpoint_needs_no_model():
    run = Run(toy(), spec(Lime()))
    first = last(run)
    model = toy()
    again = Run(model, spec(Lime()), run.checkpoint())
    assert replace(last(again), cost=first.cost) == first
    assert not model.read


@pytest.mark.parametrize("checkpoint", [b"", b"junk", None])
def test_a_useless_checkpoint_is_ignored(checkpoint):
    assert last(Run(toy(), spec(), checkpoint)).cost.evaluations == last(Run(toy(), spec())).cost.evaluations


def test_a_checkpoint_of_another_problem_is_ignored():
    run = Run(toy(), spec())
    last(run)
    other = spec(removal=Removal(RemovalKind.DELETE))
    model = toy()
    last(Run(model, other, run.checkpoint()))
    assert model.read
    assert Run(toy(), spec(), b"given").checkpoint() == b"given"


def test_time_is_kept():
    ticks = count()
    result = last(
        Run(toy(), spec(Lime(), budget=Budget(max_duration=40, max_evaluations=1000)), clock=lambda: float(next(ticks)))
    )
    assert result.cost.stop_reason is StopReason.DURATION
    assert result.cost.evaluations < 300
    assert len(result.attributions) == 10
    assert result.cost.duration < 60


def test_hardly_any_time_still_gives_an_answer():
    ticks = count()
    result = last(Run(toy(), spec(Lime(), budget=Budget(max_duration=0.001)), clock=lambda: float(next(ticks))))
    assert result.cost.stop_reason is StopReason.DURATION
    assert result.faithfulness is None
    assert result.trust.verdict is not Verdict.TRUSTED
    assert "time ran out" in result.trust.reasons[-1]
    assert any(each.attribution != 0 for each in result.attributions)


def test_faithfulness_may_be_left_out():
    result = last(Run(toy(), spec(quality=Quality(False))))
    assert result.faithfulness is None
    assert result.trust.verdict is Verdict.CAUTION
    assert result.cost.evaluations <= 12


def test_a_prompt_that_does_not_matter_is_not_trusted():
    result = last(Run(ToyModel({}), spec()))
    assert result.trust.verdict is Verdict.NOT_TRUSTED
    assert "hardly matters" in result.trust.reasons[0]


def test_a_prompt_of_unknown_words_is_not_trusted_for_that_reason():

    def explain(text):
        return last(Run(toy(), ExplanationSpec(Prompt(text=text), Occlusion(), YES_RATHER_THAN_NO)))

    result = explain("zyx film wvu")
    assert result.trust.verdict is Verdict.CAUTION
    assert 'The model has no tokens for "zyx", "wvu" and reads <unk> there' in result.trust.reasons[0]
    result = explain("zyx wvu")
    assert result.trust.verdict is Verdict.NOT_TRUSTED
    assert "hardly matters" not in " ".join(result.trust.reasons)


@pytest.mark.parametrize("method", [Occlusion(), Lime(), KernelShap(), ShapleyPermutation(), Interactions()])
def test_values_of_two_removals_are_their_mean(method, tiny_llama, load_model):
    model = load_model(tiny_llama)

    def explain(removal):
        asked = ExplanationSpec(Prompt(text="The film was not good"), method, removal=removal)
        *_, update = Run(model, asked)
        return update

    both, written, deleted = map(
        explain,
        (Removal(RemovalKind.TEXT_AND_DELETE), Removal(RemovalKind.TEXT, "*"), Removal(RemovalKind.DELETE)),
    )
    assert both.result.base_value == pytest.approx((written.result.base_value + deleted.result.base_value) / 2)
    assert both.result.full_value == pytest.approx(written.result.full_value)
    pairs = zip(written.result.attributions, deleted.result.attributions, strict=True)
    means = [(one.attribution + other.attribution) / 2 for one, other in pairs]
    assert [each.attribution for each in both.result.attributions] == pytest.approx(means, abs=1e-5)
    assert both.result.cost.evaluations > written.result.cost.evaluations
    assert both.progress.evaluations_done == both.progress.evaluations_planned


def test_a_budget_of_evaluations_holds_for_two_removals_together():
    removal = Removal(RemovalKind.TEXT_AND_DELETE)
    asked = spec(KernelShap(), removal=removal, budget=Budget(max_evaluations=64), quality=Quality(faithfulness=False))
    assert last(Run(toy(), asked)).cost.evaluations <= 64 + 4
    with pytest.raises(InputError, match="at least 22 evaluations"):
        Run(toy(), spec(removal=removal, budget=Budget(max_evaluations=19)))


def test_a_single_feature_leaves_nothing_to_compare():
    result = last(Run(toy(), spec(features=Features(Unit.SENTENCE))))
    assert result.faithfulness is None
    assert result.trust.verdict is Verdict.CAUTION
    assert "single feature" in result.trust.reasons[0]


@pytest.mark.parametrize(
    ("method", "target", "unit"),
    [
        (Lime(), Target(), AttributionUnit.NAT),
        (Lime(), Target(scale=Scale.PROBABILITY), AttributionUnit.PROBABILITY),
        (Lime(SurrogateKind.DECISION_TREE), Target(), AttributionUnit.IMPURITY_SHARE),
        (ContextAttribution(), Target(), AttributionUnit.LOG_ODDS),
        (ContextAttribution(), Target(scale=Scale.PROBABILITY), AttributionUnit.LOG_ODDS),
        (ContextAttribution(), YES_RATHER_THAN_NO, AttributionUnit.NAT),
    ],
)
def test_the_unit_of_attributions(method, target, unit):
    asked = spec(method, target=target, budget=Budget(max_evaluations=40), quality=Quality(False))
    assert last(Run(toy(), asked)).attribution_unit is unit


@pytest.mark.parametrize("unit", Unit)
def test_units(unit):
    result = last(Run(toy(), spec(features=Features(unit))))
    assert len(result.attributions) == {Unit.TOKEN: 10, Unit.WORD: 10, Unit.SENTENCE: 1}[unit]


@pytest.mark.parametrize(
    ("task", "field"),
    [
        (spec(budget=Budget(max_evaluations=10)), "budget.max_evaluations"),
        (spec(features=Features(within=(0, 999))), "features.within"),
        (spec(removal=Removal(RemovalKind.TEXT, "very " * 30)), "removal.text"),
        (ExplanationSpec(Prompt(token_ids=(1, 99)), Occlusion()), "prompt.token_ids.ids[1]"),
    ],
)
def test_refused_before_anything_runs(task, field):
    model = toy()
    with pytest.raises(InputError) as error:
        prepare(model.tokenizer, model.info, task)
    assert error.value.field == field
    with pytest.raises(InputError):
        Run(model, task)
    assert not model.read


def test_too_long_a_prompt():
    model = ToyModel({}, tokenizer=word_tokenizer(context=9))
    with pytest.raises(PromptTooLongError) as error:
        Run(model, spec())
    assert (error.value.field, error.value.tokens, error.value.limit) == ("prompt.text", 10, 9)


def test_interactions_of_a_toy():
    result = last(Run(toy(), spec(Interactions(), budget=Budget(max_evaluations=1024))))
    assert len(result.interactions) == 45
    texts = [each.text for each in result.attributions]
    found = {(texts[each.first], texts[each.second]): each for each in result.interactions}
    assert found["not", "good"].value == pytest.approx(-3.0)
    assert found["not", "good"].standard_error == 0
    assert found["good", "bad"].value == pytest.approx(0.0, abs=1e-9)
    assert {each.text: each.attribution for each in result.attributions}["not"] == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("features", "rows", "field"), [(1025, None, "features"), (129, Rows(Unit.TOKEN, pairs=True), "rows.pairs")]
)
def test_too_many_features_for_pairs(features, rows, field):
    words = " ".join(["film"] * features)
    model = ToyModel(EFFECTS, tokenizer=word_tokenizer(context=2000))
    target = Target(Continuation(text="yes")) if rows else YES_RATHER_THAN_NO
    with pytest.raises(InputError, match="at most") as error:
        Run(model, ExplanationSpec(Prompt(text=words), Interactions(), target=target, rows=rows))
    assert error.value.field == field


def test_of_many_features_only_pairs_that_are_found_are_told():
    words = " ".join(["the"] * 70 + ["not"] + ["the"] * 70 + ["good"])
    model = ToyModel(EFFECTS, {("not", "good"): -3.0}, tokenizer=word_tokenizer(context=200))
    asked = ExplanationSpec(
        Prompt(text=words), Interactions(), target=YES_RATHER_THAN_NO, quality=Quality(faithfulness=False)
    )
    result = last(Run(model, asked))
    assert [(each.first, each.second) for each in result.interactions] == [(70, 141)]
    assert "not all pairs can be told apart" in " ".join(result.trust.reasons)


@pytest.mark.parametrize("method", [KernelShap(), ShapleyPermutation(), Lime()])
def test_very_many_features(method):
    words = " ".join(["film", "good", "bad"] * 500)
    model = ToyModel(EFFECTS, tokenizer=word_tokenizer(context=2000))
    task = ExplanationSpec(
        Prompt(text=words),
        method,
        YES_RATHER_THAN_NO,
        budget=Budget(max_evaluations=6100),
        quality=Quality(False),
    )
    updates = iter(Run(model, task))
    assert any(update.result is not None for update in updates)


def test_a_model_without_a_mask_token_deletes():
    model = ToyModel({}, tokenizer=byte_tokenizer(unk=False))
    result = last(Run(model, replace(spec(), target=Target())))
    assert result.removal.kind is RemovalKind.DELETE
