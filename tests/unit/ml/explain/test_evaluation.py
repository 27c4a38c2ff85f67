"""A faster model of lower precision does the work only while its measured error is small."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from ml.explain import Run
from ml.explain.removal import Ids
from ml.explain.target import TargetTokens
from ml.explain.values.evaluation import Evaluator
from ml.explain.values.trial import Sample
from ml.kernels.bfloat16_linear import Bfloat16Copies
from ml.models.huggingface import HuggingFaceModel
from ml.models.loading import load
from ml.models.protocol import RoundedModel
from ml.result import ExplanationResult
from ml.spec import (
    Budget,
    Continuation,
    ExplanationSpec,
    Lime,
    Occlusion,
    PrecisionPolicy,
    Prompt,
    Quality,
    Rows,
    Target,
    Unit,
)
from tests.unit.ml.explain.toys import ToyModel, word_tokenizer


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


def rough(exact: ToyModel, error: float, elsewhere: float | None = None) -> RoundedModel:
    """`exact` with an error in one of its effects, and what is known of its error elsewhere, by default the same."""
    model = ToyModel({"good": 1.0 + error, "bad": -2.0}, tokenizer=exact.tokenizer)
    return RoundedModel(model, error if elsewhere is None else elsewhere)


def read(rounded: RoundedModel) -> int:
    assert isinstance(rounded.model, ToyModel)
    return len(rounded.model.read)


def result(model: ToyModel, prompt: Prompt, method: Occlusion, **spec: Any) -> ExplanationResult:
    *_, last = Run(model, ExplanationSpec(prompt, method, quality=Quality(faithfulness=False), **spec))
    assert last.result is not None
    return last.result


TEXTS = ["good"] * 10 + ["bad"] * 10 + ["good bad"] * 10


@pytest.fixture
def target(exact: ToyModel) -> TargetTokens:
    return TargetTokens((exact.tokenizer.ids("yes")[0],), rejected=(exact.tokenizer.ids("no")[0],))


@pytest.fixture
def prompts(exact: ToyModel) -> list[Ids]:
    return [np.array(exact.tokenizer.ids(text)) for text in TEXTS]


def test_a_fast_model_with_a_small_error_does_the_rest(exact: ToyModel, target: TargetTokens, prompts: list[Ids]):
    evaluator = Evaluator(exact, target, faster=[rough(exact, 1e-3)])
    found = values(evaluator, prompts)
    assert found == pytest.approx(values(Evaluator(exact, target), prompts), abs=2e-3)
    assert evaluator.precision.measured_error == pytest.approx(1e-3, rel=0.01)
    assert evaluator.rounding is not None
    assert 0 < evaluator.rounding.deviations[0] <= evaluator.rounding.largest
    before = len(exact.read)
    values(evaluator, prompts)
    assert len(exact.read) == before  # the choice holds


def test_a_fast_model_with_a_large_error_does_nothing(exact: ToyModel, target: TargetTokens, prompts: list[Ids]):
    fast = rough(exact, 0.5, elsewhere=1e-3)
    evaluator = Evaluator(exact, target, faster=[fast])
    assert values(evaluator, prompts) == values(Evaluator(exact, target), prompts)
    assert evaluator.precision.measured_error is None
    before = read(fast)
    values(evaluator, prompts)
    assert read(fast) == before > 0


def test_where_the_fastest_is_too_rough_a_more_careful_one_does_the_rest(
    exact: ToyModel, target: TargetTokens, prompts: list[Ids]
):
    careful = rough(exact, 1e-3)
    evaluator = Evaluator(exact, target, faster=[rough(exact, 0.5, elsewhere=0.0), careful])
    values(evaluator, prompts)
    assert evaluator.precision.measured_error == pytest.approx(1e-3, rel=0.01)
    assert read(careful) > len(prompts) / 2


def test_a_model_that_errs_too_much_elsewhere_is_not_tried(exact: ToyModel, target: TargetTokens, prompts: list[Ids]):
    fast = rough(exact, 1e-3, elsewhere=0.5)
    values(Evaluator(exact, target, faster=[fast]), prompts)
    assert not read(fast)


@pytest.mark.parametrize(("evaluations", "tried"), [(63, 0), (64, 4), (127, 4), (128, 8), (10_000, 8)])
def test_a_refused_trial_costs_little_of_a_job(
    evaluations: int, tried: int, exact: ToyModel, target: TargetTokens, prompts: list[Ids]
):
    both = [rough(exact, 0.5, elsewhere=0.0), rough(exact, 0.6, elsewhere=0.0)]
    values(Evaluator(exact, target, faster=both, max_evaluations=evaluations), prompts)
    # Of few prompts one model is tried at most.
    assert [read(each) for each in both] == [tried, tried if tried == 8 else 0]


@pytest.mark.parametrize("evaluations", [64, 1000])
def test_what_is_tried_is_computed_exactly_too_and_stands_for_all(evaluations: int):
    samples = {prompts: Sample.of(prompts, evaluations) for prompts in range(1, 400)}
    assert any(samples.values())
    for prompts, sample in samples.items():
        if sample is not None:
            assert set(sample.tried) <= set(sample.exact) <= set(range(prompts))
            assert sum(sample.tried.values()) == pytest.approx(prompts) == sum(sample.exact.values())


def test_the_precision_does_not_hang_on_what_was_asked_before(
    exact: ToyModel, target: TargetTokens, prompts: list[Ids]
):
    faster = [rough(exact, 1e-3)]
    found = [values(Evaluator(exact, target, faster=faster), prompts) for _ in range(2)]
    assert found[0] == found[1]


def test_what_rounding_does_to_a_row_is_in_that_rows_standard_errors(monkeypatch: pytest.MonkeyPatch):
    tokenizer = word_tokenizer(context=128)
    exact, off = (ToyModel({"good": good, "bad": -0.06}, tokenizer=tokenizer) for good in (0.05, 0.05003))
    monkeypatch.setattr(exact, "in_bfloat16", lambda: (RoundedModel(off, 1e-5),))
    explained = {
        precision: result(
            exact,
            Prompt(text="good bad very " * 24),
            Occlusion(),
            target=Target(Continuation(text="yes yes .")),
            rows=Rows(Unit.TOKEN),
            precision=precision,
        )
        for precision in PrecisionPolicy
    }
    rounded, unrounded = (explained[each] for each in (PrecisionPolicy.AUTO, PrecisionPolicy.FLOAT32))
    assert rounded.precision.measured_error is not None
    errors = []
    for row, true in zip(rounded.rows, unrounded.rows, strict=True):
        difference = np.array(row.attributions) - true.attributions
        assert np.array(row.standard_errors) == pytest.approx(np.sqrt(np.mean(difference**2)), rel=0.2)
        assert true.standard_errors == ()
        errors.append(row.standard_errors[0])
    assert errors[0] == pytest.approx(errors[1])
    assert errors[0] > 2 * errors[2]  # it is the logit of "yes" that is off


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
def test_a_twin_rounds_products_and_shares_the_rest(folder: str, request: pytest.FixtureRequest):
    model = load(str(request.getfixturevalue(folder)), device="cpu")
    assert isinstance(model, HuggingFaceModel)
    copied = Bfloat16Copies(model.module).copy()
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
    [copied, careful] = (each.model for each in model.in_bfloat16())
    random = np.random.default_rng(shared)
    prefix = random.integers(0, 50, shared).tolist()
    sequences = [[*prefix, *random.integers(0, 50, n).tolist()] for n in (1, 2, 5, 20, 20, 21)]
    exact, *rounded = (
        {
            i: row
            for batch in each.stream_logits(sequences, [1] * 6, max_tokens=60, max_logits=9)
            for i, row in zip(batch.indices, batch.logits, strict=True)
        }
        for each in (model, copied, careful)
    )
    for rough, (i, row) in itertools.product(rounded, exact.items()):
        assert 0 < (rough[i] - row).square().mean().sqrt() < 0.1 * row.std()


def test_copies_are_compared_on_a_text_of_our_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ml.models.huggingface.has_fast_bfloat16", lambda _: True)
    model = load("transformer", device="cpu")
    assert all(0 < each.error < 0.05 for each in model.in_bfloat16())
    assert model.in_bfloat16() is model.in_bfloat16()


@pytest.mark.parametrize("folder", ["tiny_llama"])
def test_an_automatic_precision_tells_what_it_chose(
    folder: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ml.models.huggingface.has_fast_bfloat16", lambda _: True)
    # Processors round at different places, and this model is all noise.
    monkeypatch.setattr("ml.explain.values.trial.TOLERANCE", 0.2)
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


@pytest.mark.parametrize("text", ["He scored his first goal of the season in the last minute of the match against"])
def test_intervals_of_rounded_values_hold_the_exact_ones(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ml.models.huggingface.has_fast_bfloat16", lambda _: True)
    model = load("transformer", device="cpu")
    exact, rounded = (
        explained(
            model, ExplanationSpec(Prompt(text=f"{text} {' '.join(text.split()[::-1])}"), Occlusion(), precision=each)
        )
        for each in PrecisionPolicy
    )
    assert rounded.precision.dtype == "bfloat16"
    held = [
        one.interval.lower <= other.attribution <= one.interval.upper
        for one, other in zip(rounded.attributions, exact.attributions, strict=True)
    ]
    assert np.mean(held) >= 0.85  # of 32 features, whose rounding errors are not independent
    # They are informative: the errors are small beside what they are about.
    assert max(each.standard_error for each in rounded.attributions) < 0.1


def explained(model, spec: ExplanationSpec) -> ExplanationResult:
    *_, last = Run(model, spec)
    assert last.result is not None
    return last.result
