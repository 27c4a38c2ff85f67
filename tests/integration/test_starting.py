"""How a server and a worker start on a model: too large, damaged, or over several processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from server.ports import StartError
from tests.fixtures.processes import environment, processes_with
from tests.integration.explanations import wait_for
from tests.integration.serving import serve


def refusal(process):
    """The one line with which a process ends, and its exit code."""
    wait_for(lambda: process.child.exit_code() is not None, timeout=60)
    assert "Traceback" not in process.log
    [line] = [line for line in process.log.splitlines() if line.startswith("error: ")]
    return line, process.child.exit_code()


def truncated(folder, copy):
    shutil.copytree(folder, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    return copy


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["server_process", pytest.param("worker_process", marks=pytest.mark.slow)])
def test_a_model_that_does_not_fit_ends_the_process(kind, request, tiny_llama):
    start = request.getfixturevalue(kind)
    line, code = refusal(start(GLOSS_MODEL=str(tiny_llama), GLOSS_MAX_MODEL_BYTES="100000", wait=False))
    assert code == 1
    assert "the weights of 'tiny-llama' take 0.2 MiB in float32 and 0.1 MiB are available on cpu; free" in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["server_process", "worker_process"])
def test_a_damaged_model_ends_the_process(kind, request, tiny_llama, tmp_path):
    start = request.getfixturevalue(kind)
    line, code = refusal(start(GLOSS_MODEL=str(truncated(tiny_llama, tmp_path / "damaged")), wait=False))
    assert code == 1
    assert "damaged" in line
    assert "fetch them again" in line


def test_what_cannot_be_loaded_or_written_ends_the_start(tiny_llama, tmp_path):
    """As the processes of the slow tests, which print the message as one line and end with its code."""
    for folder, settings, code, said in (
        (truncated(tiny_llama, tmp_path / "damaged"), {}, 1, "damaged.*; fetch them again"),
        (tmp_path / "nowhere", {}, 1, "cannot load model '.*nowhere'"),
        (tiny_llama, {"audit_file": tmp_path / "no" / "where"}, 2, "^GLOSS_AUDIT_FILE: "),
    ):
        with pytest.raises(StartError, match=said) as refused, serve([folder], **settings):
            pass
        assert refused.value.exit_code == code


@pytest.mark.parametrize(
    ("module", "refused"),
    [
        ("server", {"GLOSS_API_KEYS_FILE": "/no such file"}),
        ("worker", {"GLOSS_METRICS_HOST": "203.0.113.1"}),  # an address of documents, nobody's own
        ("deploy.stack", {"GLOSS_PORT": "4711", "GLOSS_METRICS_PORT": "4711"}),
    ],
)
def test_a_misspelt_variable_is_warned_about_at_the_start(module, refused):
    env = environment(GLOSS_MAX_QUEUD="secret", **refused)
    command = [sys.executable, "-m", module]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "GLOSS_MAX_QUEUD is no setting of Gloss and changes nothing; did you mean GLOSS_MAX_QUEUED?" in ended.stderr
    assert "secret" not in ended.stderr


def http2(kind, flags, stream, payload):
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


@pytest.mark.processes
def test_serving_comes_after_loading_and_a_call_that_ends_grpc_ends_no_more_than_that(server_process, tiny_gpt2):
    """Two subjects in one process, as it takes seconds to start."""
    server = server_process(GLOSS_MODEL=str(tiny_gpt2))
    with grpc.insecure_channel(server.grpc) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    parts = ("loading model=", "weights_bytes=", "weights read in", "loaded model=", "warm model=", "ready grpc=")
    logged = [server.log.index(part) for part in parts]
    assert logged == sorted(logged)
    host, port = server.grpc.split(":")
    answered = ask(server.grpc)
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/no/\xff"),  # gRPC's Python server ends where this is not UTF-8
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    block = b"".join(b"\x00" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in headers)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2(4, 0, 0, b"") + http2(1, 4, 1, block))
        wait_for(lambda: "gRPC has ended by itself" in server.log)
    wait_for(lambda: answers(server.grpc))
    assert ask(server.grpc) == answered
    assert server.child.exit_code() is None
    assert server.log.count("server.loading loading model=") == 1
    os.kill(server.pid, signal.SIGTERM)
    wait_for(lambda: server.child.exit_code() is not None)
    assert server.child.exit_code() == 0


def answers(address):
    """Whether a server says that it serves."""
    with grpc.insecure_channel(address) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
    return True


def ask(address):
    """What a server answers: a next token, weights of attention, a text."""
    with grpc.insecure_channel(address) as channel:
        stub = InferenceServiceStub(channel)
        prompt = pb.Prompt(text="The capital of France is")
        tokens = stub.NextToken(pb.NextTokenRequest(prompts=[prompt], top_k=3), timeout=20).predictions[0].top
        weights = stub.Attention(pb.AttentionRequest(prompt=prompt), timeout=20).weights
        text = [step.text for step in stub.Generate(pb.GenerateRequest(prompt=prompt, max_tokens=8), timeout=20)]
    return [(token.id, pytest.approx(token.probability, abs=1e-5)) for token in tokens], list(weights.shape), text


@pytest.mark.slow
def test_a_tensor_parallel_server_answers_alike_and_does_not_outlive_its_ranks(server_process, tiny_llama):
    pytest.importorskip("accelerate")
    divided = server_process(GLOSS_MODEL=str(tiny_llama), GLOSS_TENSOR_PARALLEL="2")
    with serve([tiny_llama]) as whole:
        assert ask(divided.grpc) == ask(f"127.0.0.1:{whole.server.port}")
    # One stops in good order, of the other a rank is killed.
    assert divided.stop() == 0
    assert "ranks" not in divided.log
    divided = server_process(GLOSS_MODEL=str(tiny_llama), GLOSS_TENSOR_PARALLEL="2")
    ranks = [line for line in processes_with("GLOSS_MODEL", str(tiny_llama)) if "ml.models.follower" in line]
    assert len(ranks) == 1
    os.kill(int(ranks[0].partition(":")[0]), signal.SIGKILL)
    wait_for(lambda: divided.child.exit_code() is not None)
    assert divided.child.exit_code() == 1
    assert "rank 1 of the tensor-parallel model ended with -9" in divided.log
