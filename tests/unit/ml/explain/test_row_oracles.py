"""Rows of real models: captum's token matrices, and gradients row by row."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.explain import Run, forecast, prepare
from ml.spec import (
    Budget,
    Continuation,
    ExplanationSpec,
    Features,
    InputTimesGradient,
    IntegratedGradients,
    KernelShap,
    NextTokenTarget,
    Occlusion,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Rows,
    Scale,
    ShapleyPermutation,
    Target,
    Unit,
)
from tests.fixtures import inseq_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # captum's own
TEXT = "The film was good , and the book"
SHORT = "The film"
ANSWER = Target(Continuation(text=" was better than the film"))
MEAN = Removal(RemovalKind.MEAN_EMBEDDING)


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def model(request, load_model):
    return load_model(request.getfixturevalue(request.param))


def last(run):
    *_, update = run
    return update.result


def whole(result):
    return np.array([each.attribution for each in result.attributions])


def each_row(result):
    return np.array([row.attributions for row in result.rows])


def asked(method, text, **parts):
    """Of single tokens, in whose place one and the same token stands, as captum has it."""
    plain = {
        "target": ANSWER,
        "features": Features(Unit.TOKEN),
        "removal": Removal(RemovalKind.TEXT, " the"),
        "rows": Rows(),
        "quality": Quality(False),
    }
    return ExplanationSpec(Prompt(text=text), method, **(plain | parts))


class Captum:
    """What captum's wrapper needs, and its token matrix of the same question."""

    def __init__(self, model, run):
        self.module, self.tokenizer = model.module, model.tokenizer._fast
        problem = run.problem
        (self.baseline,) = {new for each in problem.perturbation.replacements for new in each}
        self.positions = [position for feature in problem.features for position in feature.positions]
        ids = problem.encoding.ids
        self.others = [token for position, token in enumerate(ids) if position not in self.positions]
        self.target = torch.tensor(problem.target.tokens.tokens)

    def input(self, text):
        from captum.attr import TextTokenInput

        return TextTokenInput(text, self.tokenizer, baselines=self.baseline, skip_tokens=self.others)

    def perturbed(self, method, text, **parts):
        from captum.attr import LLMAttribution

        explainer = LLMAttribution(method(self.module), self.tokenizer)
        return explainer.attribute(self.input(text), self.target, forward_in_tokens=False, **parts)


def test_occlusion_is_captums_feature_ablation(model):
    from captum.attr import FeatureAblation

    result = last(run := Run(model, asked(Occlusion(), TEXT)))
    found = Captum(model, run).perturbed(FeatureAblation, TEXT)
    assert each_row(result) == pytest.approx(found.token_attr.numpy(), abs=1e-4)
    assert whole(result) == pytest.approx(found.seq_attr.numpy(), abs=1e-4)


def test_occlusion_and_the_first_tokens_gradients_are_inseqs(load_model):
    """Of the shipped transformer; inseq's occlusion is without a sign."""
    model, found = load_model("transformer"), json.loads(inseq_rows.ROWS.read_text())
    parts = {
        "target": Target(Continuation(text=inseq_rows.ANSWER)),
        "removal": Removal(RemovalKind.MASK_TOKEN),
    }
    result = last(Run(model, asked(Occlusion(), inseq_rows.TEXT, **parts)))
    assert np.abs(each_row(result)) == pytest.approx(np.array(found["occlusion"]), abs=1e-4)
    result = last(Run(model, asked(IntegratedGradients(50), inseq_rows.TEXT, **parts)))
    assert each_row(result)[:1] == pytest.approx(np.array(found["integrated_gradients"]), abs=1e-4)


@pytest.mark.parametrize("method", [KernelShap(), ShapleyPermutation()])
def test_exact_shapley_values_are_captums(model, method):
    from captum.attr import ShapleyValues

    result = last(run := Run(model, asked(method, SHORT)))
    assert len(result.attributions) == 4
    found = Captum(model, run).perturbed(ShapleyValues, SHORT)
    assert each_row(result) == pytest.approx(found.token_attr.numpy(), abs=1e-4)
    assert whole(result) == pytest.approx(found.seq_attr.numpy(), abs=1e-4)


def test_sampled_shapley_values_are_captums_within_their_errors(model):
    from captum.attr import ShapleyValueSampling

    result = last(run := Run(model, asked(KernelShap(), TEXT, budget=Budget(max_evaluations=200))))
    captum = Captum(model, run)
    torch.manual_seed(0)
    drawn = [captum.perturbed(ShapleyValueSampling, TEXT, n_samples=3).token_attr.numpy() for _ in range(6)]
    error = np.std(drawn, axis=0, ddof=1) / np.sqrt(len(drawn))
    missed = np.abs(each_row(result) - np.mean(drawn, axis=0))
    ours = np.array([row.standard_errors for row in result.rows])
    assert (missed < 6 * np.hypot(ours, error.max()) + 1e-4).all()


def test_integrated_gradients_are_captums(model):
    from captum.attr import LayerIntegratedGradients, LLMGradientAttribution

    result = last(run := Run(model, asked(IntegratedGradients(12), TEXT)))
    captum = Captum(model, run)
    given = captum.input(TEXT)
    absent = torch.zeros_like(given.to_tensor())
    layer = LayerIntegratedGradients(captum.module, captum.module.get_input_embeddings())
    found = LLMGradientAttribution(layer, captum.tokenizer).attribute(
        given, captum.target, baselines=absent, n_steps=12
    )
    rows = found.token_attr.numpy()
    assert each_row(result) == pytest.approx(rows, abs=1e-4)
    assert whole(result) == pytest.approx(rows.sum(axis=0), abs=1e-4)


class TestGradients:
    """A gradient of each row beside that of the whole."""

    @pytest.fixture(params=["tiny_llama", "tiny_gpt2", "tiny_lstm"])
    def model(self, request, load_model):
        return load_model(request.getfixturevalue(request.param))

    @pytest.mark.parametrize("method", [InputTimesGradient(), IntegratedGradients(), IntegratedGradients(9)])
    def test_rows_sum_to_the_whole(self, model, method):
        text = "The film was good , and the book"
        asked = ExplanationSpec(
            Prompt(text=text),
            method,
            target=Target(Continuation(text=" was good , and the film")),
            features=Features(Unit.WORD),
            removal=Removal(RemovalKind.MEAN_EMBEDDING),
            rows=Rows(Unit.WORD),
            quality=Quality(False),
        )
        result, alone = last(run := Run(model, asked)), last(Run(model, replace(asked, rows=None)))
        planned = forecast(prepare(model.tokenizer, model.info, asked))
        assert planned.evaluations == run.problem.max_evaluations >= result.cost.evaluations
        assert each_row(result).sum(axis=0) == pytest.approx(whole(result), abs=1e-9)
        assert whole(result) == pytest.approx(whole(alone), abs=1e-4)
        assert result.converged == alone.converged
        gradients = alone.cost.evaluations - 2
        assert result.cost.evaluations - 2 == gradients * len(result.rows)

    def test_rows_of_probabilities_are_their_own(self, model):
        asked = ExplanationSpec(
            Prompt(text="The film was"),
            InputTimesGradient(),
            target=Target(Continuation(text=" good ,"), scale=Scale.PROBABILITY),
            rows=Rows(),
            quality=Quality(False),
        )
        first = last(Run(model, asked)).rows[0]
        token = model.tokenizer.continuation(model.tokenizer.encode(asked.prompt), Continuation(text=" good ,")).ids[0]
        alone = last(Run(model, replace(asked, target=Target(NextTokenTarget(id=token), Scale.PROBABILITY), rows=None)))
        assert first.attributions == pytest.approx(whole(alone), abs=1e-6)


def test_rows_of_real_models_are_those_of_the_first_token(load_model, tiny_llama):
    model = load_model(tiny_llama)
    asked = ExplanationSpec(
        Prompt(text="The film was good , and the book"),
        KernelShap(),
        target=Target(Continuation(text=" was better than the film")),
        rows=Rows(),
        budget=Budget(max_evaluations=600),
    )
    result = last(Run(model, asked))
    first = result.target.tokens[0].id
    alone = last(Run(model, replace(asked, target=Target(NextTokenTarget(id=first)), rows=None)))
    assert result.rows[0].attributions == pytest.approx(whole(alone), abs=1e-5)
