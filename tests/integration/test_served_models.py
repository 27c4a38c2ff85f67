"""Served models: the same cases on the small engine of the tests and, by `make test-engine`, on a real vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from benchmarks import vllm
from gloss import v1 as pb
from gloss.citing import cite
from ml import spec
from ml.errors import OutOfReachError
from ml.explain import prepare, start
from ml.explain.removal import BY_SIMILAR_WORDS
from ml.models.protocol import ExplainableModel
from ml.models.served.model import ServedModel, open_model
from ml.models.served.options import EngineOptions
from ml.result import ExplanationResult, StudyResult
from ml.spec import Budget, Continuation, ContrastTarget, ExplanationSpec, GenerationTarget, Prompt, Target
from server.helpers import Where
from tests.fixtures.engine import TestEngine, saved
from tests.fixtures.models import byte_level
from tests.fixtures.served import LONGEST, LocalModel, SmallModel
from tests.integration.explanations import wait_for
from tests.integration.serving import Served, serve
from tests.integration.test_citations import found as citations_of

SHIPPED = Path(__file__).parents[2] / "ml/pretrained/transformer"

TEXT = "The river runs through the old town, and the castle was built"


@dataclass
class Subject:
    """An engine, and the model that it serves, computed here.

    Attributes:
        engine: the engine of the tests; None for vLLM.
    """

    url: str
    served: ServedModel
    local: ExplainableModel
    engine: TestEngine | None

    @property
    def address(self) -> str:
        """As `GLOSS_MODEL` names it."""
        return f"vllm+{self.url}/{self.served.info.name}"

    def running(self) -> float:
        """Requests that the engine is computing."""
        return self.engine.running if self.engine else vllm.metric(self.url, "vllm:num_requests_running")


@pytest.fixture(scope="module", params=["small", pytest.param("vllm", marks=pytest.mark.engine)])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """Each engine with its model."""
    folder = tmp_path_factory.mktemp("engine")
    if request.param == "small":
        tokenizer = byte_level(unknown="<unk>")
        logits = SmallModel(len(tokenizer))
        engine = TestEngine(tokenizer, logits, origin=saved(tokenizer, folder), longest=LONGEST)
        served = open_model(engine.address, EngineOptions())
        yield Subject(engine.url, served, LocalModel(logits, served.tokenizer), engine)
        served.close()
        engine.close()
        return
    from ml.models.loading import load

    with vllm.serving(SHIPPED, folder / "log") as url:
        served = open_model(f"vllm+{url}/{SHIPPED.name}", EngineOptions())
        yield Subject(url, served, load(str(SHIPPED), device="cpu"), None)
        served.close()


@pytest.fixture(scope="module")
def server(subject: Subject) -> Iterator[Served]:
    """A server in front of the engine."""
    with serve([subject.address]) as server:  # type: ignore[list-item] -- an address is no path
        yield server


def result(model: ExplainableModel, asked: Any) -> Any:
    """What an explanation or a study finds."""
    *_, last = start(model, asked)
    return last.result


LARGE = Budget(max_evaluations=100, seed=1)
"""Draws are a function of the seed, so that both models are asked about the same coalitions."""

EXACT = {
    "occlusion": spec.Occlusion(),
    "occlusion of windows": spec.Occlusion(window=3),
    "exact Shapley values": spec.KernelShap(),
    "interactions": spec.Interactions(),
    "hierarchical": spec.Hierarchical(threshold=0.0),
    "Owen values": spec.Hierarchical(spec.NodeValue.OWEN, threshold=0.0),
}
SAMPLED = {
    "LIME": spec.Lime(),
    "LIME with control variates": spec.Lime(estimator=spec.Estimator.CONTROL_VARIATES),
    "LIME by lasso": spec.Lime(surrogate=spec.SurrogateKind.LASSO),
    "KernelSHAP": spec.KernelShap(),
    "permutations": spec.ShapleyPermutation(),
    "context attribution": spec.ContextAttribution(),
}
TARGETS = {
    "a next token": Target(),
    "its probability": Target(scale=spec.Scale.PROBABILITY),
    "a continuation": Target(Continuation(text=" of the town")),
    "a generation": Target(GenerationTarget(3)),
    "a contrast": Target(ContrastTarget(Continuation(text=" king"), Continuation(text=" town"))),
    "a contrast of one with more": Target(
        ContrastTarget(Continuation(text=" of the town"), Continuation(text=" of the"))
    ),
}


def check(subject: Subject, asked: ExplanationSpec, tolerance: float) -> ExplanationResult:
    found, expected = result(subject.served, asked), result(subject.local, asked)
    assert found.target == expected.target
    assert len(found.attributions) == len(expected.attributions) > 1
    for one, other in zip(found.attributions, expected.attributions, strict=True):
        assert one.attribution == pytest.approx(other.attribution, abs=tolerance)
    for one, other in zip(found.interactions, expected.interactions, strict=True):
        assert one.value == pytest.approx(other.value, abs=tolerance)
    if expected.faithfulness is not None:
        assert found.faithfulness.comprehensiveness.aopc.value == pytest.approx(
            expected.faithfulness.comprehensiveness.aopc.value, abs=tolerance
        )
    assert found.base_value == pytest.approx(expected.base_value, abs=1e-4)
    assert found.full_value == pytest.approx(expected.full_value, abs=1e-4)
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", EXACT)
def test_methods_that_compute_exactly_agree(subject: Subject, name: str) -> None:
    prompt = Prompt("The king was ill")
    check(subject, ExplanationSpec(prompt, EXACT[name]), 1e-4)


@pytest.mark.parametrize("name", SAMPLED)
def test_methods_that_sample_agree(subject: Subject, name: str) -> None:
    check(subject, ExplanationSpec(Prompt(TEXT), SAMPLED[name], budget=LARGE), 1e-3)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_agree(subject: Subject, name: str) -> None:
    check(subject, ExplanationSpec(Prompt(TEXT), spec.Occlusion(), TARGETS[name]), 1e-4)


@pytest.mark.parametrize("method", [spec.Occlusion(), spec.Lime(), spec.KernelShap(), spec.Interactions()])
def test_rows_agree(subject: Subject, method: Any) -> None:
    target = Target(Continuation(text=" of the town"))
    asked = ExplanationSpec(Prompt("The king was ill"), method, target, budget=LARGE, rows=spec.Rows())
    served, local = (result(model, asked).rows for model in (subject.served, subject.local))
    assert len(served) == len(local) > 1
    for one, other in zip(served, local, strict=True):
        assert one.attributions == pytest.approx(other.attributions, abs=1e-3)


REMOVALS = (
    spec.Removal(spec.RemovalKind.MASK_TOKEN),
    spec.Removal(spec.RemovalKind.TEXT, "thing"),
    spec.Removal(spec.RemovalKind.DELETE),
)


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: removal.kind.name)
def test_removals_agree(subject: Subject, removal: spec.Removal) -> None:
    check(subject, ExplanationSpec(Prompt(TEXT), spec.Occlusion(), removal=removal), 1e-4)


def test_studies_agree(subject: Subject) -> None:
    words = ("king", "queen", "town", "river", "hill")
    prompts = tuple(Prompt(f"The {one} and the {other} were {end}") for one in words for other in words for end in "ab")
    surrogate = spec.StudySpec(spec.GlobalSurrogate(prompts), target=Target(spec.NextTokenTarget(text=" of")))
    found: list[StudyResult] = [result(model, surrogate) for model in (subject.served, subject.local)]
    np.testing.assert_allclose(
        [each.finding.surrogate.intercept for each in found],  # type: ignore[union-attr]
        found[1].finding.surrogate.intercept,  # type: ignore[union-attr]
        atol=1e-3,
    )
    groups = (spec.SwapSet("a", ("king", "father")), spec.SwapSet("b", ("queen", "mother")))
    probe = spec.StudySpec(spec.BiasProbe(("The {} said that", "Then the {} was"), groups), target=surrogate.target)
    one, other = (result(model, probe).finding for model in (subject.served, subject.local))
    for left, right in zip(one.differences, other.differences, strict=True):
        assert left.difference == pytest.approx(right.difference, abs=1e-4)


@pytest.mark.parametrize("answer", ["The king was ill.", None])
def test_citations_agree(subject: Subject, server: Served, answer: str | None) -> None:
    asked = {"answer": answer, "max_tokens": 6, "limit": 0, "share": 1e-9}
    one, other = (
        citations_of(server, model, cite("The king was ill. The town was old.", "Who?", **asked))  # type: ignore[arg-type]
        for model in (subject.served, subject.local)
    )
    assert one.answer == other.answer
    assert len(one.sources) == len(other.sources) == 2
    assert [each.text for each in one.sentences] == [each.text for each in other.sentences]
    cited = [[each for sentence in found.sentences for each in sentence.citations] for found in (one, other)]
    assert [each.source for each in cited[0]] == [each.source for each in cited[1]]
    for left, right in zip(*cited, strict=True):
        assert left.value == pytest.approx(right.value, abs=1e-4)
        assert left.cost == pytest.approx(right.cost, abs=1e-4)
    explained = [found.explanation for found in (one, other)]
    if answer:
        assert all(explained)
    if all(explained):  # a model that answers nothing has nothing to explain
        found, expected = ([each.attribution for each in some.result.attributions] for some in explained)
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "method", [spec.InputTimesGradient(), spec.IntegratedGradients(), spec.AttentionRollout(), spec.ValueZeroing()]
)
def test_what_looks_inside_is_refused_with_what_would_work(subject: Subject, method: Any) -> None:
    with pytest.raises(OutOfReachError, match="choose occlusion, LIME"):
        prepare(subject.served.tokenizer, subject.served.info, ExplanationSpec(Prompt(TEXT), method))


@pytest.mark.parametrize("kind", [spec.RemovalKind.MEAN_EMBEDDING, *BY_SIMILAR_WORDS])
def test_removal_by_embeddings_is_refused_with_what_would_work(subject: Subject, kind: spec.RemovalKind) -> None:
    removal = spec.Removal(kind)
    with pytest.raises(OutOfReachError, match="mask token, a text or deletion"):
        prepare(
            subject.served.tokenizer,
            subject.served.info,
            ExplanationSpec(Prompt(TEXT), spec.Occlusion(), removal=removal),
        )


def test_the_result_tells_of_noise_and_price(subject: Subject) -> None:
    model = open_model(subject.address, EngineOptions(price=2.0))
    found = result(model, ExplanationSpec(Prompt(TEXT), spec.Occlusion()))
    assert found.cost.price == pytest.approx(found.cost.tokens_computed * 2e-6)
    assert found.precision.dtype == "unknown"
    model.close()
    noisy = subject.served.found
    noise = max(abs(each.attribution) for each in found.attributions) / 4
    noisy = replace(noisy, info=replace(noisy.info, noise=noise))
    model = ServedModel(noisy)
    found = result(model, ExplanationSpec(Prompt(TEXT), spec.Occlusion()))
    assert found.precision.noise == noise
    assert min(each.standard_error for each in found.attributions) == pytest.approx(noise * 2**0.5)
    assert any("engine" in reason for reason in found.trust.reasons)
    target = Target(Continuation(text=" of the town"))
    found = result(model, ExplanationSpec(Prompt(TEXT), spec.Occlusion(), target, rows=spec.Rows()))
    for row in found.rows:
        assert min(row.standard_errors) == pytest.approx(noise * (2 * len(row.positions)) ** 0.5)
    model.close()


# InferenceService.


def test_next_tokens(subject: Subject, server: Served) -> None:
    texts = [TEXT, "The king", "In the year"]
    reply = server.next_token(*texts, top_k=5)
    for text, prediction in zip(texts, reply.predictions, strict=True):
        ids = subject.served.tokenizer.encode(Prompt(text)).ids
        given = [[each.id] for each in prediction.top]
        [expected] = subject.local.stream_log_probabilities([ids], given, max_tokens=512)
        found = [each.log_probability for each in prediction.top]
        assert found == pytest.approx(expected.rows[0].tolist(), abs=1e-4)
        assert found == sorted(found, reverse=True)
        assert prediction.top[0].id == next(iter(subject.local.generate_greedily(ids, 1)))
        assert not prediction.HasField("entropy")
        assert prediction.usage.prompt_tokens == len(ids)


def test_next_tokens_beside_an_explanation(subject: Subject, server: Served) -> None:
    texts = ["The king", "In the year", "He was the", "It is"]

    def listed() -> list[list[int]]:
        return [[each.id for each in one.top] for one in server.next_token(*texts, top_k=5).predictions]

    def probabilities() -> list[float]:
        reply = server.next_token(*texts, top_k=5)
        return [each.log_probability for prediction in reply.predictions for each in prediction.top]

    expected, values = listed(), probabilities()
    asked = ExplanationSpec(Prompt(TEXT), spec.Lime(), budget=Budget(max_evaluations=1000, seed=5))
    with ThreadPoolExecutor(1) as pool:
        explained = pool.submit(result, subject.served, asked)
        while not explained.done():
            assert listed() == expected
            assert probabilities() == pytest.approx(values, abs=1e-4)
    assert len(explained.result().attributions) > 1


def test_many_prompts_at_once(server: Served) -> None:
    reply = server.next_token(*(f"The number {index}" for index in range(200)), top_k=1)
    assert len(reply.predictions) == 200


def test_requests_of_any_size(server: Served) -> None:
    prompts = [pb.Prompt(token_ids=pb.TokenIds(ids=[200 + index % 50] * 185)) for index in range(250)]
    small, large = (pb.NextTokenRequest(prompts=some, top_k=3) for some in (prompts[:2], prompts))
    assert Where.by_size(small.ByteSize()) is Where.EVENT_LOOP
    assert Where.by_size(large.ByteSize()) is Where.PROCESS
    expected, found = (server.inference.NextToken(each, timeout=60).predictions for each in (small, large))
    assert len(found) == len(prompts)
    for index, prediction in enumerate(found[::50]):
        assert [each.id for each in prediction.top] == [each.id for each in expected[0].top], index


def test_scores(subject: Subject, server: Served) -> None:
    items = [
        pb.ScoreItem(prompt=pb.Prompt(text=TEXT), continuation=pb.Continuation(text=continuation))
        for continuation in (" The", " The king", " He was the king of the castle")
    ]
    reply = server.inference.Score(pb.ScoreRequest(items=items, top_k=3), timeout=20)
    ids = subject.served.tokenizer.encode(Prompt(TEXT)).ids
    for score in reply.scores:
        tokens = [each.id for each in score.tokens]
        [expected] = subject.local.stream_log_probabilities([ids], [tokens], max_tokens=512)
        assert [each.log_probability for each in score.tokens] == pytest.approx(expected.rows[0].tolist(), abs=1e-4)
        for token in score.tokens:
            assert len(token.top) == 3
            assert not token.HasField("entropy")
            listed = [each.id for each in token.top]
            assert (token.id in listed) == (token.rank <= 3)
            if token.id in listed:
                assert listed.index(token.id) + 1 == token.rank


def test_scores_without_alternatives(server: Served) -> None:
    item = pb.ScoreItem(prompt=pb.Prompt(text=TEXT), continuation=pb.Continuation(text=" The king"))
    reply = server.inference.Score(pb.ScoreRequest(items=[item]), timeout=20)
    assert all(token.HasField("rank") and not token.top for token in reply.scores[0].tokens)


def test_greedy_texts(subject: Subject, server: Served) -> None:
    ids = subject.served.tokenizer.encode(Prompt(TEXT)).ids
    request = pb.GenerateRequest(prompt=pb.Prompt(text=TEXT), max_tokens=12, top_k=2)
    replies = list(server.inference.Generate(request, timeout=20))
    assert [reply.token.id for reply in replies] == list(subject.local.generate_greedily(ids, 12))
    assert "".join(reply.text for reply in replies)
    assert all(reply.top[0].id == reply.token.id for reply in replies)
    last = replies[-1]
    assert last.finish_reason in {pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_END_OF_TEXT}
    assert last.usage.completion_tokens == len(replies)
    assert not any(reply.finish_reason for reply in replies[:-1])


def test_drawn_texts_repeat_with_their_seed(server: Served) -> None:
    def drawn(seed: int) -> list[int]:
        request = pb.GenerateRequest(prompt=pb.Prompt(text=TEXT), max_tokens=12, temperature=1.0, top_p=0.9, seed=seed)
        return [reply.token.id for reply in server.inference.Generate(request, timeout=20)]

    assert drawn(2**64 - 1) == drawn(2**64 - 1)


def test_a_stop_text_ends_the_engines_request(subject: Subject, server: Served) -> None:
    request = pb.GenerateRequest(prompt=pb.Prompt(text=TEXT), max_tokens=40)
    whole = "".join(reply.text for reply in server.inference.Generate(request, timeout=20))
    stop = whole[len(whole) // 3 : len(whole) // 3 + 2]
    request.stop.append(stop)
    replies = list(server.inference.Generate(request, timeout=20))
    assert "".join(reply.text for reply in replies) == whole[: whole.index(stop)]
    assert replies[-1].finish_reason == pb.FINISH_REASON_STOP
    wait_for(lambda: subject.running() == 0)


def test_a_cancelled_text_ends_the_engines_request(subject: Subject, server: Served) -> None:
    server.next_token("The", top_k=1)  # the engine's fingerprint has just been looked at
    if subject.engine is not None:
        subject.engine.hold.clear()
    request = pb.GenerateRequest(prompt=pb.Prompt(text="The"), max_tokens=170, temperature=1.0)
    replies = server.inference.Generate(request, timeout=20)
    next(replies)
    wait_for(lambda: subject.running() == 1)
    replies.cancel()
    wait_for(lambda: subject.running() == 0)
    if subject.engine is not None:
        subject.engine.hold.set()


def test_models_are_listed_with_their_engine(subject: Subject, server: Served) -> None:
    [info] = server.inference.ListModels(pb.ListModelsRequest(), timeout=20).models
    assert info.engine.startswith("vllm 0.32")
    assert info.max_top_k == (subject.engine.max_logprobs if subject.engine else 50)
    assert info.context_length == subject.served.info.context_length
    assert not info.has_attention
    assert info.version.digest == subject.served.info.digest


def test_texts_are_tokenized(subject: Subject, server: Served) -> None:
    reply = server.inference.Tokenize(pb.TokenizeRequest(prompt=pb.Prompt(text=TEXT)), timeout=20)
    assert tuple(token.id for token in reply.tokens) == subject.served.tokenizer.encode(Prompt(TEXT)).ids


REFUSED = {
    "attention": (
        lambda stub: stub.Attention(pb.AttentionRequest(prompt=pb.Prompt(text="The king")), timeout=20),
        grpc.StatusCode.FAILED_PRECONDITION,
        "occlusion",
    ),
    "another temperature": (
        lambda stub: stub.NextToken(pb.NextTokenRequest(prompts=[pb.Prompt(text="a")], temperature=0.5), timeout=20),
        grpc.StatusCode.FAILED_PRECONDITION,
        "ask at temperature 1",
    ),
    "more than the engine lists": (
        lambda stub: stub.NextToken(pb.NextTokenRequest(prompts=[pb.Prompt(text="a")], top_k=51), timeout=20),
        grpc.StatusCode.INVALID_ARGUMENT,
        "must be between 1 and",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_cannot_give_is_refused(server: Served, name: str) -> None:
    call, code, advice = REFUSED[name]
    with pytest.raises(grpc.RpcError) as caught:
        call(server.inference)  # type: ignore[no-untyped-call]
    assert caught.value.code() is code
    assert advice in caught.value.details()
