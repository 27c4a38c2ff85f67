"""Gradient methods on real models: as captum has them, and what they promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
import torch

from ml.errors import CapabilityError, InputError
from ml.explain import Run, prepare
from ml.explain.explainers import gradients
from ml.explain.values import internals
from ml.result import Stage, StopReason, Verdict
from ml.spec import (
    Budget,
    Continuation,
    ContrastTarget,
    ExplanationSpec,
    Features,
    InputTimesGradient,
    IntegratedGradients,
    PrecisionPolicy,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Scale,
    Target,
    Unit,
)
from tests.unit.ml.explain.toys import ToyModel, byte_tokenizer

TEXT = "The film was good , and the book"
PROMPT = Prompt(text=TEXT)
TARGETS = {
    "next token": Target(),
    "probability": Target(scale=Scale.PROBABILITY),
    "continuation": Target(Continuation(text=" was better")),
    "contrast": Target(ContrastTarget(Continuation(text=" was"), Continuation(text=" is"))),
    "to stop": Target(ContrastTarget(Continuation(text=" was"), Continuation(text=" was better"))),
    "to go on": Target(ContrastTarget(Continuation(text=" was better"), Continuation(text=" was"))),
}
MEAN = Removal(RemovalKind.MEAN_EMBEDDING)


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def model(request, load_model):
    return load_model(request.getfixturevalue(request.param))


def last(run):
    *_, update = run
    return update.result


def oracle(model, result, run, removed):
    """What captum needs: the value of embeddings, the prompt's embeddings, and those of what replaces it."""
    problem = run.problem
    chosen, rejected = ([token.id for token in side] for side in (result.target.tokens, result.target.rejected_tokens))
    tokens = chosen or rejected
    given = [token.id for token in result.target.shared_tokens] + tokens[:-1]

    def value(embedded):
        logits = model.module(inputs_embeds=embedded, use_cache=False).logits.double().log_softmax(-1)
        points = range(embedded.shape[1] - len(tokens), embedded.shape[1])
        total = sum(logits[:, place, token] for place, token in zip(points, tokens, strict=True))
        if result.target.prefix_contrast:
            odds = total - torch.log1p(-total.exp())
            return odds if chosen else -odds
        total = total - sum(logits[:, -1, token] for token in rejected)
        return total.exp() if result.target.scale is Scale.PROBABILITY else total

    ids = list(problem.encoding.ids)
    owned = {position for feature in problem.features for position in feature.positions}
    baseline = [removed if place in owned else token for place, token in enumerate(ids)]
    return value, *(model.embed([*some, *given]).unsqueeze(0) for some in (ids, baseline))


def by_feature(result, tokens):
    return [sum(float(tokens[position]) for position in each.positions) for each in result.attributions]


@pytest.mark.filterwarnings("ignore")  # captum's own
@pytest.mark.parametrize("kind", TARGETS)
def test_integrated_gradients_agree_with_captum(model, kind):
    from captum.attr import IntegratedGradients as Captum

    run = Run(model, ExplanationSpec(PROMPT, IntegratedGradients(24), target=TARGETS[kind], removal=MEAN))
    result = last(run)
    value, whole, removed = oracle(model, result, run, -1)
    found = Captum(value).attribute(whole, removed, n_steps=24, method="gausslegendre").sum(-1)[0]
    assert [each.attribution for each in result.attributions] == pytest.approx(by_feature(result, found), abs=1e-4)
    with torch.no_grad():
        assert result.full_value == pytest.approx(float(value(whole)), abs=1e-4)
        assert result.base_value == pytest.approx(float(value(removed)), abs=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TARGETS)
def test_as_many_steps_as_it_takes_agree_with_many_of_captum(model, kind):
    from captum.attr import IntegratedGradients as Captum

    spec = ExplanationSpec(
        PROMPT, IntegratedGradients(), TARGETS[kind], removal=MEAN, budget=Budget(max_evaluations=1000)
    )
    result = last(run := Run(model, spec))
    value, whole, removed = oracle(model, result, run, -1)
    found = Captum(value).attribute(whole, removed, n_steps=400, method="gausslegendre").sum(-1)[0]
    exact = by_feature(result, found)
    assert result.converged
    assert result.cost.stop_reason is StopReason.COMPLETE
    assert result.completeness_error <= 0.05 * abs(result.full_value - result.base_value)
    assert [each.attribution for each in result.attributions] == pytest.approx(exact, abs=0.05 * max(map(abs, exact)))


@pytest.mark.parametrize("evaluations", [None, 9, 27, 60, 10_000])
def test_points_are_never_taken_twice_and_never_more_than_planned(model, evaluations):
    task = ExplanationSpec(
        PROMPT,
        IntegratedGradients(),
        removal=MEAN,
        budget=Budget(max_evaluations=evaluations),
        quality=Quality(False),
    )
    run = Run(model, task)
    result = last(run)
    gradients = result.cost.evaluations - 2
    assert gradients in {7, 13, 25, 49, 97, 193, 385, 769}
    assert gradients <= min(evaluations or 50, run.problem.max_evaluations)
    if result.converged:
        assert result.cost.stop_reason is StopReason.COMPLETE
    else:
        assert result.cost.stop_reason is StopReason.EVALUATIONS
        assert result.cost.evaluations + 2 == run.problem.max_evaluations


def test_what_is_known_is_told_on_the_way(model, monkeypatch):
    """And so it is kept when somebody cancels."""
    monkeypatch.setattr(gradients, "CONVERGED", 0)
    ticks = count()
    spec = ExplanationSpec(PROMPT, IntegratedGradients(), removal=MEAN, quality=Quality(False))
    updates = list(Run(model, spec, clock=lambda: float(next(ticks))))
    partial = [update.result for update in updates if update.result and update.progress.stage is Stage.EXPLAINING]
    assert [result.cost.evaluations - 2 for result in partial] == [4, 7, 13, 25, 49]
    assert partial[3].completeness_error < partial[0].completeness_error
    assert all(result.cost.stop_reason is None for result in partial[:4])


def test_time_ends_it_at_the_last_rule_that_is_complete(model):
    ticks = count()
    spec = ExplanationSpec(PROMPT, IntegratedGradients(), removal=MEAN, quality=Quality(False))
    late = replace(spec, budget=Budget(max_evaluations=1000, max_duration=40.0))
    result = last(Run(model, late, clock=lambda: float(next(ticks))))
    assert result.cost.stop_reason is StopReason.DURATION
    same = last(Run(model, replace(spec, budget=Budget(max_evaluations=result.cost.evaluations))))
    assert result.cost.evaluations == same.cost.evaluations < 60
    # In smaller batches, as the time runs out: the last bits may differ.
    for one, other in zip(result.attributions, same.attributions, strict=True):
        assert one.attribution == pytest.approx(other.attribution, rel=1e-4, abs=1e-6)
    assert result.completeness_error == pytest.approx(same.completeness_error, rel=1e-3, abs=1e-5)
    assert result.completeness_error > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TARGETS)
def test_input_times_gradient_agrees_with_captum(model, kind):
    from captum.attr import InputXGradient

    run = Run(model, ExplanationSpec(PROMPT, InputTimesGradient(), target=TARGETS[kind]))
    result = last(run)
    value, whole, _ = oracle(model, result, run, -1)
    found = InputXGradient(value).attribute(whole.requires_grad_()).sum(-1)[0]
    assert [each.attribution for each in result.attributions] == pytest.approx(by_feature(result, found), abs=1e-4)


@pytest.mark.parametrize("unit", Unit)
def test_attributions_sum_to_the_effect(model, unit):
    result = last(Run(model, ExplanationSpec(PROMPT, IntegratedGradients(200), Target(), Features(unit), MEAN)))
    total = sum(each.attribution for each in result.attributions)
    assert total == pytest.approx(result.full_value - result.base_value, abs=0.02)
    assert result.completeness_error == pytest.approx(abs(total - result.full_value + result.base_value))
    assert result.converged
    assert result.cost.stop_reason is StopReason.COMPLETE
    assert all(each.standard_error == 0 for each in result.attributions)


def test_too_few_steps_are_told(tiny_gpt2, load_model):
    spec = ExplanationSpec(PROMPT, IntegratedGradients(1), Target(), Features(Unit.TOKEN), MEAN)
    result = last(Run(load_model(tiny_gpt2), spec))
    assert result.completeness_error > 0.1 * abs(result.full_value - result.base_value)
    assert not result.converged
    assert result.trust.verdict is not Verdict.TRUSTED
    assert any("more steps or evaluations" in reason for reason in result.trust.reasons)


def test_what_is_not_a_feature_is_no_part_of_it(tiny_llama, load_model):
    model = load_model(tiny_llama)
    spec = ExplanationSpec(PROMPT, IntegratedGradients(400), Target(), Features(spans=((4, 8),)), MEAN)
    result = last(Run(model, spec))
    [film] = result.attributions
    assert film.attribution == pytest.approx(result.full_value - result.base_value, abs=1e-2)


@pytest.mark.parametrize("method", [InputTimesGradient(), IntegratedGradients(20)])
def test_a_long_beginning_that_never_changes_is_read_once(model, method, monkeypatch):
    text = f"{TEXT} {TEXT} {TEXT} {TEXT}"
    within = (len(text) - len(TEXT), len(text))
    spec = ExplanationSpec(
        Prompt(text=text),
        method,
        TARGETS["continuation"],
        Features(within=within),
        MEAN,
        quality=Quality(False),
    )
    once = last(Run(model, spec))
    monkeypatch.setattr(internals, "MIN_PREFIX", 10_000)
    anew = last(Run(model, spec))
    for one, other in zip(once.attributions, anew.attributions, strict=True):
        assert one.attribution == pytest.approx(other.attribution, abs=1e-4)
    if isinstance(method, IntegratedGradients):
        assert once.cost.tokens_computed < anew.cost.tokens_computed / 2
        assert once.cost.tokens_saved > anew.cost.tokens_saved


def test_gradients_count_as_evaluations(tiny_llama, load_model):
    run = Run(load_model(tiny_llama), ExplanationSpec(PROMPT, IntegratedGradients(30), quality=Quality(False)))
    updates = list(run)
    result, tokens = updates[-1].result, len(run.problem.encoding.ids)
    assert run.problem.max_evaluations == 2 + 2 + 30  # the empty and the full coalition are planned twice
    assert updates[-1].progress.evaluations_done == result.cost.evaluations == 32
    assert 30 * tokens < result.cost.tokens_computed <= 32 * tokens


def test_a_replacement_must_have_the_feature_s_place(tiny_llama, load_model):
    model = load_model(tiny_llama)
    for removal in (Removal(RemovalKind.DELETE), Removal(RemovalKind.TEXT, " a long replacement")):
        spec = ExplanationSpec(PROMPT, IntegratedGradients(), removal=removal)
        with pytest.raises(InputError, match="equally many tokens") as error:
            prepare(model.tokenizer, model.info, spec)
        assert error.value.field == "removal.kind"
        prepare(model.tokenizer, model.info, replace(spec, method=InputTimesGradient()))


def test_without_a_mask_token_the_mean_embedding_takes_its_place():
    model = ToyModel({}, tokenizer=byte_tokenizer(unk=False))
    spec = ExplanationSpec(PROMPT, IntegratedGradients(), Target(ContrastTarget(*map(Continuation, ("a", "b")))))
    assert prepare(model.tokenizer, model.info, spec).perturbation.resolved.kind is RemovalKind.MEAN_EMBEDDING
    other = replace(spec, method=InputTimesGradient())
    assert prepare(model.tokenizer, model.info, other).perturbation.resolved.kind is RemovalKind.DELETE


def test_a_budget_below_the_steps_is_refused(tiny_llama, load_model):
    model = load_model(tiny_llama)
    spec = ExplanationSpec(PROMPT, IntegratedGradients(50), budget=Budget(max_evaluations=51))
    with pytest.raises(InputError, match="take fewer steps"):
        prepare(model.tokenizer, model.info, spec)


def test_time_runs_out_between_two_chunks(tiny_llama, load_model):
    ticks = count()
    model = load_model(tiny_llama)
    spec = ExplanationSpec(
        PROMPT, IntegratedGradients(1000), budget=Budget(max_duration=10.0), target=TARGETS["continuation"]
    )
    result = last(Run(model, spec, clock=lambda: next(ticks) * 1.0))
    assert result.cost.stop_reason is StopReason.DURATION
    assert result.trust.verdict is Verdict.NOT_TRUSTED
    assert result.cost.evaluations < 1000


def test_gradients_are_float32_whatever_the_policy(tiny_llama, load_model):
    spec = ExplanationSpec(PROMPT, InputTimesGradient(), precision=PrecisionPolicy.AUTO)
    assert last(Run(load_model(tiny_llama), spec)).precision.dtype == "float32"


def test_a_model_that_cannot_be_looked_into():
    model = ToyModel({})
    with pytest.raises(CapabilityError, match="internals are out of reach"):
        list(Run(model, ExplanationSpec(Prompt(text="the film was"), InputTimesGradient())))
