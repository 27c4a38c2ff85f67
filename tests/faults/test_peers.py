"""Clients that take and do not give: unread streams, idle connections, calls that are never finished."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import grpc
import pytest

from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.faults import peers, traffic
from tests.faults.report import Measure, Row, keep, percentile
from tests.faults.stack import Stack, resident_bytes, wait_for
from tests.integration.test_unread import UNREADY

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STREAMS, CONNECTIONS, HALF_OPEN = 60, 2000, 500
SECONDS = 10.0
"""For which others are measured, alone and beside."""
SPARE_BYTES = 64 << 20
BOUND_BYTES = 512 << 20
"""No server may take more beside what it had, whatever its peers do: a very loose bound."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    peers.allowed(CONNECTIONS)  # before the server starts, which inherits the limit
    with Stack(tmp_path_factory.mktemp("peers")) as stack:
        stack.start_server()
        yield stack


def paused(stack: Stack) -> int:
    """Texts whose client does not read."""
    with urllib.request.urlopen(f"http://{stack.page}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return int(float(next(line for line in lines if line.startswith('gloss_generations{state="paused"}')).split()[1]))


def others(stack: Stack) -> list[float]:
    """Seconds of the calls that others make, one after the other."""
    with traffic.next_tokens(stack, pause=0.005) as asked:
        time.sleep(SECONDS)
    assert all(sample.ok for sample in asked.samples)
    return [sample.seconds for sample in asked.samples]


@contextmanager
def unread_streams(stack: Stack, count: int) -> Iterator[None]:
    request = pb.GenerateRequest(prompt=pb.Prompt(text=traffic.TEXT), max_tokens=400, top_k=1000)
    with grpc.insecure_channel(stack.address, UNREADY) as channel:
        calls = [InferenceServiceStub(channel).Generate(request, timeout=120) for _ in range(count)]
        wait_for(lambda: paused(stack) == count, timeout=60)
        yield
        for call in calls:
            call.cancel()


def idle(stack: Stack, count: int) -> AbstractContextManager[object]:
    return peers.connected(stack.address, count, peers.HELLO)


def half_open(stack: Stack, count: int) -> AbstractContextManager[object]:
    message = pb.NextTokenRequest(prompts=[pb.Prompt(text=traffic.TEXT * 40)]).SerializeToString()
    begun = peers.call("/gloss.v1.InferenceService/NextToken", message, sent=len(message) // 2)
    return peers.connected(stack.address, count, peers.HELLO + begun)


SCENARIOS: dict[str, tuple[Callable[[Stack, int], AbstractContextManager[object]], int]] = {
    "streams of 400 tokens and 1,000 alternatives each, on one connection, that nobody reads": (
        unread_streams,
        STREAMS,
    ),
    "idle connections": (idle, CONNECTIONS),
    "connections with half a request each, and no more": (half_open, HALF_OPEN),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_memory_comes_back_and_others_go_on(stack: Stack, scenario: str) -> None:
    open_them, wanted = SCENARIOS[scenario]
    count = peers.allowed(wanted)
    alone = others(stack)
    before = resident_bytes(stack.server.pid)
    with open_them(stack, count):
        beside = others(stack)
        peak = resident_bytes(stack.server.pid)
    spare = max(SPARE_BYTES, before // 10)
    deadline = time.monotonic() + 10
    while (after := resident_bytes(stack.server.pid)) - before > spare and time.monotonic() < deadline:
        time.sleep(0.1)
    mebibytes = 1 << 20
    keep(
        Row(
            f"{count:,} {scenario}",
            f"{len(beside)} NextToken of others meanwhile, {len(alone)} before",
            0,
            [
                Measure("memory beside before, afterwards", (after - before) / mebibytes, "MiB", spare // mebibytes),
                Measure("memory beside before, meanwhile", (peak - before) / mebibytes, "MiB"),
                Measure("others' p99, alone", 1e3 * percentile(alone, 99), "ms"),
                Measure("others' p99, times alone", percentile(beside, 99) / percentile(alone, 99), "", 2.0),
            ],
        )
    )
    assert stack.server.exit_code() is None
    assert peak - before < BOUND_BYTES
    assert after - before < BOUND_BYTES
    assert "Traceback" not in stack.server.output()
    wait_for(lambda: stack.inference.ListModels(pb.ListModelsRequest(), timeout=20).models)
