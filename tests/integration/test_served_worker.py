"""A real worker process whose model an engine serves, and what becomes of jobs when the engine misbehaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis

from gloss import v1 as pb
from jobs.store import ExplanationStore
from tests.fixtures.engine import Fault, TestEngine
from tests.fixtures.processes import Process, ProcessFactory
from tests.fixtures.served import SmallModel, engine, small_model, tokenizer_folder
from tests.integration.explanations import ended, lime, model_of, under_way, wait_for
from tests.integration.test_worker import metric

__all__ = ["engine", "small_model", "tokenizer_folder"]


@pytest.fixture
def worker(engine: TestEngine, worker_process: ProcessFactory) -> Process:
    """A worker of what the engine serves, with little patience."""
    return worker_process(GLOSS_MODEL=engine.address, GLOSS_ENGINE_PATIENCE_SECONDS="3")


@pytest.fixture
def model(worker: Process, client: Redis) -> pb.ModelVersion:
    """What the worker says that it holds."""
    return model_of(client, worker.ready["queue"])


def test_a_job_is_explained_and_its_requests_are_counted(
    worker: Process, model: pb.ModelVersion, store: ExplanationStore
) -> None:
    explanation = ended(store, store.create(lime(100), model).name)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
    assert explanation.model.name == "tiny"
    assert metric(worker, 'gloss_engine_requests_total{outcome="ok"}') > 1  # type: ignore[arg-type]
    assert metric(worker, 'gloss_engine_prompt_tokens_total{kind="all"}') > 100 * 50  # type: ignore[arg-type]


def test_an_engine_that_stumbles_in_mid_job_costs_time_only(
    engine: TestEngine,
    model: pb.ModelVersion,
    store: ExplanationStore,
) -> None:
    engine.faults = [Fault(status=503), Fault(hang_up=True), Fault(status=429, headers={"Retry-After": "0.2"})]
    explanation = ended(store, store.create(lime(100), model).name)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
    assert explanation.attempt == 1
    assert not engine.faults


def test_an_engine_that_stays_away_fails_the_job_and_not_the_worker(
    engine: TestEngine,
    model: pb.ModelVersion,
    store: ExplanationStore,
) -> None:
    engine.faults = [Fault(status=503) for _ in range(10_000)]
    explanation = ended(store, store.create(lime(100), model).name, timeout=30)
    assert explanation.state == pb.EXPLANATION_STATE_FAILED
    assert explanation.error.reason == pb.ERROR_REASON_ENGINE_UNAVAILABLE
    assert explanation.error.metadata["model"] == "tiny"
    engine.faults = []
    again = ended(store, store.create(lime(100, seed=1), model).name)
    assert again.state == pb.EXPLANATION_STATE_SUCCEEDED, again.error


def test_another_model_in_mid_job_fails_it(
    engine: TestEngine,
    model: pb.ModelVersion,
    store: ExplanationStore,
) -> None:
    own, other = engine.logits, SmallModel(len(engine.tokenizer), seed=1)
    engine.asked.clear()

    def logits(ids: Sequence[int]) -> Any:
        return (own if len(engine.asked) < 12 else other)(ids)

    engine.logits = logits
    explanation = ended(store, store.create(lime(5000), model).name, timeout=60)
    assert explanation.state == pb.EXPLANATION_STATE_FAILED
    assert explanation.error.reason == pb.ERROR_REASON_MODEL_CHANGED
    assert set(explanation.error.metadata) == {"model", "difference", "tolerance"}


def test_a_cancelled_job_leaves_the_engine_alone(
    engine: TestEngine,
    model: pb.ModelVersion,
    store: ExplanationStore,
) -> None:
    name = store.create(lime(100_000), model).name
    under_way(store, name)
    store.cancel(name)
    assert ended(store, name).state == pb.EXPLANATION_STATE_CANCELLED
    wait_for(lambda: engine.running == 0)
    asked = len(engine.asked)
    again = ended(store, store.create(lime(20, seed=3), model).name)
    assert again.state == pb.EXPLANATION_STATE_SUCCEEDED
    assert len(engine.asked) < asked + 50
