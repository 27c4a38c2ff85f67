"""SIGTERM while an engine takes requests and answers none: server and worker end in time, and no job is lost."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from redis import Redis

from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from jobs.store import ExplanationStore
from tests.fixtures.engine import TestEngine
from tests.fixtures.processes import Process, ProcessFactory
from tests.fixtures.served import engine, small_model, tokenizer_folder
from tests.integration.explanations import lime, model_of, wait_for

__all__ = ["engine", "small_model", "tokenizer_folder"]

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _released(engine: TestEngine) -> Iterator[None]:
    yield
    engine.hold.set()


def test_while_they_start(engine: TestEngine, server_process: ProcessFactory, worker_process: ProcessFactory) -> None:
    engine.hold.clear()
    for start in (server_process, worker_process):
        engine.asked.clear()
        process: Process = start(GLOSS_MODEL=engine.address, wait=False)
        wait_for(lambda: engine.asked, timeout=60)
        assert process.stop() == 0


def test_while_they_answer(
    engine: TestEngine,
    server_process: ProcessFactory,
    worker_process: ProcessFactory,
    client: Redis,
    store: ExplanationStore,
) -> None:
    settings = {"GLOSS_MODEL": engine.address, "GLOSS_GRACE_SECONDS": "1"}
    server, worker = server_process(settings), worker_process(settings)
    engine.hold.clear()
    with grpc.insecure_channel(server.grpc) as channel:
        request = pb.NextTokenRequest(prompts=[pb.Prompt(text="The king")])
        call = InferenceServiceStub(channel).NextToken.future(request, timeout=60)
        name = store.create(lime(1000), model_of(client, worker.ready["queue"])).name
        wait_for(lambda: engine.running >= 2)
        assert server.stop() == 0
        assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert worker.stop() == 0
    assert store.get(name).state == pb.EXPLANATION_STATE_QUEUED
