"""A faster model of lower precision does the work only while its measured error is small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml.explain import Run
from ml.explain.evaluation import Evaluator
from ml.explain.removal import Ids
from ml.explain.target import TargetTokens
from ml.kernels.bfloat16_linear import bfloat16_copy
from ml.models.huggingface import HuggingFaceModel
from ml.models.loading import load
from ml.spec import Budget, ExplanationSpec, Lime, PrecisionPolicy, Prompt, Quality
from tests.unit.ml.explain.toys import ToyModel

PROMPTS = [np.array([1 + i % 3, 1 + i // 3 % 3, 1 + i // 9], dtype=np.int64) for i in range(27)]


def values(evaluator: Evaluator, prompts: list[Ids]) -> list[float]:
    found: dict[int, float] = {}
    for chunk in evaluator(prompts):
        values = evaluator.objective.values(chunk.rows)
        found.update(zip(chunk.indices, values.tolist(), strict=True))
    assert sorted(found) == list(range(len(prompts)))
    return [found[i] for i in range(len(prompts))]


@pytest.fixture
def exact() -> ToyModel:
    return ToyModel({"good": 1.0, "bad": -2.0})


def rough(exact: ToyModel, error: float) -> ToyModel:
    """`exact` with an error in one of its effects."""
    return ToyModel({"good": 1.0 + error, "bad": -2.0}, tokenizer=exact.tokenizer)


def test_a_fast_model_with_a_small_error_does_the_rest(exact: ToyModel):
    target = TargetTokens((exact.tokenizer.ids("yes")[0],), rejected=(exact.tokenizer.ids("no")[0],))
    fast = rough(exact, 1e-3)
    evaluator = Evaluator(exact, target, fast=fast)
    prompts = [np.array(exact.tokenizer.ids(text)) for text in ["good"] * 10 + ["bad"] * 10 + ["good bad"] * 10]
    found = values(evaluator, prompts)
    assert found == pytest.approx(values(Evaluator(exact, target), prompts), abs=2e-3)
    assert evaluator.precision.measured_error == pytest.approx(1e-3, rel=0.01)
    before = len(exact.read)
    values(evaluator, prompts)
    assert len(exact.read) == before  # the choice holds


def test_a_fast_model_with_a_large_error_does_nothing(exact: ToyModel):
    target = TargetTokens((exact.tokenizer.ids("yes")[0],), rejected=(exact.tokenizer.ids("no")[0],))
    fast = rough(exact, 0.5)
    evaluator = Evaluator(exact, target, fast=fast)
    prompts = [np.array(exact.tokenizer.ids(text)) for text in ["good"] * 10 + ["bad"] * 10]
    assert values(evaluator, prompts) == values(Evaluator(exact, target), prompts)
    assert evaluator.precision.measured_error is None
    before = len(fast.read)
    values(evaluator, prompts)
    assert len(fast.read) == before


def test_few_prompts_are_not_worth_a_trial(exact: ToyModel):
    target = TargetTokens((exact.tokenizer.ids("yes")[0],))
    fast = rough(exact, 0.0)
    values(Evaluator(exact, target, fast=fast), PROMPTS[:4])
    assert not fast.read


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
def test_a_twin_rounds_products_and_shares_the_rest(folder: str, request: pytest.FixtureRequest):
    model = load(str(request.getfixturevalue(folder)), device="cpu")
    assert isinstance(model, HuggingFaceModel)
    copied = bfloat16_copy(model.module)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        expected, found = model.module(input_ids=ids).logits, copied(input_ids=ids).logits
    assert found.dtype is torch.float32
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.05 * expected.std()
    assert copied.get_input_embeddings().weight is model.module.get_input_embeddings().weight
    assert model.module(input_ids=ids).logits.dtype is torch.float32  # the original is left as it was


@pytest.mark.parametrize("shared", [0, 9, 70])
@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
def test_a_twin_packs_rows_as_its_original_does(
    folder: str, shared: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ml.models.huggingface.has_fast_bfloat16", lambda _: True)
    model = load(str(request.getfixturevalue(folder)), device="cpu")
    copied = model.in_bfloat16()
    assert copied is not None
    random = np.random.default_rng(shared)
    prefix = random.integers(0, 50, shared).tolist()
    sequences = [[*prefix, *random.integers(0, 50, n).tolist()] for n in (1, 2, 5, 20, 20, 21)]
    exact, rough = (
        {
            i: row
            for batch in each.stream_logits(sequences, [1] * 6, max_tokens=60, max_logits=9)
            for i, row in zip(batch.indices, batch.logits, strict=True)
        }
        for each in (model, copied)
    )
    for i, row in exact.items():
        assert 0 < (rough[i] - row).square().mean().sqrt() < 0.1 * row.std()


@pytest.mark.parametrize("folder", ["tiny_llama"])
def test_an_automatic_precision_tells_what_it_chose(
    folder: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ml.models.huggingface.has_fast_bfloat16", lambda _: True)
    monkeypatch.setattr(
        Evaluator, "TOLERANCE", 0.2
    )  # processors round at different places, and this model is all noise
    model = load(str(request.getfixturevalue(folder)), device="cpu")
    results = []
    for precision in PrecisionPolicy:
        spec = ExplanationSpec(
            Prompt(text="The capital of France is a city that many people know and love"),
            Lime(),
            budget=Budget(max_evaluations=200),
            quality=Quality(False),
            precision=precision,
        )
        *_, last = Run(model, spec)
        assert last.result is not None
        results.append(last.result)
    reference, fast = results
    assert (reference.precision.dtype, reference.precision.measured_error) == ("float32", None)
    assert fast.precision.dtype == "bfloat16"
    assert fast.precision.measured_error > 0
    coefficients = [[each.attribution for each in result.attributions] for result in results]
    assert np.corrcoef(coefficients)[0, 1] > 0.99
