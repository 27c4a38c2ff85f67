"""A real worker process whose model an engine serves, and what becomes of jobs when the engine misbehaves.

One worker runs all of them: that takes seconds of a processor to start, and must survive each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis

from deploy.process import Child
from deploy.redis import RedisServer
from gloss import v1 as pb
from jobs.connection import connect
from jobs.store import ExplanationStore
from tests.fixtures.engine import Fault, TestEngine
from tests.fixtures.models import byte_level
from tests.fixtures.processes import READY_SECONDS, Process, environment
from tests.fixtures.served import LONGEST, SmallModel, small_model, tokenizer_folder
from tests.integration.explanations import ended, lime, model_of, under_way, wait_for
from tests.integration.test_worker import metric

__all__ = ["small_model", "tokenizer_folder"]

# The first test waits for the worker's start beside its own work.
pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def shared_engine(small_model: SmallModel, tokenizer_folder: str) -> Iterator[TestEngine]:
    """What the worker asks."""
    engine = TestEngine(byte_level(unknown="<unk>"), small_model, origin=tokenizer_folder, longest=LONGEST)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: TestEngine, small_model: SmallModel) -> Iterator[TestEngine]:
    """The engine, which does as it should again after the test."""
    yield shared_engine
    shared_engine.faults = []
    shared_engine.logits = small_model


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis that no other test empties."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def worker(shared_engine: TestEngine, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A worker of what the engine serves, with little patience."""
    settings = environment(
        GLOSS_MODEL=shared_engine.address, GLOSS_REDIS_URL=redis_url, GLOSS_ENGINE_PATIENCE_SECONDS="4"
    )
    child = Child("worker", [sys.executable, "-m", "worker"], tmp_path_factory.mktemp("worker") / "log", settings)
    process = Process("worker", child)
    try:
        process.ready = child.wait_ready(4 * READY_SECONDS)
        yield process
        assert process.stop() == 0, process.log
    finally:
        child.kill()
        print(process.log)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    """A client of the worker's Redis."""
    with connect(redis_url, patient=False) as client:
        yield client


@pytest.fixture
def model(worker: Process, client: Redis) -> pb.ModelVersion:
    """What the worker says that it holds."""
    return model_of(client, worker.ready["queue"])


def test_a_job_is_explained_and_its_requests_are_counted(
    worker: Process, model: pb.ModelVersion, store: ExplanationStore
) -> None:
    explanation = ended(store, store.create(lime(100, seed=10), model).name)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
    assert explanation.model.name == "tiny"
    assert metric(worker, 'gloss_engine_requests_total{outcome="ok"}') > 1  # type: ignore[arg-type]
    assert metric(worker, 'gloss_engine_prompt_tokens_total{kind="all"}') > 100 * 50  # type: ignore[arg-type]
    assert "HTTP" not in worker.log


def test_an_engine_that_stumbles_in_mid_job_costs_time_only(
    engine: TestEngine,
    model: pb.ModelVersion,
    store: ExplanationStore,
) -> None:
    engine.faults = [Fault(status=503), Fault(hang_up=True), Fault(status=429, headers={"Retry-After": "0.2"})]
    explanation = ended(store, store.create(lime(100, seed=11), model).name)
    assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED, explanation.error
    assert explanation.attempt == 1
    assert not engine.faults


@pytest.mark.slow
def test_an_engine_that_stays_away_fails_the_job_and_not_the_worker(
    engine: TestEngine,
    model: pb.ModelVersion,
    store: ExplanationStore,
) -> None:
    engine.faults = [Fault(status=503) for _ in range(10_000)]
    explanation = ended(store, store.create(lime(100, seed=12), model).name, timeout=60)
    assert explanation.state == pb.EXPLANATION_STATE_FAILED
    assert explanation.error.reason == pb.ERROR_REASON_ENGINE_UNAVAILABLE
    assert explanation.error.metadata["model"] == "tiny"
    engine.faults = []
    again = ended(store, store.create(lime(100, seed=13), model).name)
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
    explanation = ended(store, store.create(lime(5000, seed=14), model).name, timeout=60)
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
