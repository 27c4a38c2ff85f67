"""A served model against the same model computed here."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import numpy as np
import pytest

from ml.errors import ModelLoadError
from ml.models.served.abilities import OwnTokens
from ml.models.served.model import ServedModel, open_model
from ml.models.served.options import EngineOptions
from ml.spec import Prompt
from tests.fixtures.engine import TestEngine
from tests.fixtures.models import SENTENCES
from tests.fixtures.served import LocalModel

CONTINUATIONS = (
    [[7]],
    [[7], [8]],
    [[7] * 30, [8]],
    [[7, 8, 9]],
    [[7, 8, 9], [7, 8], [7]],
    [[7, 8], [9, 10]],
    [[7, 7], [7, 7]],
)


def rows(model: ServedModel | LocalModel, prompts: Sequence[Sequence[int]], continuations: list[list[int]]) -> object:
    found = np.full((len(prompts), sum(map(len, continuations))), np.nan)
    seen: list[int] = []
    for batch in model.stream_log_probabilities(prompts, continuations, max_tokens=256):
        found[list(batch.indices)] = batch.rows
        seen += batch.indices
    assert sorted(seen) == list(range(len(prompts)))
    return found


def prompts_of(model: ServedModel) -> list[tuple[int, ...]]:
    whole = [model.tokenizer.encode(Prompt(text)).ids for text in SENTENCES]
    return [*whole, *(ids[:3] for ids in whole), whole[0]]


@pytest.mark.parametrize("continuations", CONTINUATIONS)
def test_log_probabilities(served_model: ServedModel, local_model: LocalModel, continuations: list[list[int]]) -> None:
    prompts = prompts_of(served_model)
    np.testing.assert_allclose(
        rows(served_model, prompts, continuations), rows(local_model, prompts, continuations), atol=1e-5
    )


@pytest.mark.parametrize("continuations", CONTINUATIONS)
def test_log_probabilities_of_an_engine_that_only_echoes(
    engine: TestEngine, local_model: LocalModel, continuations: list[list[int]]
) -> None:
    engine.ignores = {"logprob_token_ids", "prompt_logprobs", "cache_salt", "priority", "return_token_ids"}
    model = open_model(engine.address.replace("vllm+", "openai+"), EngineOptions())
    assert model.found.abilities.own_tokens is OwnTokens.ECHO
    assert model.found.abilities.given_ids == 0
    prompts = prompts_of(model)
    np.testing.assert_allclose(
        rows(model, prompts, continuations), rows(local_model, prompts, continuations), atol=1e-5
    )
    model.close()


def test_equal_prompts_are_asked_for_once(served_model: ServedModel, engine: TestEngine) -> None:
    engine.asked.clear()
    rows(served_model, [(1, 2, 3)] * 50 + [(1, 2, 4)] * 50, [[7]])
    asked = [tuple(prompt) for body in engine.asked for prompt in body["prompt"]]
    assert asked.count((1, 2, 3)) == asked.count((1, 2, 4)) == 1


def test_greedy_generation(served_model: ServedModel, local_model: LocalModel) -> None:
    for ids in prompts_of(served_model)[:8]:
        assert list(served_model.generate_greedily(ids, 6)) == list(local_model.generate_greedily(ids, 6))


def test_banned_tokens_are_not_generated(served_model: ServedModel, local_model: LocalModel) -> None:
    ids = prompts_of(served_model)[0]
    banned = list(local_model.generate_greedily(ids, 3))
    expected = list(local_model.generate_greedily(ids, 3, banned=banned))
    assert list(served_model.generate_greedily(ids, 3, banned=banned)) == expected


def test_the_longest_prompt_is_read_and_predicted_behind(served_model: ServedModel, local_model: LocalModel) -> None:
    longest = tuple(index % 300 for index in range(served_model.info.context_length))
    np.testing.assert_allclose(rows(served_model, [longest], [[7]]), rows(local_model, [longest], [[7]]), atol=1e-5)
    shorter = longest[1:]
    np.testing.assert_allclose(
        rows(served_model, [shorter], [[7, 8]]), rows(local_model, [shorter], [[7, 8]]), atol=1e-5
    )


def test_an_interruption_ends_what_is_under_way(served_model: ServedModel, engine: TestEngine) -> None:
    class InterruptedError(BaseException):
        """As a worker's signal raises it."""

    def interrupt(*_: object) -> None:
        raise InterruptedError

    prompts = [(1, 2, index % 300, index // 300) for index in range(1000)]
    engine.hold.clear()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(InterruptedError):
            list(served_model.stream_log_probabilities(prompts, [[7]], max_tokens=256))
    finally:
        signal.signal(signal.SIGALRM, before)
    engine.hold.set()
    list(served_model.stream_log_probabilities([(1, 2, 3)], [[8]], max_tokens=256))
    assert sum(len(body["prompt"]) for body in engine.asked if body.get("logprob_token_ids") == [7]) < 200


def test_namespaces_have_salts_of_their_own(served_model: ServedModel, engine: TestEngine) -> None:
    def salts(namespace: str) -> set[str | None]:
        engine.asked.clear()
        rows(served_model.for_namespace(namespace), [(1, 2, 3)], [[7]])
        return {body.get("cache_salt") for body in engine.asked if [1, 2, 3] in body["prompt"]}

    assert salts("") == {None}
    [[one], [again], [other]] = [salts("one"), salts("one"), salts("other")]
    assert one == again != other
    assert "one" not in str(one)


def test_explanations_stand_back_and_the_key_is_sent(engine: TestEngine) -> None:
    engine.key = "secret"
    model = open_model(engine.address, EngineOptions(key="secret"))
    engine.asked.clear()
    rows(model, [(1, 2, 3)], [[7]])
    assert {body["priority"] for body in engine.asked if [1, 2, 3] in body["prompt"]} == {1}
    assert {each["Authorization"] for each in engine.headers} == {"Bearer secret"}
    model.close()


def test_a_wrong_key_is_named(engine: TestEngine) -> None:
    engine.key = "secret"
    with pytest.raises(ModelLoadError, match="GLOSS_ENGINE_KEY"):
        open_model(engine.address, EngineOptions(key="wrong"))


def test_what_the_engine_is(served_model: ServedModel) -> None:
    assert served_model.info.engine == "vllm 0.32.0+test"
    assert served_model.info.max_top_k == 20
    assert served_model.info.noise == 0
