"""Health by service, reflection, and the process itself: readiness, signals, exit codes."""

from __future__ import annotations

import os
import signal
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from jobs import names
from jobs.attempts import AttemptStore
from jobs.connection import connect
from tests.integration import contract
from tests.integration.explanations import wait_for
from tests.integration.serving import serve

EXPLANATIONS, INFERENCE = "gloss.v1.ExplanationService", "gloss.v1.InferenceService"


def test_without_redis_inference_serves_and_explanations_do_not(served):
    assert served.health("") == "SERVING"
    assert served.health(INFERENCE) == "SERVING"
    assert served.health(EXPLANATIONS) == "NOT_SERVING"
    with pytest.raises(grpc.RpcError) as caught:
        served.health("no.such.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_explanations_serve_while_a_worker_is_alive(redis_url, load_model, tiny_gpt2):
    digest = load_model(tiny_gpt2).info.digest
    queue = names.queue("tiny-gpt2")
    with serve([tiny_gpt2], redis_url=redis_url) as server, connect(redis_url, patient=False) as client:
        stub = health_pb2_grpc.HealthStub(server.channel)
        stream = stub.Watch(health_pb2.HealthCheckRequest(service=EXPLANATIONS), timeout=20)
        statuses = health_pb2.HealthCheckResponse
        assert next(stream).status == statuses.NOT_SERVING
        worker = AttemptStore(client)
        worker.heartbeat(queue, digest, "w", 60)
        assert next(stream).status == statuses.SERVING
        worker.retire(queue, digest, "w")
        assert next(stream).status == statuses.NOT_SERVING
        stream.cancel()


def test_reflection_tells_the_contract(served):
    database = ProtoReflectionDescriptorDatabase(served.channel)
    assert {INFERENCE, EXPLANATIONS, "grpc.health.v1.Health"} <= set(database.get_services())
    described = database.FindFileContainingSymbol(INFERENCE)
    assert described.name == "gloss/v1/inference_service.proto"
    del database


@pytest.mark.processes
def test_a_process_serves_and_ends_by_sigterm_after_what_it_accepted(server_process, tiny_gpt2):
    server = server_process(GLOSS_MODEL=str(tiny_gpt2))
    with grpc.insecure_channel(server.grpc) as channel:
        stub = InferenceServiceStub(channel)
        prompts = [pb.Prompt(text="The capital of France is Paris.")] * 200
        calls = [stub.NextToken.future(pb.NextTokenRequest(prompts=prompts), timeout=20) for _ in range(3)]
        assert calls[0].result().predictions
        os.kill(server.pid, signal.SIGTERM)
        for call in calls[1:]:
            try:
                assert len(call.result().predictions) == 200
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 -- it came after the signal
    wait_for(lambda: server.child.exit_code() is not None)
    assert server.child.exit_code() == 0
    assert "capital of France" not in server.log


def test_a_taken_port_ends_the_process_with_one_line(server_process, tiny_gpt2):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        first = server_process(GLOSS_MODEL=str(tiny_gpt2), GLOSS_PORT=port, wait=False)
        second = server_process(GLOSS_MODEL=str(tiny_gpt2), GLOSS_METRICS_PORT=port, wait=False)
        for server, variable in [(first, "GLOSS_PORT"), (second, "GLOSS_METRICS_PORT")]:
            wait_for(lambda server=server: server.child.exit_code() is not None, timeout=60)
            assert server.child.exit_code() == 2
            assert f"port {port} is taken; set {variable}" in server.log
            assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("env", "code", "says"),
    [
        ({"GLOSS_HOST": "0.0.0.0"}, 2, "GLOSS_ALLOW_INSECURE=1"),  # noqa: S104 -- the address that is refused
        ({"GLOSS_PORT": "many"}, 2, "GLOSS_PORT"),
        pytest.param(
            {"GLOSS_MODEL": "/no/such/folder"}, 1, "cannot load model '/no/such/folder'", marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_be_done_ends_the_process_with_one_line(server_process, tiny_gpt2, env, code, says):
    server = server_process({"GLOSS_MODEL": str(tiny_gpt2), **env}, wait=False)
    wait_for(lambda: server.child.exit_code() is not None, timeout=60)
    assert server.child.exit_code() == code
    errors = [line for line in server.log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in server.log


def test_every_method_of_health_is_answered(served, caplog):
    (service,) = health_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods:
        assert contract.ask(served.channel, method, contract.request_of(method))
    stub = health_pb2_grpc.HealthStub(served.channel)
    statuses = stub.List(health_pb2.HealthListRequest(), timeout=20).statuses
    assert statuses[""].status == statuses["gloss.v1.InferenceService"].status == health_pb2.HealthCheckResponse.SERVING
    assert statuses["gloss.v1.ExplanationService"].status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not [record for record in caplog.records if record.exc_info]
