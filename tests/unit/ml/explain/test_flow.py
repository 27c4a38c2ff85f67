"""Attention rollout and value zeroing as explanations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml import attention
from ml.attention import AttentionSpec, Reduction
from ml.errors import InputError, NoAttentionError
from ml.explain import Run, prepare
from ml.models.internals.attention_maps import attend
from ml.result import StopReason, Verdict
from ml.spec import (
    AttentionRollout,
    Budget,
    Continuation,
    ExplanationSpec,
    Features,
    Prompt,
    Quality,
    Target,
    Unit,
    ValueZeroing,
)
from tests.unit.ml.explain.toys import ToyModel

PROMPT = Prompt(text="The film was good , and the book")
LONGER = Target(Continuation(text=" was better"))
TOKENS = Features(Unit.TOKEN)


@pytest.fixture
def model(tiny_llama, load_model):
    return load_model(tiny_llama)


def last(run):
    *_, update = run
    return update.result


def sequence(result):
    """The tokens that the model reads: the prompt, and the target but its last token."""
    return [token.id for token in result.tokens] + [token.id for token in result.target.tokens[:-1]]


@pytest.mark.parametrize("target", [Target(), LONGER])
def test_rollout_is_that_of_the_attention_service(model, target):
    result = last(Run(model, ExplanationSpec(PROMPT, AttentionRollout(), target, TOKENS)))
    ids, positions = sequence(result), len(result.target.tokens)
    asked = AttentionSpec(queries=tuple(range(-positions, 0)), reduction=Reduction.ROLLOUT)
    weights = attend(model, ids, attention.resolve(asked, model.info, len(ids))).weights[0, 0].mean(0)
    for each in result.attributions:
        share = each.attribution * (1 - result.outside_share)
        assert share == pytest.approx(float(weights[list(each.positions)].sum()), abs=1e-6)
    assert sum(each.attribution for each in result.attributions) == pytest.approx(1)
    assert result.converged
    assert result.cost.stop_reason is StopReason.COMPLETE


@pytest.mark.parametrize("target", [Target(), LONGER])
def test_value_zeroing_is_rolled_out_over_the_layers(model, target):
    result = last(Run(model, ExplanationSpec(PROMPT, ValueZeroing(), target, TOKENS)))
    ids, positions, layers = sequence(result), len(result.target.tokens), []
    list(model.value_zeroing(ids, 1000, lambda _, shares: layers.append(shares[0])))
    product = torch.linalg.multi_dot(layers[::-1]) if len(layers) > 1 else layers[0]
    expected = product[-positions:].mean(0).numpy()
    for each in result.attributions:
        share = each.attribution * (1 - result.outside_share)
        assert share == pytest.approx(float(expected[list(each.positions)].sum()), abs=1e-5)
    np.testing.assert_allclose(expected.sum(), 1, atol=1e-5)


def test_value_zeroing_tells_how_far_it_is(model):
    run = Run(model, ExplanationSpec(PROMPT, ValueZeroing(), quality=Quality(False)))
    *_, update = run
    tokens = len(run.problem.encoding.ids)
    assert run.problem.max_evaluations == 2 + 1 + tokens
    assert update.progress.evaluations_done == update.progress.evaluations_planned
    assert update.result.cost.evaluations == 2 + 1 + tokens


def test_time_runs_out(model):
    ticks = iter(range(1000))
    spec = ExplanationSpec(PROMPT, ValueZeroing(), budget=Budget(max_duration=4.0))
    result = last(Run(model, spec, clock=lambda: float(next(ticks))))
    assert result.cost.stop_reason is StopReason.DURATION
    assert result.trust.verdict is Verdict.NOT_TRUSTED


@pytest.mark.parametrize("method", [AttentionRollout(), ValueZeroing()])
def test_a_model_without_attention_is_refused_at_once(method):
    model = ToyModel({})
    with pytest.raises(NoAttentionError):
        prepare(model.tokenizer, model.info, ExplanationSpec(Prompt(text="the film was"), method))


def test_a_prompt_too_long_for_rollout(model, monkeypatch):
    monkeypatch.setattr(attention, "MAX_LAYER_BYTES", 64)
    with pytest.raises(InputError, match="shorten the prompt") as error:
        prepare(model.tokenizer, model.info, ExplanationSpec(PROMPT, AttentionRollout()))
    assert error.value.field == "attention_rollout"


def test_value_zeroing_needs_an_evaluation_for_each_token(model):
    spec = ExplanationSpec(PROMPT, ValueZeroing(), budget=Budget(max_evaluations=3))
    with pytest.raises(InputError, match="attention rollout"):
        prepare(model.tokenizer, model.info, spec)


@pytest.mark.parametrize("method", [AttentionRollout(), ValueZeroing()])
def test_the_verdict_tells_that_chance_does_as_well(model, method):
    result = last(Run(model, ExplanationSpec(PROMPT, method)))
    assert any("as often as chance" in reason for reason in result.trust.reasons)
    assert result.trust.verdict is not Verdict.TRUSTED
