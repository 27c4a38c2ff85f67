"""Engines that compute another model under the same name: none of its numbers counts as the first one's."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from ml.errors import EngineModelChangedError
from ml.explain import start
from ml.models.served.model import ServedModel, open_model
from ml.models.served.options import EngineOptions
from ml.spec import Budget, ExplanationSpec, Lime, Prompt
from tests.fixtures.engine import TestEngine
from tests.fixtures.served import LocalModel, SmallModel
from tests.unit.ml.models.served.answers import PROMPTS, values


def test_another_model_under_the_same_name(served_model: ServedModel, engine: TestEngine) -> None:
    engine.logits = SmallModel(served_model.info.vocabulary_size, seed=1)
    with pytest.raises(EngineModelChangedError, match="has changed"):
        values(served_model)


def test_a_change_in_the_middle_lets_no_number_of_the_new_model_through(
    served_model: ServedModel, local_model: LocalModel, engine: TestEngine
) -> None:
    prompts = [(1, 2, index % 300, index // 300) for index in range(1500)]
    own, other = engine.logits, SmallModel(served_model.info.vocabulary_size, seed=1)

    def logits(ids: Any) -> Any:
        return (own if sum(len(body["prompt"]) for body in engine.asked) < 600 else other)(ids)

    engine.asked.clear()
    engine.logits = logits
    seen = 0
    with pytest.raises(EngineModelChangedError):  # noqa: PT012 -- what came before it counts
        for batch in served_model.stream_log_probabilities(prompts, [[7]], max_tokens=256):
            seen += len(batch.indices)
            for index, row in zip(batch.indices, batch.rows, strict=True):
                np.testing.assert_allclose(row, local_model.log_probabilities(prompts[index], [7]), atol=1e-5)
    assert seen < 1500


def test_noise_is_no_change(engine: TestEngine, local_model: LocalModel) -> None:
    engine.noise = 0.002
    model = open_model(engine.address, EngineOptions())
    np.testing.assert_allclose(values(model), values(local_model), atol=0.02)
    model.close()


@pytest.mark.parametrize("continuations", [[[7]], [[7, 8, 9]], [[7, 8], [9, 10]]])
@pytest.mark.parametrize("ignored", [set(), {"logprob_token_ids", "prompt_logprobs", "return_token_ids"}])
def test_no_number_is_let_through_of_another_model_behind_a_router(
    continuations: list[list[int]], ignored: set[str], engine: TestEngine, local_model: LocalModel
) -> None:
    """Every third request goes to the other: nobody can tell which by asking for the fingerprint."""
    engine.ignores = ignored
    model = open_model(engine.address, EngineOptions(concurrency=16))
    other = SmallModel(model.info.vocabulary_size, seed=1)
    own, complete, requests = engine.logits, engine.completions, itertools.count()

    def routed(body: dict[str, Any]) -> dict[str, Any]:
        chosen = other if next(requests) % 3 == 2 else own
        with routing:
            engine.logits = chosen
            return complete(body)

    routing = threading.Lock()
    engine.completions = routed  # type: ignore[method-assign]
    with suppress(EngineModelChangedError):
        for batch in model.stream_log_probabilities(PROMPTS, continuations, max_tokens=256):
            for index, row in zip(batch.indices, batch.rows, strict=True):
                expected = [local_model.log_probabilities(PROMPTS[index], each) for each in continuations]
                np.testing.assert_allclose(row, np.concatenate(expected), atol=1e-5)
    model.close()


def test_a_checkpoint_is_of_the_weights_that_made_it(served_model: ServedModel, engine: TestEngine) -> None:
    assert served_model.unmarked(served_model.marked(b"values")) == b"values"
    again = open_model(engine.address, EngineOptions())
    assert again.unmarked(served_model.marked(b"values")) == b"values"
    engine.logits = SmallModel(served_model.info.vocabulary_size, seed=1)
    other = open_model(engine.address, EngineOptions())
    assert other.info.digest == served_model.info.digest
    assert other.unmarked(served_model.marked(b"values")) is None
    for damaged in (b"", b"values", served_model.marked(b"")[:30]):
        assert served_model.unmarked(damaged) is None
    again.close()
    other.close()


def test_an_attempt_goes_on_from_the_checkpoint_and_never_from_that_of_other_weights(
    served_model: ServedModel, engine: TestEngine
) -> None:
    asked = ExplanationSpec(Prompt("The king of the old town was ill"), Lime(), budget=Budget(max_evaluations=60))
    first = start(served_model, asked)
    *_, done = first
    again = start(served_model, asked, first.checkpoint())
    *_, resumed = again
    assert resumed.result.cost.evaluations == done.result.cost.evaluations  # none was computed anew
    assert resumed.result.attributions == done.result.attributions

    engine.logits = SmallModel(served_model.info.vocabulary_size, seed=1)
    other = open_model(engine.address, EngineOptions())
    *_, anew = start(other, asked, first.checkpoint())
    *_, expected = start(other, asked)
    assert anew.result.cost.evaluations > 60
    for one, two in zip(anew.result.attributions, expected.result.attributions, strict=True):
        assert one.attribution == pytest.approx(two.attribution, abs=1e-4)
    other.close()
