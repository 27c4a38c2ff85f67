"""A server's memory after many calls and many callers that left is what it was after the first of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import grpc
import pytest

from deploy.process import Child
from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.fixtures.processes import environment
from tests.integration.serving import NO_REDIS


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat(tiny_llama: Path, tmp_path: Path) -> None:
    settings = environment(
        GLOSS_MODEL=str(tiny_llama), GLOSS_PORT="0", GLOSS_METRICS_PORT="0", GLOSS_REDIS_URL=NO_REDIS
    )
    child = Child("server", [sys.executable, "-m", "server"], tmp_path / "log", settings)
    try:
        address = child.wait_ready(120)["grpc"]
        with grpc.insecure_channel(address) as channel:
            stub = InferenceServiceStub(channel)

            def ask(count: int) -> None:
                for n in range(count):
                    ids = [2 + (n * step) % 390 for step in range(1, 65)]
                    stub.NextToken(pb.NextTokenRequest(prompts=[pb.Prompt(token_ids=pb.TokenIds(ids=ids))]), timeout=20)

            def leave(count: int) -> None:
                for _ in range(count):
                    prompt = pb.Prompt(token_ids=pb.TokenIds(ids=[5, 6, 7]))
                    stream = stub.Generate(pb.GenerateRequest(prompt=prompt, max_tokens=100), timeout=20)
                    next(stream)
                    stream.cancel()

            leave(10)
            ask(1000)
            before = resident_bytes(child.pid)
            ask(9000)
            leave(1000)
            ask(10)
            assert resident_bytes(child.pid) <= 1.03 * before
        assert child.terminate(20)
    finally:
        child.kill()
